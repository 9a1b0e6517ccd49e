"""QEMU's migration streams are read whole or refused, and written as QEMU writes them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.qemu_device import streams as q
from xsave.testing import FormatSuite, MemoryPipe, MemorySink, MemorySource
from xsave_plugins.qemu_device import devices
from xsave_plugins.qemu_device.formats import QemuFormat
from xsave_plugins.qemu_device.ram_reader import BATCH_PAGES

FORMAT = QemuFormat()
RAM = 4096


def read(
    data: bytes, mode: xsave.PageMode = xsave.PageMode.FULL, *, pipe: bool = False
) -> list[xsave.Event]:
    source = MemoryPipe(data) if pipe else MemorySource(data)
    return list(FORMAT.reader(source, xsave.ReadOptions(pages=mode)))


def write(events: Sequence[xsave.Event]) -> bytes:
    sink = MemorySink()
    writer = FORMAT.writer(sink, xsave.ImageInfo("qemu"), xsave.WriteOptions())
    for event in events:
        writer.put(event)
    writer.finish()
    return sink.data


def memory(events: Sequence[xsave.Event]) -> dict[int, bytes]:
    found = {}
    for event in events:
        if isinstance(event, xsave.PageBatch):
            assert event.pages is not None
            found.update(zip(event.pfns.tolist(), map(bytes, event.pages), strict=True))
    return found


def with_ram(*items: bytes) -> bytes:
    """A whole stream with these items in its only section of ram."""
    return b"".join((q.HEAD, q.blocks(), q.section(q.END, *items), q.devices()))


def refused(data: bytes) -> str:
    """What is said of it, the same whether it comes from a file or a pipe, contents or not."""
    said = set()
    for pipe in (False, True):
        for mode in xsave.PageMode:
            with pytest.raises(xsave.StreamError) as caught:
                read(data, mode, pipe=pipe)
            said.add(str(caught.value))
    (one,) = said
    return one


class TestQemu(FormatSuite):
    format = FORMAT
    # without a description a stream ends with its end mark, so a cut is a cut
    images: ClassVar[Sequence[bytes]] = (
        q.stream(), q.stream(footers=False), q.stream(footers=False, described=False),
    )  # fmt: skip

    def info(self) -> xsave.ImageInfo:
        return xsave.ImageInfo("qemu")

    def events(self) -> Sequence[xsave.Event]:
        return read(q.stream(described=False))


def test_pages_are_those_of_their_blocks_one_block_behind_the_other() -> None:
    found = memory(read(q.stream()))
    texts = {pfn: contents.rstrip(b"\0") for pfn, contents in found.items()}
    assert texts == {
        0: b"", 1: b"", 2: b"two again", 3: b"three", 4: b"", 5: b"five",
        6: b"video", 7: b"", 8: b"a rom",
    }  # fmt: skip


def test_what_the_stream_says_of_itself_is_known_before_its_memory() -> None:
    source = MemorySource(q.stream())
    info = FORMAT.reader(source, xsave.ReadOptions()).info
    assert info.details == {
        "machine": "pc-i440fx-7.2", "ram_bytes": 9 * 4096, "nr_ram_blocks": 3,
    }  # fmt: skip
    assert info.guest_type is xsave.GuestType.UNKNOWN


def test_records_come_in_the_order_of_the_stream() -> None:
    assert [event.name for event in read(q.stream())] == [
        "qemu.configuration", "qemu.ram.blocks", "qemu.ram.section", "qemu.ram.page_data",
        "qemu.ram.section", "qemu.command", "qemu.ram.section", "qemu.ram.page_data",
        "qemu.devices",
    ]  # fmt: skip


def test_long_runs_of_pages_of_either_kind_come_in_batches() -> None:
    count = 2 * BATCH_PAGES + 7
    listed = [(b"pc.ram", 3 * count * 4096)]
    items = [q.zero(0, b"pc.ram"), *(q.zero(n * 4096) for n in range(1, count))]
    items += [q.page((count + n) * 4096, b"%d" % n) for n in range(count)]
    data = b"".join((q.HEAD, q.blocks(listed), q.section(q.END, *items), q.devices()))
    events = read(data)
    sizes = [event.nr_pages for event in events if isinstance(event, xsave.PageBatch)]
    assert sum(sizes) == 2 * count
    assert set(sizes[:-1]) == {BATCH_PAGES}
    found = memory(events)
    assert all(found[count + n].rstrip(b"\0") == b"%d" % n for n in range(count))
    assert not any(any(found[n]) for n in range(count))
    assert write(events) == data


def test_a_fill_byte_fills_its_page() -> None:
    """QEMU before 1.7 sent any byte so; it is written as a page."""
    events = read(with_ram(q.zero(0, b"pc.ram", fill=0xAB), q.zero(4096, fill=7)))
    found = memory(events)
    assert (found[0], found[1]) == (b"\xab" * 4096, b"\7" * 4096)
    assert memory(read(write(events))) == found


def test_a_page_of_zeroes_is_written_as_a_byte() -> None:
    """Where its QEMU was told not to look for such."""
    assert write(read(with_ram(q.page(0, b"", b"pc.ram"), q.page(4096, b"")))) == with_ram(
        q.zero(0, b"pc.ram"), q.zero(4096)
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(
    st.tuples(st.integers(0, q.NR_PAGES - 1), st.sampled_from([b"", b"x", b"more" * 1024])),
    max_size=40,
))  # fmt: skip
def test_any_pages_in_any_order_go_there_and_back(pages: list[tuple[int, bytes]]) -> None:
    starts = {0: b"pc.ram", 6: b"0000:00:02.0/vga.vram", 8: b"rom"}
    items, last = [], None
    for pfn, contents in pages:
        first = max(start for start in starts if start <= pfn)
        name = starts[first] if first != last else None
        at, last = (pfn - first) * 4096, first
        items.append(q.page(at, contents, name) if contents else q.zero(at, name))
    data = with_ram(*items)
    for pipe in (False, True):
        events = read(data, pipe=pipe)
        expected = {pfn: contents.ljust(4096, b"\0") for pfn, contents in pages}
        assert memory(events) == expected
        assert write(events) == data


# What is refused, and in which words.


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (0x40, "0x40 (XBZRLE: save without capability xbzrle)"),
        (0x60, "0x60 (XBZRLE"),
        (0x100, "COMPRESS_PAGE: save without capability compress"),
        (0x200, "MULTIFD_FLUSH: save without capability multifd"),
        (0x80, "HOOK: pages that go over RDMA"),
        (0x04, "MEM_SIZE"),
        (0x01, "RAM_SAVE_FLAG_FULL"),
        (0x00, "0x0, in the word 0x5000"),
        (0x0A, "0xa, in the word 0x500a"),
        (0x400, "0x400, in the word 0x5400"),
    ],
)
def test_pages_in_another_form_are_one_clear_error(flags: int, words: str) -> None:
    said = refused(with_ram(q.zero(0, b"pc.ram"), q.u64(0x5000 | flags) + bytes(5000)))
    assert said.startswith("flags of an item of ram at offset ")
    assert "expected 2 ZERO or 8 PAGE" in said
    assert words in said


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([q.zero(0)], "item of ram at offset 0x6c: expected the name of a block"),
        ([q.zero(0, b"other")], "expected one that the first section names, got 'other'"),
        ([q.zero(6 * 4096, b"pc.ram")], "address in block 'pc.ram' at offset 0x6c: expected at "
         "most 0x5fff, got 0x6000"),
        ([q.zero(4096, b"rom")], "address in block 'rom' at offset 0x6c: expected at most 0xfff"),
        ([q.page(0, b"", b"rom"), q.page(1 << 63, b"")], "got 0x8000000000000000"),
    ],
)  # fmt: skip
def test_pages_of_no_block_are_refused(items: list[bytes], words: str) -> None:
    assert words in refused(with_ram(*items))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"QEVM\0\0\0\2\7" + bytes(20), "head of the stream at offset 0x0: expected QEVM and "
         "version 3, got 5145564d00000002"),
        (q.HEAD + b"\7" + q.u32(256) + bytes(300), "qemu.configuration at offset 0x9: length of "
         "the machine's type: expected at most 255, got 256"),
        (q.HEAD + b"\7" + q.configuration(q.capabilities(b"x-ignore-shared")),
         "x-ignore-shared: memory that is shared stays outside the stream; save without it"),
        (q.HEAD + b"\7" + q.configuration(q.capabilities(b"events", b"mapped-ram")),
         "mapped-ram: memory has places in a file"),
        (q.HEAD + b"\7" + q.configuration(
            q.subsection(b"configuration/target-page-bits", q.u32(14))),
         "target-page-bits: expected 12: pages of 4096 bytes, got 14"),
        (q.HEAD + b"\7" + q.configuration(q.subsection(b"configuration/else", b"")),
         "sub-section of the configuration: expected target-page-bits, capabilities or uuid, "
         "got 'else'"),
        (q.HEAD + b"\7" + q.configuration() + b"\x08" + q.command(3, bytes(20)),
         "qemu.command at offset 0x1b: command: expected 1 (open return path), 2 (ping), 11 "
         "(switchover start), got 3: part of a migration to another end, such as postcopy"),
        (q.HEAD + b"\7" + q.configuration() + q.header(0, b"block", kind=q.START),
         "name of the first section: expected ram, the guest's memory, got 'block'"),
        (q.HEAD + b"\7" + q.configuration() + q.header(0, b"virtio-mem", kind=q.FULL),
         "kind of the first section: expected 0x1, got 0x4"),
        (q.HEAD + b"\1" + q.header(2, b"ram", version=3)[1:],
         "version of ram: expected 0x4, got 0x3"),
        (q.HEAD + q.blocks(total=5 * 4096),
         "size of block 'pc.ram': expected pages of 4096 bytes, at most 20480 bytes, so that "
         "sizes add up; at most 4096 blocks, got 24576"),
        (q.HEAD + q.blocks([(b"a", 4096), (b"a", 4096)]), "blocks: expected each name once"),
        (q.HEAD + q.blocks([(b"a", 1 << 62)]), "RAM: expected at most 1099511627776 pages"),
        (q.HEAD + q.blocks([(b"%d" % n, 1 << 12) for n in range(4097)]), "at most 4096 blocks"),
        (q.HEAD + (b"\x08" + q.command(2)) * 65,
         "kind of the first section: expected 0x1, got 0x8"),
        (q.HEAD + q.blocks() + b"\x7e", "section at offset 0x67: expected 2 PART or 3 END of "
         "section 2, ram"),
        (q.HEAD + q.blocks() + q.section(q.PART, section_id=3), "got 0x2 with number 3"),
        (q.HEAD + q.blocks() + q.header(3, b"timer"), "got 0x4 with number 3 (START or FULL: "
         "nothing but memory is sent in parts, or before it"),
        (q.HEAD + q.blocks() + q.section(q.END)[:-5] + q.footer(9),
         "qemu.ram.section at offset 0x74: footer of ram: expected 7e00000002, got 7e00000009"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(data: bytes, words: str) -> None:
    assert words in refused(data + bytes(8))


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\0\0",
        q.devices()[:-1],
        q.devices() + b"\0",
        q.devices(described=False)[:-1],
        q.devices(described=False) + b"x",
        q.header(3, b"timer") + bytes(8) + b"\0",  # no footer, where ram has them
        q.header(3, b"timer") + bytes(8) + q.footer(4) + b"\0",
        bytes([q.PART]) + q.u32(2) + q.footer(2) + b"\0",
    ],
)
def test_devices_that_do_not_end_where_they_should_are_refused(tail: bytes) -> None:
    said = refused(q.HEAD + q.blocks() + q.section(q.END) + tail)
    assert said.startswith("devices at offset 0x79: expected sections, an end mark and at most a")


def test_devices_without_an_end_in_sight_are_refused_before_they_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("xsave_plugins.qemu_device.stream_reader.MAX_DEVICES_BYTES", 10_000)
    assert devices.MAX_DEVICES_BYTES == 64 << 20
    said = refused(q.HEAD + q.blocks() + q.section(q.END) + bytes(20_000))
    assert "expected at most 10000 bytes to the end of the stream, got more" in said


def test_a_stream_that_proves_its_end_in_no_way_is_remarked_upon() -> None:
    def remarks(**how: bool) -> list[str]:
        reader: Any = FORMAT.reader(MemorySource(q.stream(**how)), xsave.ReadOptions())
        list(reader)
        return [remark.text for remark in reader.remarks]

    assert remarks() == []
    assert remarks(footers=False) == []
    assert remarks(described=False) == [
        "it ends without a description of its devices, as QEMU before 2.3 and old machine types "
        "do; footers show that it is whole"
    ]
    (unproved,) = remarks(footers=False, described=False)
    assert unproved.endswith("without footers, so nobody can tell whether it ends where it should")


def test_known_descriptions_show_where_a_stream_ends_that_proves_nothing_itself() -> None:
    tail = q.devices(q.TIMER, footers=False, described=False)
    data = q.HEAD + q.blocks(footers=False) + q.section(q.END, footers=False) + tail
    reader: Any = FORMAT.reader(MemorySource(data), xsave.ReadOptions())
    list(reader)
    (remark,) = reader.remarks
    assert remark.text.endswith("what is known of QEMU 5.2 and QEMU 7.2 and QEMU 10.0 fits it to "
                                "its end")  # fmt: skip
    assert not remark.is_loss


# What a writer takes.


def test_a_guest_of_xen_is_no_guest_of_qemus() -> None:
    info = xsave.ImageInfo("xl", xsave.GuestType.X86_HVM)
    with pytest.raises(xsave.UsageError, match="a guest of QEMU's own, not x86_hvm"):
        FORMAT.writer(MemorySink(), info, xsave.WriteOptions())


def test_other_records_are_a_loss_or_left_out() -> None:
    writer = FORMAT.writer(MemorySink(), xsave.ImageInfo("qemu"), xsave.WriteOptions())
    with pytest.raises(xsave.LossError, match=r"acme\.thing"):
        writer.put(xsave.Record(xsave.RecordType("acme.thing"), b""))
    writer.put(xsave.Record(xsave.RecordType("acme.other", mandatory=False), b""))
    assert writer.left_out == ["acme.other"]


@pytest.mark.parametrize("left_out", range(9))
def test_a_guest_that_is_not_whole_is_not_written(left_out: int) -> None:
    """But for what a stream need not have: configuration, a further section, its command."""
    events = read(q.stream())
    del events[left_out]
    if left_out in (0, 3, 4, 5, 7):
        assert memory(read(write(events)))
        return
    with pytest.raises(xsave.OutputError):
        write(events)


def test_pages_outside_of_all_blocks_are_not_written() -> None:
    events = read(q.stream())
    wrong = xsave.PageBatch(
        xsave.RecordType("qemu.ram.page_data"), np.array([9], np.uint64),
        np.zeros((1, 4096), np.uint8), 1,
    )  # fmt: skip
    with pytest.raises(xsave.OutputError, match="pfn 0x9 is in no block; the last one is 0x8"):
        write([*events[:3], wrong])


# Through the whole pipeline.


@pytest.mark.parametrize("codec", [None, "none", "zstd:1", "lz4"])
def test_a_stream_becomes_a_native_image_and_is_the_same_again(
    codec: str | None, manager: xsave.PluginManager
) -> None:
    data = q.stream()
    native, back = io.BytesIO(), io.BytesIO()
    report = xsave.run(io.BytesIO(data), native, codec=codec, manager=manager)
    assert report.nr_pages == 10
    assert not report.lost and not report.left_out
    xsave.verify(io.BytesIO(native.getvalue()), manager=manager)
    xsave.run(io.BytesIO(native.getvalue()), back, to="qemu", manager=manager)
    assert back.getvalue() == data


def test_inspect_shows_blocks_machine_and_the_fields_of_devices(
    manager: xsave.PluginManager,
) -> None:
    found = xsave.inspect(io.BytesIO(q.stream()), manager=manager)
    fields = {item.name: getattr(item, "fields", None) for item in found.items}
    assert fields["qemu.configuration"]["machine"] == "pc-i440fx-7.2"
    assert fields["qemu.ram.blocks"]["blocks"][1] == {
        "name": "0000:00:02.0/vga.vram", "size_bytes": 8192, "first_pfn": 6,
    }  # fmt: skip
    timer, toy = fields["qemu.devices"]["sections"]
    assert timer["described_by"] == toy["described_by"] == "its own description"
    assert timer["fields"]["clock"] == int.from_bytes(bytes(range(16, 24)), "big")
    assert toy["path"] == "0000:00:03.0"
    assert toy["fields"] == {
        "on": True, "level": -1, "inner": [{"byte": 0}, {"byte": 7}], "rest": "000102",
    }  # fmt: skip


def test_a_redacted_guest_is_whole_and_says_nothing_of_its_memory(
    tmp_path: Path, manager: xsave.PluginManager
) -> None:
    source, dest = tmp_path / "guest.qemu", tmp_path / "shown.qemu"
    source.write_bytes(q.stream())
    xsave.redact(source, dest, manager=manager)
    xsave.verify(dest, manager=manager)
    shown = dest.read_bytes()
    assert not any(text in shown for text in (b"two again", b"three", b"video", b"a rom"))
    assert b"pc.ram" in shown and b"timer" in shown


def test_a_guest_of_qemus_is_not_restored_into_a_domain(manager: xsave.PluginManager) -> None:
    with pytest.raises(xsave.XsaveError):
        xsave.run(io.BytesIO(q.stream()), "sim:qemu", manager=manager)
