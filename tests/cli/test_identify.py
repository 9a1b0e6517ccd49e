"""``xsave identify`` names every format of docs/formats/README.md."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import struct
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest

import xsave
from tests.cli.test_verify import Run, Valid
from tests.plugins.legacy import build as o
from tests.plugins.qemu_device import streams as q
from tests.plugins.xen_stream import build as b
from xsave_plugins.codecs import zstd

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "formats" / "README.md").read_text()
HVM = b.libxl(b.libxc(b.hvm()), [b.emulator(), b.Rec(b.LIBXL_END)])
ELF = struct.Struct("<4sBBB9xHHIQQQIHHHHHH")


def elf(file_type: int, nr_programs: int, nr_sections: int) -> bytes:
    return ELF.pack(
        b"\x7fELF", 2, 1, 1, file_type, 62, 1, 0, 64 * (nr_programs > 0), 64, 0, 64, 56,
        nr_programs, 64, nr_sections, 1,
    ) + bytes(448)  # fmt: skip


def narrow_elf() -> bytes:
    """The head of a core file of 32 bits with two segments."""
    head = bytearray(elf(4, 0, 0))
    head[4] = 1
    head[44:46] = (2).to_bytes(2, "little")
    return bytes(head)


def xapi() -> bytes:
    sexpr = b"((time 0)(word_size 64)(xs_subtree ()))"
    part = struct.Struct("<QQ")
    return (
        b"XenSavedDomv2-\n" + part.pack(0xF, len(sexpr)) + sexpr + part.pack(0xF0, 0)
        + b.libxc(b.hvm()) + part.pack(0xF00, 9) + o.QEVM + part.pack(0xFFFF, 0)
    )  # fmt: skip


# Of each row of the table: format, and bytes that begin so.
ROWS: list[tuple[str, bytes]] = [
    ("xl", b.xl(HVM)),
    ("xl-legacy", o.xl(o.hvm(8))),
    ("xl-legacy", o.xl(o.pv(4), b"name = 'x'\n", 0)),
    ("libxl", HVM),
    ("libxc", b.libxc(b.pv())),
    ("libxc", b.libxc(b.pv(2), version=2)),
    ("xend", o.xend(o.pv(8))),
    ("xend", b"receive\n" + o.xend(o.pv(8))),
    ("xapi", xapi()),
    ("xapi-legacy", o.xapi(o.pv(4))),
    ("libvirt", o.libvirt(HVM, version=2)),
    ("libvirt-legacy", o.libvirt(o.hvm(8))),
    ("xl-migrate", o.BANNER + b.xl(HVM) + b"".join(o.MESSAGES) + b"\0"),
    ("xl-migrate-legacy", o.BANNER + o.xl(o.hvm(8))),
    ("xl-migrate-receiver", o.BANNER + b"".join(o.MESSAGES)),
    ("libvirt-qemu", b"LibvirtQemudSave" + struct.pack("<IIII", 2, 9, 1, 0) + bytes(60)),
    ("libvirt-qemu", b"LibvirtQemudPart" + bytes(76)),
    ("qemu", q.stream()),
    ("qemu", q.HEAD + q.blocks()),
    ("qemu-record", o.QEVM),
    ("qemu-record", q.HEAD + q.devices()),
    ("qemu-record", o.qemu()),
    ("qemu-record", o.qemu(b"RemusDeviceModelState")),
    ("qemu-record", o.xapi_qemu()),
    ("hvm-context", b.golden("xen.hvm.context.hvm")),
    ("xen-core", elf(4, 0, 7)),
    ("vmcore", elf(4, 3, 0)),
    ("vmcore-32", narrow_elf()),
    ("xen-core-old", bytes.fromhex("edeb0ff0") + bytes(20)),
    ("xen-core-old", bytes.fromhex("eeeb0ff0") + bytes(20)),
    ("xenstored", b"xenstore\0\0\0\2" + bytes(4)),
    ("native", (ROOT / "tests" / "golden" / "native" / "v1.0-pv-none.xsv").read_bytes()),
    *[("legacy", make(w)) for make in (o.pv, o.hvm) for w in (4, 8)],
]  # fmt: skip
WRAPPERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstd._library().compress, "gzip": gzip.compress, "xz": lzma.compress,
    "lz4": lz4.frame.compress, "bzip2": bz2.compress,
}  # fmt: skip


def test_the_table_of_the_documentation_is_what_is_tried_here() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| .+ \|$", TABLE, re.MULTILINE)
    named = {name for _, cell in rows for name in re.findall(r"`([a-z0-9-]+)`", cell)}
    assert named == {name for name, _ in ROWS}
    assert all(name in TABLE for name in WRAPPERS)


@pytest.mark.parametrize(("name", "data"), ROWS, ids=[name for name, _ in ROWS])
def test_every_row_of_the_table_is_named(
    name: str, data: bytes, manager: xsave.PluginManager
) -> None:
    found = xsave.identify(io.BytesIO(data), manager=manager)
    assert (found.name, found.fault, found.others) == (name, "", [])
    assert found.summary and found.why
    unread = re.search(rf"`{name}`[^|]*\| named, not read", TABLE)
    assert found.readable == (unread is None)
    assert (found.info is None) == (unread is not None)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("name", "data"), [r for r in ROWS if r[0] in ("xl", "xend", "legacy")])
def test_every_row_is_named_in_every_wrapper(
    wrapper: str, name: str, data: bytes, manager: xsave.PluginManager
) -> None:
    pack = WRAPPERS[wrapper]
    for layers in (1, 2):
        data = pack(data)
        found = xsave.identify(io.BytesIO(data), manager=manager)
        assert (found.name, found.codecs) == (name, [wrapper] * layers)
        if found.readable:
            report = xsave.verify(io.BytesIO(data), manager=manager)
            assert report.source.format == name


@pytest.mark.parametrize(
    "data",
    [
        b"", b"hello", bytes(8192), elf(2, 3, 0), elf(4, 0, 0), elf(3, 9, 30), b"xenstore\0\0\0\7",
        b"\x7fELF", b"QEVE", b"Xen saved domain", b"\x1f\x8b\x07" + bytes(99), b"%PDF-1.4\n",
    ],
)  # fmt: skip
def test_what_is_none_of_them_is_not_taken_for_one(
    data: bytes, manager: xsave.PluginManager
) -> None:
    with pytest.raises(xsave.UnrecognisedError, match=r"no known format"):
        xsave.identify(io.BytesIO(data), manager=manager)


def test_it_is_told_as_text(tmp_path: Path, run_xsave: Run) -> None:
    path = tmp_path / "old.gz"
    path.write_bytes(gzip.compress(o.xl(o.hvm(8))))
    done = run_xsave("identify", str(path))
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [
        f"{path}  gzip, in it xl-legacy: xl save file of Xen 4.1 to 4.5",
        "  why       bytes 0-31 are xl's magic; mandatory flags 0x1 at 36 have bit 1 clear: a "
        "legacy stream follows",
        "  holds     xl-legacy image of an x86_hvm guest",
        "  saved by  a toolstack of 64 bits",
        "  here      read",
    ]


def test_it_is_told_as_json(tmp_path: Path, run_xsave: Run, valid: Valid) -> None:
    for name, data in ROWS:
        path = tmp_path / "file"
        path.write_bytes(data)
        if name not in ("xl", "legacy", "xen-core-old"):
            continue
        told = valid(run_xsave("identify", "--json", str(path)).stdout)
        assert told["format"] == name
        assert told["readable"] == (name != "xen-core-old")


def test_a_file_whose_headers_are_wrong_is_named_with_what_is_wrong(
    tmp_path: Path, run_xsave: Run, valid: Valid
) -> None:
    path = tmp_path / "cut"
    path.write_bytes(b.xl(HVM)[:60])
    done = run_xsave("identify", str(path))
    assert done.returncode == 0
    assert "  but   the image is cut: xl optional data at offset 0x30" in done.stdout.decode()
    assert valid(run_xsave("identify", "--json", str(path)).stdout)["info"] is None


def test_an_unknown_file_is_exit_code_3(tmp_path: Path, run_xsave: Run) -> None:
    path = tmp_path / "what"
    path.write_bytes(b"what is this")
    done = run_xsave("identify", str(path))
    assert done.returncode == 3
    assert done.stderr.startswith(b"xsave: error: the input is of no known format: it begins with")


def test_reading_what_is_only_named_says_why_it_is_not_read(tmp_path: Path, run_xsave: Run) -> None:
    path = tmp_path / "core"
    path.write_bytes(bytes.fromhex("edeb0ff0") + bytes(20))
    done = run_xsave("verify", str(path))
    assert done.returncode == 3
    assert "recognised, and not read: core file of Xen before" in done.stderr.decode()


def test_json_ends_in_one_line(tmp_path: Path, run_xsave: Run) -> None:
    path = tmp_path / "image"
    path.write_bytes(o.pv(8))
    text = run_xsave("identify", "--json", str(path)).stdout
    assert text.count(b"\n") == 1
    assert json.loads(text)["schema"] == "xsave/identify/1"
