"""drgn reads a guest's memory in an image, physical and through the guest's page tables."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import drgn
import numpy as np
import pytest
import xsave

import xsave_drgn
from xsave_drgn.command import main

PAGE = 4096
KERNEL = 0xFFFFFFFF80000000  # virtual address of physical 0 in a kernel that is not moved
TABLES, TEXT, INFO = 1, 16, 32  # pfns: four tables; what is mapped; VMCOREINFO
LINES = (
    "OSRELEASE=6.1.0-test",
    f"PAGESIZE={PAGE}",
    f"SYMBOL(swapper_pg_dir)={KERNEL + TABLES * PAGE:x}",
    "SYMBOL(init_uts_ns)=0",
    "NUMBER(phys_base)=0",
    "NUMBER(pgtable_l5_enabled)=0",
    "KERNELOFFSET=0",
)
VMCOREINFO = "\n".join(LINES).encode() + b"\n"


def note(text: bytes) -> bytes:
    return struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text


def table(slot: int, pfn: int) -> bytes:
    entries = [0] * 512
    entries[slot] = pfn << 12 | 3
    return struct.pack("<512Q", *entries)


class Guest:
    """A reader of a guest that maps one page of text at the end of its address space."""

    def __init__(self, pages: dict[int, bytes]) -> None:
        self.info = xsave.ImageInfo("made", xsave.GuestType.UNKNOWN)
        self._pages = pages

    def __iter__(self) -> Iterator[xsave.PageBatch]:
        pfns = np.array(sorted(self._pages), np.uint64)
        contents = b"".join(self._pages[pfn].ljust(PAGE, b"\0") for pfn in pfns.tolist())
        pages = np.frombuffer(contents, np.uint8).reshape(-1, PAGE)
        yield xsave.PageBatch(xsave.RecordType("core.page_data"), pfns, pages, len(pfns))


PAGES = {
    TABLES: table(511, TABLES + 1), TABLES + 1: table(510, TABLES + 2),
    TABLES + 2: table(8, TABLES + 3), TABLES + 3: table(5, TEXT),
    TEXT: b"what the kernel says",
    20: note(b"OSRELEASE=%s\n"), 21: b"x" * 12 + note(VMCOREINFO + b"more"),
    22: note(b"OSRELEASE=short\n"), INFO: note(VMCOREINFO),
}  # fmt: skip
MAPPED = KERNEL + (8 << 21) + (5 << 12)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "guest.xsv"
    xsave.run(Guest(PAGES), path, codec="zstd:1")
    return path


def test_memory_is_read_through_the_guests_page_tables(image: Path) -> None:
    prog = xsave_drgn.program(image)
    assert prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    assert prog.read(MAPPED, 20) == PAGES[TEXT]
    assert prog.read(TEXT * PAGE + 5, 3, physical=True) == b"the"
    with pytest.raises(drgn.FaultError):
        prog.read(MAPPED + PAGE, 1)
    with pytest.raises(drgn.FaultError):
        prog.read(0x5000, 1, physical=True)


def test_the_kernels_note_is_found_among_what_looks_like_it(image: Path) -> None:
    with xsave.open_memory(image) as memory:
        assert xsave_drgn.find_vmcoreinfo(memory) == VMCOREINFO


def test_an_image_without_it_is_physical_memory_unless_one_is_given(tmp_path: Path) -> None:
    path = tmp_path / "guest.xsv"
    xsave.run(Guest({pfn: page for pfn, page in PAGES.items() if pfn < 20}), path)
    prog = xsave_drgn.program(path)
    assert not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    assert prog.read(TEXT * PAGE, 4, physical=True) == b"what"
    told = xsave_drgn.program(path, vmcoreinfo=VMCOREINFO)
    assert told.read(MAPPED, 4) == b"what"


def test_a_core_file_with_machine_frames_is_refused(image: Path, tmp_path: Path) -> None:
    core = tmp_path / "guest.core"
    xsave.run(image, core, to="xen-core")
    with pytest.raises(xsave_drgn.NotForDrgnError, match="machine frames"):
        xsave_drgn.program(core)


def test_a_script_is_run_with_the_program(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "says.py"
    script.write_text(f"import sys\nprint(prog.read({MAPPED}, 4), sys.argv[1:])\n")
    assert main([str(image), str(script), "more"]) == 0
    assert capsys.readouterr().out == "b'what' ['more']\n"


def test_what_cannot_be_opened_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"hello")
    assert main([str(other)]) == 3
    assert capsys.readouterr().err.startswith("xsave-drgn: error: the input is of no known format")
