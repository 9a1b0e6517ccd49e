"""A core file holds what a restored guest would have, where a debugger looks for it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.native.batches import batch, ordinary, page
from xsave.io.sink import open_sink
from xsave.testing import MemoryFile, MemorySink, MemorySource
from xsave.testing.strategies import damaged
from xsave_plugins.core_files import elf, vmcore_writer
from xsave_plugins.core_files.formats import VmcoreFormat
from xsave_plugins.core_files.records import NOTES

DATA = Path(__file__).parents[2] / "data"
FORMAT = VmcoreFormat()
INFO = xsave.ImageInfo("xl", xsave.GuestType.X86_HVM)


def write(events: Sequence[xsave.Event], **options: Any) -> bytes:
    file = MemoryFile()
    writer = FORMAT.writer(file, INFO, xsave.WriteOptions(**options))
    for event in events:
        writer.put(event)
    writer.finish()
    assert not file.data
    return bytes(file.whole)


def read(data: bytes, mode: xsave.PageMode = xsave.PageMode.FULL) -> list[xsave.Event]:
    return list(FORMAT.reader(MemorySource(data), xsave.ReadOptions(pages=mode)))


def memory(events: Sequence[xsave.Event]) -> dict[int, bytes]:
    found = {}
    for event in events:
        if isinstance(event, xsave.PageBatch):
            assert event.pages is not None
            found.update(zip(event.pfns.tolist(), map(bytes, event.pages), strict=True))
    return found


def segments(data: bytes) -> Iterator[elf.Segment]:
    header = elf.Header.decode_at(data, 0)
    for number in range(header.phnum):
        yield elf.Segment.decode_at(data, header.phoff + number * elf.Segment.SIZE)


def test_pages_come_back_by_their_addresses() -> None:
    events = [ordinary(0, [1, 2, 0]), ordinary(16, [3])]
    data = write(events)
    assert memory(read(data)) == {0: page(1), 1: page(2), 2: page(0), 16: page(3)}
    loads = [one for one in segments(data) if one.type == elf.PT_LOAD]
    assert [(one.paddr, one.filesz) for one in loads] == [(0, 3 * 4096), (16 * 4096, 4096)]
    for one in loads:
        assert one.memsz == one.filesz
        assert data[one.offset : one.offset + 4096] == page(1 if one.paddr == 0 else 3)


def test_the_last_mention_of_a_page_counts() -> None:
    gone = batch([(15, 1), (13, 2)], [])
    data = write([ordinary(0, [1, 2, 3]), ordinary(0, [4]), gone])
    assert memory(read(data)) == {0: page(4)}


def test_page_tables_are_pages_like_others() -> None:
    tables = batch([(1, 0), (12, 1)], [page(1), page(2)])
    assert memory(read(write([tables]))) == {0: page(1), 1: page(2)}


def test_a_guest_without_memory_is_a_core_file_all_the_same() -> None:
    data = write([])
    assert read(data) == []
    assert FORMAT.sniff(data)


@settings(deadline=None)
@given(data=st.data())
def test_whatever_comes_in_any_order_memory_is_what_a_guest_would_have(
    data: st.DataObject,
) -> None:
    pfns = st.lists(st.integers(0, 60), min_size=1, max_size=8)
    expected: dict[int, bytes] = {}
    events = []
    for _ in range(data.draw(st.integers(1, 4))):
        chosen = data.draw(pfns)
        kinds = [data.draw(st.sampled_from([0, 0, 1, 13, 14, 15])) for _ in chosen]
        contents = [page(data.draw(st.integers(0, 5))) for kind in kinds if kind < 13]
        events.append(batch(list(zip(kinds, chosen, strict=True)), contents))
        rest = iter(contents)
        for kind, pfn in zip(kinds, chosen, strict=True):
            if kind < 13:
                expected[pfn] = next(rest)
            else:
                expected.pop(pfn, None)
    written = write(events)
    assert memory(read(written)) == expected
    skipped = read(written, xsave.PageMode.SKIP)
    assert sum(e.nr_pages for e in skipped if isinstance(e, xsave.PageBatch)) == len(expected)


def test_many_segments_find_room_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmcore_writer, "DATA_OFFSET", 4096)
    events = [ordinary(pfn, [pfn + 1]) for pfn in range(0, 200, 2)]
    data = write(events)
    header = elf.Header.decode_at(data, 0)
    assert header.phoff > 4096
    loads = [one for one in segments(data) if one.type == elf.PT_LOAD]
    assert len(loads) == 100
    assert data[loads[7].offset :][:4096] == page(15)


def test_more_segments_than_a_header_can_count_are_counted_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(elf, "PN_XNUM", 50)
    data = write([ordinary(pfn, [1]) for pfn in range(0, 200, 2)])
    header = elf.Header.decode_at(data, 0)
    assert (header.phnum, header.shnum) == (50, 1)
    assert elf.Section.decode_at(data, header.shoff).info == 101


def test_a_pipe_is_refused() -> None:
    with pytest.raises(xsave.OutputError, match="cannot be written into a pipe"):
        FORMAT.writer(MemorySink(), INFO, xsave.WriteOptions())


# Registers and notes.


@pytest.fixture(scope="module")
def cores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of the redacted real images: registers of addresses and control are in them."""
    folder = tmp_path_factory.mktemp("cores")
    made = {}
    for name in ("pv1", "pvh1"):
        made[name] = folder / f"{name}.vmcore"
        xsave.run(DATA / f"{name}.redacted.save.zst", made[name])
    return made


