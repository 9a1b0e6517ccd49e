"""Debuggers see the guests of images that xsave saves on a real Xen; and what Xen dumps of its
guests is read.

More is looked at where the debug information of the guests' kernel is (``XSAVE_VMLINUX``, or
Debian's ``linux-image-*-dbg``): their tasks and their logs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import drgn
import pytest
from drgn.helpers.linux import for_each_task
from drgn.helpers.linux.printk import get_dmesg
from lab.guest import Guest
from lab.host import Host

import xsave
import xsave_drgn
from tests.conftest import find_vmlinux

pytestmark = pytest.mark.xen

GetGuest = Callable[[str], Guest]
HVM_LINUX = Path(__file__).parent / "hvm_linux.cfg"


def init_uts_ns(core: Path) -> int:
    """Where the guest's kernel says that its own name is."""
    (lines,) = (
        note["lines"]
        for note in xsave.read_record(core, "core.notes").item.fields["notes"]
        if note["name"] == "VMCOREINFO"
    )
    (address,) = (
        line.partition("=")[2] for line in lines if line.startswith("SYMBOL(init_uts_ns)")
    )
    return int(address, 16)


def check_tasks(prog: drgn.Program, vmlinux: Path, release: str) -> None:
    prog.load_debug_info([vmlinux])
    tasks = {task.pid.value_(): task.comm.string_().decode() for task in for_each_task(prog)}
    assert tasks[2] == "kthreadd"
    assert {"init", "xenwatch"} <= set(tasks.values())
    assert f"Linux version {release} " in get_dmesg(prog).decode()


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm_linux"])
def test_drgn_sees_the_guest_in_an_image_and_in_the_core_file_of_it(
    host: Host, get_guest: GetGuest, tmp_path: Path, kind: str
) -> None:
    host.put("/root/guests/hvm_linux.cfg", HVM_LINUX.read_bytes())
    guest = get_guest(kind)
    host.run(f"cd /root; xsave run xen:{guest.name} image.xsv --codec zstd:1 --no-live -q")
    image, core = tmp_path / "image.xsv", tmp_path / "guest.vmcore"
    image.write_bytes(host.get("/root/image.xsv"))
    xsave.run(image, core)

    release = host.run("uname -r").strip()  # dom0 has the same kernel
    from_core = drgn.Program()
    from_core.set_core_dump(core)
    for prog in (from_core, xsave_drgn.program(image)):
        assert prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
        assert release.encode() + b"\0" in prog.read(init_uts_ns(core), 400)
        if (vmlinux := find_vmlinux(release)) is not None:
            check_tasks(prog, vmlinux, release)


def test_what_xen_dumps_of_a_guest_is_read(host: Host, get_guest: GetGuest, tmp_path: Path) -> None:
    """Of a PV guest: Xen asks pfn by pfn what an HVM guest has, up to 4 GiB."""
    guest = get_guest("pv")
    host.xl(f"dump-core {guest.name} /root/guest.core")
    host.run("cd /root; xsave run guest.core core.xsv --codec zstd:1 -q; rm guest.core")
    image, again = tmp_path / "core.xsv", tmp_path / "again.core"
    image.write_bytes(host.get("/root/core.xsv"))
    xsave.run(image, again, to="xen-core")
    for path in (image, again):
        info = xsave.read_record(path, "core.xen_info").item.fields
        assert (info["guest"], info["nr_vcpus"], info["nr_pages"]) == ("pv", 1, 96 * 256)
        assert info["xen_version"].startswith("4.")
        with xsave.open_memory(path) as memory:
            assert sum(size for _, size in memory.ranges()) == 96 << 20
            text = xsave_drgn.find_vmcoreinfo(memory).decode()
        assert f"OSRELEASE={host.run('uname -r').strip()}\n" in text
