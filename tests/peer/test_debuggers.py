"""Debuggers open the core files that xsave writes, and see the guest in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import drgn
import pytest
from volatility3.framework import contexts
from volatility3.framework.layers import elf, physical

import xsave

DATA = Path(__file__).parents[1] / "data"
INIT_UTS_NS = 0xFFFFFFFF82BFB100  # of the kernel in the larger images, by its VMCOREINFO


@pytest.fixture(scope="module")
def cores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("cores")
    made = {}
    for name in ("pv1", "pvh1"):
        made[name] = folder / f"{name}.vmcore"
        xsave.run(DATA / f"{name}.redacted.save.zst", made[name])
    made["hvmbios"] = folder / "hvmbios.vmcore"
    xsave.run(DATA / "hvmbios.save.zst", made["hvmbios"])
    return made


@pytest.mark.gdb
@pytest.mark.parametrize(
    ("name", "rip", "rsp"),
    [
        ("pv1", "0xffffffff81a39075", "0xffffc90040083e30"),
        ("pvh1", "0xffffffff81a38a43", "0xffffc90000093e40"),
        ("hvmbios", "0xb7b9", "0x6f94"),
    ],
)
def test_gdb_sees_the_vcpus_registers(
    cores: dict[str, Path], name: str, rip: str, rsp: str
) -> None:
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", "info registers rip rsp", "/dev/null", cores[name]],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    lines = [line.split()[:2] for line in done.stdout.splitlines() if line[:3] in ("rip", "rsp")]
    assert lines == [["rip", rip], ["rsp", rsp]]


def test_drgn_reads_memory_by_physical_address(cores: dict[str, Path]) -> None:
    program = drgn.Program()
    program.set_core_dump(cores["pv1"])
    found = xsave.read_pfns(DATA / "pv1.redacted.save.zst", range(0x2A00, 0x2B00))
    pages = {pfn: page for pfn, (_, page) in found.items() if page is not None and page.any()}
    assert len(pages) > 5
    for pfn, page in pages.items():
        assert program.read(pfn * 4096, 4096, physical=True) == page.tobytes()


@pytest.mark.images
@pytest.mark.parametrize("name", ["pv1", "pvh1"])
def test_drgn_walks_the_guests_page_tables_to_its_version(tmp_path: Path, name: str) -> None:
    core = tmp_path / "guest.vmcore"
    xsave.run(Path(os.environ["XSAVE_IMAGES"]) / f"{name}.save", core)
    program = drgn.Program()
    program.set_core_dump(core)
    assert program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    names = program.read(INIT_UTS_NS, 400)
    assert names.startswith(b"Linux\0")
    assert b"6.1.0-50-amd64\0" in names


# In a process of its own: volatility forgets a file that it has open.
XEN_LAYER = """
import sys
from volatility3.framework import contexts
from volatility3.framework.layers import physical, xen
context = contexts.Context()
context.config["base.location"] = sys.argv[1]
context.layers.add_layer(physical.FileLayer(context, "base", "base"))
context.config["core.base_layer"] = "base"
context.layers.add_layer(xen.XenCoreDumpLayer(context, "core", "core"))
for pfn in sys.argv[2:]:
    sys.stdout.buffer.write(context.layers["core"].read(int(pfn) * 4096, 4096))
"""


def test_volatility_opens_a_core_of_xens_own_format(tmp_path: Path) -> None:
    image, core = DATA / "pvh1.redacted.save.zst", tmp_path / "guest.core"
    xsave.run(image, core, to="xen-core")
    found = xsave.read_pfns(image, range(0x5600, 0x5700))
    pages = {pfn: page for pfn, (_, page) in found.items() if page is not None and page.any()}
    assert len(pages) > 5
    read = subprocess.run(
        [sys.executable, "-c", XEN_LAYER, core.as_uri(), *map(str, pages)],
        capture_output=True, check=True,
    )  # fmt: skip
    assert read.stdout == b"".join(page.tobytes() for page in pages.values())


# volatility3 names a schema that jsonschema does not know; it asks only when its own cache is empty
@pytest.mark.filterwarnings("ignore:The metaschema specified by:DeprecationWarning")
@pytest.mark.parametrize("name", ["pv1", "pvh1"])
def test_volatility_opens_it_as_a_layer_of_memory(cores: dict[str, Path], name: str) -> None:
    context = contexts.Context()
    context.config["base.location"] = cores[name].as_uri()
    context.layers.add_layer(physical.FileLayer(context, "base", "base"))
    context.config["core.base_layer"] = "base"
    context.layers.add_layer(elf.Elf64Layer(context, "core", "core"))
    found = xsave.read_pfns(DATA / f"{name}.redacted.save.zst", range(0x2A00, 0x2B00))
    for pfn, (_, page) in found.items():
        if page is not None:
            assert context.layers["core"].read(pfn * 4096, 4096) == page.tobytes()
    context.layers["base"].destroy()