@pytest.mark.parametrize(
    ("name", "rip", "rsp", "cs"),
    [
        ("pv1", 0xFFFFFFFF81A39075, 0xFFFFC90040083E30, 0xE033),
        ("pvh1", 0xFFFFFFFF81A38A43, 0xFFFFC90000093E40, 0x10),
    ],
)
def test_each_vcpu_is_a_thread_with_its_registers(
    cores: dict[str, Path], name: str, rip: int, rsp: int, cs: int
) -> None:
    (note, *_) = xsave.read_record(cores[name], NOTES).item.fields["notes"]
    assert (note["name"], note["thread"]) == ("CORE", 1)
    registers = note["registers"]
    assert (registers["rip"], registers["rsp"], registers["cs"]) == (rip, rsp, cs)


def test_what_qemu_would_say_of_a_vcpu_is_there_for_hvm_guests(cores: dict[str, Path]) -> None:
    notes = xsave.read_record(cores["pvh1"], NOTES).state.notes
    (state,) = [note.desc for note in notes if note.name == "QEMU"]
    assert len(state) == 440
    version, size = struct.unpack_from("<II", state)
    assert (version, size) == (1, 440)
    selector, limit, flags, _, base = struct.unpack_from("<IIIIQ", state, 152)
    assert (selector, limit, flags, base) == (0x10, 0xFFFFFFFF, 0xA09B00, 0)
    cr0, _, _, cr3, _ = struct.unpack_from("<5Q", state, 392)
    assert (cr0 >> 31, cr3) == (1, 0x5620000)


def test_holes_take_no_room(cores: dict[str, Path]) -> None:
    status = cores["pvh1"].stat()
    assert status.st_size > 3 << 30
    assert status.st_blocks * 512 < 200 << 20


def test_many_zero_pages_take_no_room_wherever_they_are(tmp_path: Path) -> None:
    """Also the last ones of the file, and not where something else was sent before."""
    many = [0] * 256
    events = [
        ordinary(0, [1, *many, 2]), ordinary(512, many), ordinary(1024, [3] * 256),
        ordinary(1024, many), ordinary(2048, many),
    ]  # fmt: skip
    path = tmp_path / "core"
    with open_sink(path) as sink:
        assert isinstance(sink, xsave.RandomSink)
        writer = FORMAT.writer(sink, INFO, xsave.WriteOptions())
        for event in events:
            writer.put(event)
        writer.finish()
        sink.commit()
    assert path.stat().st_blocks * 512 < (256 + 16) * 4096
    assert memory(read(path.read_bytes())) == memory(events)


def vmcoreinfo_page(text: bytes) -> bytes:
    head = struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0"
    return (head + text).ljust(4096, b"\0")


def test_what_a_linux_guest_says_of_itself_becomes_a_note() -> None:
    text = b"OSRELEASE=6.1.0-test\nKERNELOFFSET=1c000000\n"
    pages = [page(1), vmcoreinfo_page(b"OSRELEASE=%s\n"), vmcoreinfo_page(text)]
    events = read(write([batch([(0, 4), (0, 5), (0, 6)], pages)]))
    (record,) = [event for event in events if isinstance(event, xsave.Record)]
    handler = xsave.build_manager().handlers.find(NOTES)
    assert isinstance(handler, xsave.RecordHandler)
    (note,) = handler.describe(handler.decode(memoryview(record.body)), {})["notes"]
    assert note["lines"] == ["OSRELEASE=6.1.0-test", "KERNELOFFSET=1c000000"]


def test_a_note_of_a_page_that_is_gone_is_gone() -> None:
    info = batch([(0, 6)], [vmcoreinfo_page(b"OSRELEASE=6.1.0\n")])
    for later in (batch([(15, 6)], []), ordinary(6, [1])):
        events = read(write([info, later]))
        assert not [event for event in events if isinstance(event, xsave.Record)]


