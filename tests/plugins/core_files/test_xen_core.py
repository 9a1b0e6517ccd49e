"""A core file of Xen's own holds what Xen would have written of the guest, and is read back."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.native.batches import batch, ordinary, page
from xsave.io.sink import open_sink
from xsave.testing import MemoryFile, MemoryPipe, MemorySink, MemorySource
from xsave.testing.strategies import damaged
from xsave_plugins.core_files import elf, slots, xen_contexts, xen_core, xen_core_writer
from xsave_plugins.core_files.formats import VmcoreFormat, XenCoreFormat
from xsave_plugins.core_files.registers import Vcpu
from xsave_plugins.core_files.xen_core_records import FRAMES, INFO, SHARED_INFO, VCPUS

DATA = Path(__file__).parents[2] / "data"
FORMAT = XenCoreFormat()
HVM = xsave.ImageInfo("xl", xsave.GuestType.X86_HVM, xen_version="4.17")
PV = xsave.ImageInfo("xl", xsave.GuestType.X86_PV)


def write(events: Sequence[xsave.Event], info: xsave.ImageInfo = HVM) -> bytes:
    file = MemoryFile()
    writer = FORMAT.writer(file, info, xsave.WriteOptions())
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


def body_of(events: Sequence[xsave.Event], name: str) -> bytes:
    (body,) = (e.body for e in events if isinstance(e, xsave.Record) and e.name == name)
    return bytes(body)


def sections(data: bytes) -> Mapping[str, elf.Section]:
    """By name, found as volatility3 does: the names in the order of the sections."""
    header = elf.Header.decode_at(data, 0)
    rows = [
        elf.Section.decode_at(data, header.shoff + number * elf.Section.SIZE)
        for number in range(header.shnum)
    ]
    names = rows[header.shstrndx]
    found = data[names.offset : names.offset + names.size].split(b"\0")
    assert found[0] == found[-1] == b""
    assert len(found) == len(rows) + 1
    for row, name in zip(rows[1:], found[1:], strict=False):
        assert data[names.offset + row.name :].startswith(name + b"\0")
    return {name.decode(): row for name, row in zip(found[1:-1], rows[1:], strict=True)}


def body(data: bytes, name: str) -> bytes:
    one = sections(data)[name]
    return data[one.offset : one.offset + one.size]


# Pages.


@settings(deadline=None)
@given(data=st.data())
def test_whatever_comes_in_any_order_pages_are_those_of_the_guest_in_order(
    data: st.DataObject,
) -> None:
    few = data.draw(st.sampled_from([1, 2, 3, 1024]))  # slots that are put in order at once
    pfns = st.lists(st.integers(0, 40), min_size=1, max_size=8)
    expected: dict[int, bytes] = {}
    events = []
    for _ in range(data.draw(st.integers(1, 5))):
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "BATCH_SLOTS", few)
        written = write(events)
    assert memory(read(written)) == expected
    listed = struct.unpack(f"<{len(expected)}Q", body(written, ".xen_pfn"))
    assert list(listed) == sorted(expected)
    pages = body(written, ".xen_pages")
    assert pages == b"".join(expected[pfn] for pfn in sorted(expected))
    skipped = read(written, xsave.PageMode.SKIP)
    assert sum(e.nr_pages for e in skipped if isinstance(e, xsave.PageBatch)) == len(expected)


@pytest.mark.parametrize("format_", [XenCoreFormat(), VmcoreFormat()])
@settings(deadline=None, max_examples=30)
@given(pfns=st.sets(st.integers(0, 3000), max_size=40), asked=st.lists(st.integers(0, 3000)))
def test_pages_are_found_by_pfn_without_reading_the_others(
    format_: xsave.Format, pfns: set[int], asked: list[int]
) -> None:
    file = MemoryFile()
    writer = format_.writer(file, HVM, xsave.WriteOptions())
    for pfn in sorted(pfns):
        writer.put(ordinary(pfn, [pfn % 251]))
    writer.finish()
    finder = format_.page_finder(MemorySource(bytes(file.whole)), xsave.ReadOptions())
    assert finder is not None
    assert finder.entries().tolist() == sorted(pfns)
    found = finder.find([*asked, *pfns])
    assert set(found) == pfns
    for pfn, (kind, contents) in found.items():
        assert kind == 0 and contents is not None
        assert contents.tobytes() == page(pfn % 251)


def test_pages_of_zeroes_take_no_room(tmp_path: Path) -> None:
    core = tmp_path / "guest.core"
    with open_sink(core) as sink:
        writer = FORMAT.writer(sink, HVM, xsave.WriteOptions())
        for start in range(0, 1 << 14, 1024):
            writer.put(ordinary(start, [0] * 1023 + [7]))
        writer.finish()
        sink.commit()
    status = core.stat()
    assert status.st_size > 64 << 20
    assert status.st_blocks * 512 < 4 << 20


def test_a_page_that_becomes_zero_later_is_zero() -> None:
    data = write([ordinary(5, [3]), ordinary(5, [0])])
    assert memory(read(data)) == {5: page(0)}


def test_a_guest_without_memory_is_a_core_file_all_the_same() -> None:
    data = write([])
    assert FORMAT.sniff(data)
    assert memory(read(data)) == {}


def test_more_vcpus_than_fit_in_front_find_room_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xen_core_writer, "PAGES_AT", 4096)
    vcpus = struct.pack("<II", 62, 0) + bytes(range(16)) * 323
    data = write([ordinary(0, [1]), xsave.Record(xsave.RecordType(VCPUS), vcpus)])
    assert sections(data)[".note.Xen"].offset > 8192
    assert body(data, ".xen_prstatus") == vcpus[8:]
    assert memory(read(data)) == {0: page(1)}


# What it says of the guest.


@pytest.fixture(scope="module")
def cores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of the redacted real images: page tables, the map and registers are in them."""
    folder = tmp_path_factory.mktemp("cores")
    made = {}
    for name in ("pv1", "pvh1"):
        made[name] = folder / f"{name}.core"
        xsave.run(DATA / f"{name}.redacted.save.zst", made[name], to="xen-core")
    return made


def test_headers_are_those_that_xen_writes(cores: dict[str, Path]) -> None:
    for name, listed in (("pv1", ".xen_p2m"), ("pvh1", ".xen_pfn")):
        data = cores[name].read_bytes()
        header = elf.Header.decode_at(data, 0)
        assert (header.phnum, header.shoff, header.machine) == (0, 64, 62)
        found = sections(data)
        assert [n for n in found if n != ".xen_shared_info"] == [
            ".shstrtab", ".note.Xen", ".xen_prstatus", ".xen_pages", listed,
        ]  # fmt: skip
        assert found[".note.Xen"].size == 1384
        assert found[".xen_pages"].offset % 4096 == 0


@pytest.mark.parametrize(
    ("name", "guest", "rip", "rsp", "cr3"),
    [
        ("pv1", "pv", 0xFFFFFFFF81A39075, 0xFFFFC90040083E30, None),
        ("pvh1", "hvm", 0xFFFFFFFF81A38A43, 0xFFFFC90000093E40, 0x5620000),
    ],
)
def test_vcpus_and_what_xen_says_are_read_back(
    cores: dict[str, Path], name: str, guest: str, rip: int, rsp: int, cr3: int | None
) -> None:
    info = xsave.read_record(cores[name], INFO).item.fields
    assert (info["guest"], info["nr_vcpus"], info["xen_version"]) == (guest, 1, "4.17")
    (vcpu,) = xsave.read_record(cores[name], VCPUS).item.fields["vcpus"]
    assert (vcpu["registers"]["rip"], vcpu["registers"]["rsp"]) == (rip, rsp)
    if cr3 is not None:
        assert vcpu["control_registers"]["cr3"] == cr3


def test_page_tables_and_contexts_of_a_pv_guest_have_machine_frames(
    cores: dict[str, Path],
) -> None:
    core, image = cores["pv1"], DATA / "pv1.redacted.save.zst"
    pairs = np.frombuffer(body(core.read_bytes(), ".xen_p2m"), "<u8").reshape(-1, 2)
    frame_of = dict(pairs.tolist())
    pfn_of = {frame: pfn for pfn, frame in frame_of.items()}
    assert len(pfn_of) == len(frame_of) == 0x6000
    # from the root that the vcpu has, by machine frames alone, to the same tables as in the image
    image_cr3 = xsave.read_record(image, "xen.pv.vcpu_basic").item.fields["context"]["ctrlreg"][3]
    (vcpu,) = xsave.read_record(core, VCPUS).item.fields["vcpus"]
    root = pfn_of[vcpu["control_registers"]["cr3"] >> 12]
    assert root == image_cr3 >> 12 != vcpu["control_registers"]["cr3"] >> 12
    tables = {root}
    for _ in range(3):
        here = sorted(tables)
        in_core, in_image = xsave.read_pfns(core, here), xsave.read_pfns(image, here)
        tables = set()
        for pfn in here:
            entries, before = (as_entries(found[pfn][1]) for found in (in_core, in_image))
            assert [entry & 1 for entry in entries] == [entry & 1 for entry in before]
            for entry, old in zip(entries, before, strict=True):
                if entry & 1:
                    assert pfn_of[entry >> 12 & (1 << 40) - 1] == old >> 12 & (1 << 40) - 1
                    assert entry & 0xFFF == old & 0xFFF
                    tables.add(old >> 12 & (1 << 40) - 1)
    assert len(tables) > 20