def test_a_core_file_goes_through_a_native_image_and_back(
    cores: dict[str, Path], tmp_path: Path
) -> None:
    image, again = tmp_path / "core.xsv", tmp_path / "again.vmcore"
    xsave.run(cores["pv1"], image, codec="zstd:1")
    xsave.run(image, again)
    assert again.read_bytes() == cores["pv1"].read_bytes()


def test_a_core_file_is_no_guest(cores: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(xsave.XsaveError):
        xsave.run(cores["pv1"], "sim:pv?name=never")
    with pytest.raises(xsave.XsaveError, match="not unknown"):
        xsave.run(cores["pv1"], tmp_path / "guest.save", to="xl")
    assert not (tmp_path / "guest.save").exists()


# Hostile ones.


def header(**changes: int) -> bytes:
    values: dict[str, Any] = {
        "ident": b"\x7fELF\x02\x01\x01".ljust(16, b"\0"), "type": 4, "machine": 62, "version": 1,
        "entry": 0, "phoff": 64, "shoff": 0, "flags": 0, "ehsize": 64, "phentsize": 56,
        "phnum": 1, "shentsize": 0, "shnum": 0, "shstrndx": 0,
    }  # fmt: skip
    return elf.Header(**{**values, **changes}).encode()


def segment(**changes: int) -> bytes:
    values = {
        "type": 1, "flags": 7, "offset": 4096, "vaddr": 0, "paddr": 0, "filesz": 4096,
        "memsz": 4096, "align": 0,
    }  # fmt: skip
    return elf.Segment(**{**values, **changes}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(phentsize=32), "segments of 56 bytes, got type 4, segments of 32 bytes"),
        (header(phnum=0xFFFF), "e_phnum at offset 0x38: expected 1 to 65534 segments"),
        (header(phoff=1 << 40), "e_phoff at offset 0x20"),
        (header(phnum=60000), "the image is cut: program headers"),
        (header() + segment(memsz=8192), "p_memsz at offset 0x68: expected 4096 as p_filesz"),
        (header() + segment(filesz=5, memsz=5), "multiples of 4096, got 0x0 and 0x5"),
        (header() + segment(paddr=1 << 60), "p_paddr at offset 0x58: expected an address of 52"),
        (header() + segment(filesz=1 << 50, memsz=1 << 50), "the image is cut"),
        (header() + segment(type=4, filesz=1 << 40), "p_filesz at offset 0x60: expected at most"),
        (
            header(phnum=2) + segment(offset=256) + segment(offset=300),
            "p_offset at offset 0x80: expected 4352 or more",
        ),
    ],
)
def test_a_hostile_core_file_is_one_clear_error(data: bytes, message: str) -> None:
    with pytest.raises(xsave.StreamError, match=message):
        read(data.ljust(8192, b"\0") if "is cut: program" not in message else data)


def test_a_segment_beyond_the_file_is_refused_before_its_pages_are_listed() -> None:
    size = 1 << 51
    data = (header() + segment(filesz=size, memsz=size)).ljust(8192, b"\0")
    with pytest.raises(xsave.TruncatedError, match="pages of a segment at offset 0x1000"):
        FORMAT.page_finder(MemorySource(data), xsave.ReadOptions())


def test_notes_that_reach_too_far_are_refused() -> None:
    handler = xsave.build_manager().handlers.find(NOTES)
    assert isinstance(handler, xsave.RecordHandler)
    for body in (struct.pack("<III", 1 << 31, 4, 0), struct.pack("<III", 4, 1 << 31, 0), b"abc"):
        with pytest.raises(xsave.FieldError):
            handler.decode(memoryview(body))


SMALL = header(phnum=2) + segment(offset=176) + segment(type=4, offset=4272, filesz=20)
SMALL += page(1) + elf.note(b"CORE", 1, b"x")


@settings(deadline=None)
@given(data=damaged(SMALL))
def test_damage_is_an_answer_and_never_a_surprise(data: bytes) -> None:
    for mode in xsave.PageMode:
        try:
            events = read(data, mode)
        except xsave.StreamError:
            continue
        assert all(isinstance(event, xsave.Record | xsave.PageBatch) for event in events)


def test_arrays_are_not_copied_for_pages_in_order() -> None:
    made = ordinary(0, [1, 2])
    assert made.pages is not None
    flat = vmcore_writer._flat(made.pages, 0, 2)
    assert np.shares_memory(np.frombuffer(flat, np.uint8), made.pages)