def as_entries(found: xsave.Pages | None) -> list[int]:
    assert found is not None
    entries: list[int] = found.view("<u8").reshape(-1).tolist()
    return entries


def test_the_shared_page_of_a_pv_guest_comes_along(cores: dict[str, Path]) -> None:
    found = xsave.read_record(DATA / "pv1.redacted.save.zst", "xen.pv.shared_info")
    assert bytes(xsave.read_record(cores["pv1"], SHARED_INFO).record.body) == found.record.body


def test_a_context_of_32_bits_turns_the_frames_that_it_has() -> None:
    context = bytearray(2800)
    struct.pack_into("<I", context, 524, 7)  # edx: start_info
    struct.pack_into("<2I", context, 2640, 8, 9)  # the GDT's frames
    struct.pack_into("<I", context, 2704, 512)  # entries, so only one frame counts
    struct.pack_into("<I", context, 2716 + 12, 5 << 12)  # CR3
    turned = xen_contexts.from_record(0, bytes(context), lambda pfn: pfn + 0x123400000 % (1 << 32))
    fields = xen_contexts.describe(elf.EM_386, turned)
    assert len(turned) == 5168
    assert fields["registers"]["rdx"] == 0x23400007
    assert struct.unpack_from("<2I", turned, 2640) == (0x23400008, 9)
    assert fields["control_registers"]["cr3"] == 0x00005234


def test_registers_of_an_hvm_vcpu_stand_where_xen_puts_them() -> None:
    regs = {"rip": 1, "rsp": 2, "cs": 0x10, "gs_base": 3, "gs_base_kernel": 4, "r15": 5}
    made = xen_contexts.from_registers(Vcpu(0, regs, {"cr3": 0x5000, "cr4": 6}))
    assert struct.unpack_from("<Q", made, 512) == (1 << 5,)
    assert struct.unpack_from("<Q", made, 520) == (5,)
    assert struct.unpack_from("<Q", made, 648) == (1,)
    assert struct.unpack_from("<3Q", made, 5144) == (0, 3, 4)
    assert struct.unpack_from("<5Q", made, 4984) == (0, 0, 0, 0x5000, 6)


def test_a_pv_guest_whose_map_is_not_there_keeps_its_pfns() -> None:
    table = struct.pack("<512Q", 3 << 12 | 1, *[0] * 511)
    data = write([batch([(0xC, 2), (0, 3)], [table, page(1)])], PV)
    assert struct.unpack("<4Q", body(data, ".xen_p2m")) == (2, 2, 3, 3)
    assert memory(read(data)) == {2: table, 3: page(1)}


def test_an_entry_of_a_page_that_has_no_frame_leads_nowhere() -> None:
    info = xsave.Record(xsave.RecordType("xen.pv.info"), bytes([8, 4]) + bytes(6))
    frames = struct.pack("<IIQ", 0, 511, 1)
    listed = xsave.Record(xsave.RecordType("xen.pv.p2m_frames"), frames)
    its_map = struct.pack("<512Q", *[(1 << 64) - 1] * 2, 0xABC, *[(1 << 63) | 5] * 509)
    table = struct.pack("<512Q", 2 << 12 | 1, 3 << 12 | 1, 2 << 12, *[0] * 509)
    data = write([info, listed, batch([(0, 1), (1, 2)], [its_map, table])], PV)
    none = (1 << 64) - 1
    assert struct.unpack("<4Q", body(data, ".xen_p2m")) == (1, none, 2, 0xABC)
    turned = memory(read(data))[2]
    assert struct.unpack_from("<3Q", turned) == (0xABC001, (1 << 52) - (1 << 12) | 1, 2 << 12)


# From and to other formats.


@pytest.mark.parametrize("name", ["pv1", "pvh1"])
def test_a_core_file_goes_through_a_native_image_and_back(
    cores: dict[str, Path], tmp_path: Path, name: str
) -> None:
    image, again = tmp_path / "core.xsv", tmp_path / "again.core"
    xsave.run(cores[name], image, codec="zstd:1")
    xsave.run(image, again, to="xen-core")
    assert again.read_bytes() == cores[name].read_bytes()


@pytest.mark.parametrize("name", ["pv1", "pvh1"])
def test_registers_are_the_same_in_a_vmcore_made_of_it(
    cores: dict[str, Path], tmp_path: Path, name: str
) -> None:
    made, straight = tmp_path / "made.vmcore", tmp_path / "straight.vmcore"
    report = xsave.run(cores[name], made)
    # a PV guest's page tables hold machine frames there, which nothing in a vmcore explains
    assert list(report.left_out) == [FRAMES] * (name == "pv1")
    xsave.run(DATA / f"{name}.redacted.save.zst", straight)
    first, second = (
        xsave.read_record(core, "core.notes").item.fields["notes"][0]["registers"]
        for core in (made, straight)
    )
    if name == "pv1":  # start_info: its machine frame in Xen's own, its pfn in a vmcore
        assert (first.pop("rdx"), second.pop("rdx")) == (0x134800, 0x4A00)
    assert first == second


def test_a_vmcore_becomes_one(tmp_path: Path, cores: dict[str, Path]) -> None:
    vmcore, core = tmp_path / "guest.vmcore", tmp_path / "guest.core"
    xsave.run(DATA / "pvh1.redacted.save.zst", vmcore)
    xsave.run(vmcore, core, to="xen-core")
    (vcpu,) = xsave.read_record(core, VCPUS).item.fields["vcpus"]
    (straight,) = xsave.read_record(cores["pvh1"], VCPUS).item.fields["vcpus"]
    assert vcpu["registers"]["rip"] == straight["registers"]["rip"]
    one, other = (body(path.read_bytes(), ".xen_pages") for path in (core, cores["pvh1"]))
    assert one == other


def test_frames_come_in_pieces_of_bounded_size(cores: dict[str, Path]) -> None:
    found = xsave.read_record(cores["pv1"], FRAMES)
    assert found.item.fields["nr_frames"] == 0x6000 <= 1 << 16


def test_it_cannot_go_through_a_pipe(cores: dict[str, Path]) -> None:
    with pytest.raises(xsave.OutputError, match="cannot be written into a pipe"):
        FORMAT.writer(MemorySink(), HVM, xsave.WriteOptions())
    reader = FORMAT.reader(MemoryPipe(write([ordinary(0, [1])])), xsave.ReadOptions())
    assert reader.info.details == {"machine": 62, "nr_sections": 6}
    with pytest.raises(xsave.UsageError, match="its list of pages is behind them: unpack"):
        list(reader)
    with pytest.raises(xsave.UsageError, match="not from a pipe"):
        xsave.verify(io.BytesIO(cores["pvh1"].read_bytes()))


def test_a_core_file_is_no_guest(cores: dict[str, Path]) -> None:
    with pytest.raises(xsave.XsaveError):
        xsave.run(cores["pvh1"], "sim:pvh?name=never")


# Hostile ones.

SMALL = bytearray(write([ordinary(0, [1, 2])]))


def changed(name: str, /, **fields: int) -> bytes:
    data = bytearray(SMALL)
    header = elf.Header.decode_at(data, 0)
    number = list(sections(bytes(data))).index(name) + 1
    at = header.shoff + number * elf.Section.SIZE
    data[at : at + elf.Section.SIZE] = elf.Section.decode_at(data, at).replace(**fields).encode()
    return bytes(data)


def header(**fields: int) -> bytes:
    data = bytearray(SMALL)
    data[:64] = elf.Header.decode_at(data, 0).replace(**fields).encode()
    return bytes(data)


def patched(name: str, at: int, value: bytes) -> bytes:
    data = bytearray(SMALL)
    start = sections(bytes(data))[name].offset + at
    data[start : start + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(shentsize=40), "section headers of 64 bytes, got type 4, headers of 40 bytes"),
        (header(machine=8), "e_machine at offset 0x12: expected 3 or 62, got 8"),
        (header(shnum=0xFFFF), "e_shnum at offset 0x3c: expected 2 to 64 sections"),
        (header(shstrndx=9), "e_shstrndx at offset 0x3e: expected a section below 6, got 9"),
        (header(shoff=1 << 40), "e_shoff at offset 0x28"),
        (changed(".shstrtab", size=1 << 40), "sh_size of .shstrtab at offset 0xa0: expected at"),
        (changed(".shstrtab", offset=1 << 40), "the image is cut: .shstrtab"),
        (changed(".note.Xen", size=1 << 30), "sh_size of .note.Xen at offset 0xe0: expected at"),
        (changed(".xen_prstatus", size=1 << 40), "sh_size of .xen_prstatus at offset 0x120"),
        (changed(".xen_pages", size=1 << 40), "the image is cut: .xen_pages"),
        (changed(".xen_pages", size=4097), "a multiple of 4096, got 4097"),
        (changed(".xen_pages", size=4096), "sh_size of .xen_pfn at offset .*: expected 8 for 1"),
        (changed(".xen_pages", offset=0), "sh_offset of .xen_pages at offset 0x1c0"),
        (changed(".xen_pages", name=0), "sections at offset 0x40: expected .xen_pages, got only"),
        (changed(".xen_pfn", size=1 << 51), "the image is cut: .xen_pfn"),
        (patched(".xen_pfn", 7, b"\x70"), "list of pfns at offset .*: expected pfns below"),
    ],
)  # fmt: skip
def test_a_hostile_core_file_is_one_clear_error(data: bytes, message: str) -> None:
    with pytest.raises(xsave.StreamError, match=message):
        read(data)


@pytest.mark.parametrize(
    ("name", "at", "message"),
    [
        (".note.Xen", 0, "note at 0x0"),
        (".note.Xen", 32, "magic: expected 0xf00febed or 0xf00febee"),
        (".note.Xen", 56, "page size: expected 4096"),
        (".note.Xen", 1376, "format version: expected 1"),
    ],
)
def test_notes_that_are_not_xens_are_refused(name: str, at: int, message: str) -> None:
    handler = xsave.build_manager().handlers.find(INFO)
    assert isinstance(handler, xsave.RecordHandler)
    found = body_of(read(patched(name, at, b"\xff")), INFO)
    with pytest.raises(xsave.FieldError, match=message):
        handler.decode(memoryview(found))


def test_slots_that_xen_could_not_fill_are_left_out() -> None:
    data = patched(".xen_pfn", 8, b"\xff" * 8)
    assert memory(read(data)) == {0: page(1)}
    finder = FORMAT.page_finder(MemorySource(data), xsave.ReadOptions())
    assert finder is not None and finder.entries().tolist() == [0]
    early = patched(".xen_pfn", 0, b"\xff" * 8)
    assert memory(read(early)) == {1: page(2)}
    with pytest.raises(xsave.FormatError, match="slots without a page at the end"):
        FORMAT.page_finder(MemorySource(early), xsave.ReadOptions())


SHORT = write([ordinary(0, [1])])
HEADERS = SHORT[:4096]


@settings(deadline=None)
@given(data=damaged(HEADERS))
def test_damage_is_an_answer_and_never_a_surprise(data: bytes) -> None:
    whole = data + SHORT[len(data) :]
    for mode in xsave.PageMode:
        try:
            events = read(whole, mode)
        except xsave.StreamError:
            continue
        assert all(isinstance(event, xsave.Record | xsave.PageBatch) for event in events)


def test_bodies_of_its_records_are_bounded() -> None:
    handlers = xsave.build_manager().handlers
    for name, wrong in (
        (VCPUS, struct.pack("<II", 8, 0)),
        (VCPUS, struct.pack("<II", 62, 0) + bytes(5167)),
        (VCPUS, b"abc"),
        (SHARED_INFO, bytes(4095)),
        (FRAMES, b""),
        (FRAMES, bytes(24)),
        (FRAMES, bytes(16 * ((1 << 16) + 1))),
        (INFO, bytes(xen_core.NOTES_BYTES)),
    ):
        handler = handlers.find(name)
        assert isinstance(handler, xsave.RecordHandler)
        with pytest.raises(xsave.FieldError):
            handler.decode(memoryview(wrong))
