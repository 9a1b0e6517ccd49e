"""A legacy stream becomes the records that its successor would have had."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import xsave
from tests.plugins.legacy import build as o
from tests.plugins.legacy.streams import bodies, names, open_reader, read
from tests.plugins.xen_stream import build as b
from xsave import FormatError, PageBatch, RecordError, StreamError, TruncatedError

WIDTHS = [4, 8]
PV_NAMES = [
    "xen.libxl.header", "xen.libxc.header", "xen.pv.info", "xen.libxc.static_data_end",
    "xen.pv.p2m_frames", "xen.x86.tsc_info", "xen.pv.page_data", "xen.pv.page_data",
    "xen.pv.vcpu_basic", "xen.pv.vcpu_extended", "xen.pv.vcpu_xsave", "xen.pv.shared_info",
    "xen.libxc.end",
]  # fmt: skip
HVM_NAMES = [
    "xen.libxl.header", "xen.libxc.header", "xen.libxc.static_data_end", "xen.x86.tsc_info",
    "xen.hvm.page_data", "xen.hvm.page_data", "xen.hvm.params", "xen.hvm.params",
    "xen.hvm.context", "xen.libxc.end", "xen.qemu.xenstore_data", "xen.qemu.context",
]  # fmt: skip


def batches(data: bytes, mode: xsave.PageMode = xsave.PageMode.FULL) -> list[PageBatch]:
    return [event for event in read(data, mode=mode) if isinstance(event, PageBatch)]


@pytest.mark.parametrize("w", WIDTHS)
def test_a_pv_stream_has_the_records_of_today(w: int) -> None:
    events = read(o.pv(w))
    assert names(events) == PV_NAMES
    expected = {
        "xen.pv.info": b.pv_info().body,
        "xen.pv.p2m_frames": b.p2m_frames().body,
        "xen.x86.tsc_info": b.tsc_info().body,
        "xen.pv.vcpu_basic": b.vcpu_basic().body,
        "xen.pv.vcpu_extended": b.golden("xen.pv.vcpu_extended.pv").ljust(8 + 128, b"\0"),
        "xen.pv.vcpu_xsave": b.golden("xen.pv.vcpu_xsave.pv"),
        "xen.pv.shared_info": bytes(4096),
    }
    for name, body in expected.items():
        assert bodies(events, name) == [body], name
    assert bodies(events, "xen.libxl.header") == [b.libxl_header(options=2)]
    assert bodies(events, "xen.libxc.header") == [b.libxc_header(3, b.PV_TYPE, xen=(0, 1))]


@pytest.mark.parametrize("w", WIDTHS)
def test_an_hvm_stream_has_the_records_of_today(w: int) -> None:
    events = read(o.hvm(w))
    assert names(events) == HVM_NAMES
    params, shared = bodies(events, "xen.hvm.params")
    pairs = [(12, 0xFEFFE000), (27, 0xFEFF8), (17, 0xFEFFF), (32, 0xFEFF0), (33, 8)]
    assert params == b.hvm_params(*pairs).body
    assert shared == b.hvm_params((5, 0xFEFFE), (6, 0xFEFFD), (1, 0xFEFFC)).body
    assert bodies(events, "xen.hvm.context") == [b.golden("xen.hvm.context.pvh")]
    assert bodies(events, "xen.qemu.context") == [bytes(8) + o.QEVM]
    [xenstore] = bodies(events, "xen.qemu.xenstore_data")
    assert xenstore[8:].split(b"\0") == [
        b"physmap/f0000000/start_addr", b"f0000000", b"physmap/f0000000/size", b"800000",
        b"physmap/f0000000/name", b"vga.vram", b"",
    ]  # fmt: skip


@pytest.mark.parametrize("w", WIDTHS)
def test_pages_keep_pfn_type_and_contents(w: int) -> None:
    first, second = batches(o.pv(w))
    assert first.entries.tolist() == [0, 1, b.L4TAB_PINNED << 60 | 2]
    assert second.entries.tolist() == [4, b.BROKEN << 60 | 5, 6]
    assert first.pages is not None and second.pages is not None
    assert first.pages.tobytes() == b.page(1) + b.page(2) + b.page(3)
    assert second.pages.tobytes() == b.page(0) + b.page(1)
    assert batches(o.hvm(w))[1].entries.tolist() == [3, 4, b.XALLOC << 60 | 5]


def test_an_entry_without_a_pfn_is_dropped_and_with_it_an_empty_batch() -> None:
    nothing = o.batch(8, [(0xF, 0)] * 3)
    events = read(o.hvm_head(8) + o.tsc_info() + nothing + o.hvm_body(8) + o.hvm_tail() + o.qemu())
    assert [e.nr_pfns for e in events if isinstance(e, PageBatch)] == [2, 3]


@pytest.mark.parametrize("mode", [xsave.PageMode.SKIP, xsave.PageMode.CHECK])
@pytest.mark.parametrize("image", ["legacy pv 64", "legacy hvm 32", "legacy remus pv"])
def test_skipping_pages_changes_nothing_else(mode: xsave.PageMode, image: str) -> None:
    data = o.images()[image]
    full, skipped = read(data), read(data, mode=mode)
    assert [(e.name, e.offset) for e in skipped] == [(e.name, e.offset) for e in full]
    for one, other in zip(full, skipped, strict=True):
        if isinstance(one, PageBatch) and isinstance(other, PageBatch):
            assert other.pages is None
            assert other.nr_pages == one.nr_pages
            assert other.entries.tolist() == one.entries.tolist()


@pytest.mark.parametrize("image", o.images())
def test_a_pipe_gives_the_same_as_a_file(image: str) -> None:
    data, name = o.images()[image], image.split(maxsplit=1)[0]
    for pipe in (False, True):
        assert names(list(open_reader(data, name, pipe=pipe))) == names(read(data, name))


def test_the_headers_say_who_wrote_it() -> None:
    info = open_reader(o.pv(4)).info
    assert (info.word_size, info.guest_type) == (4, xsave.GuestType.X86_PV)
    assert info.details["p2m_size"] == o.P2M_SIZE
    assert open_reader(o.hvm(8)).info.guest_type is xsave.GuestType.X86_HVM


# Rarer parts.


def test_online_vcpus_are_those_of_the_bitmap_in_ascending_order() -> None:
    """Ids above 64, as Xen has had since 4.2."""
    tail = o.pv_tail(8, vcpus=o.vcpu() * 3)
    data = o.pv_head(8) + o.pv_pages(8) + o.vcpu_info(70, [0, 64, 70]) + o.chunk(o.END) + tail
    ids = [struct.unpack_from("<I", body)[0] for body in bodies(read(data), "xen.pv.vcpu_basic")]
    assert ids == [0, 64, 70]


def test_without_a_list_of_vcpus_there_is_vcpu_0() -> None:
    data = o.pv_head(8) + o.pv_pages(8) + o.chunk(o.END) + o.pv_tail(8)
    assert len(bodies(read(data), "xen.pv.vcpu_basic")) == 1


def test_each_vcpus_xsave_area_has_the_size_that_stands_before_it() -> None:
    state = o.xsave_bytes()
    shorter = o.vcpu(xsave=False) + struct.pack("<QQ", 3, 592) + state[:592]
    tail = o.pv_tail(8, vcpus=o.vcpu() + shorter)
    data = o.pv_head(8) + o.pv_pages(8) + o.vcpu_info(1, [0, 1]) + o.chunk(o.END) + tail
    sizes = [len(body) - 8 for body in bodies(read(data), "xen.pv.vcpu_xsave")]
    assert sizes == [len(state), 592]


@pytest.mark.parametrize("w", WIDTHS)
def test_a_32_bit_guest_has_smaller_contexts_and_half_the_p2m(w: int) -> None:
    info = o.extended_info(w, context=o.CONTEXT_32, extv=False)
    head = o.words([2000], w) + info + o.words([5, 6], w)  # 1024 entries in a page
    tail = struct.pack("<I", 0) + bytes(o.CONTEXT_32) + bytes(4096)
    events = read(head + o.batch(w, [(0, 5), (0, 6)], [b.page(1)] * 2) + o.chunk(o.END) + tail)
    assert bodies(events, "xen.pv.info") == [bytes([4, 3, 0, 0, 0, 0, 0, 0])]
    assert bodies(events, "xen.pv.p2m_frames") == [struct.pack("<IIQQ", 0, 1999, 5, 6)]
    assert [len(body) for body in bodies(events, "xen.pv.vcpu_basic")] == [8 + 2800]


def test_unknown_blocks_of_extended_info_are_passed_over() -> None:
    head = o.pv_head(8, o.extended_info(8, more=o.block(b"what", b"ever")))
    data = head + o.pv_body(8) + o.pv_tail(8, vcpus=o.vcpu(xsave=False))
    assert names(read(data)) == [name for name in PV_NAMES if name != "xen.pv.vcpu_xsave"]


def test_a_stream_without_extended_info_is_that_of_a_64_bit_guest() -> None:
    head = o.words([600], 8) + o.words([3, 4], 8)
    tail = struct.pack("<I", 0) + o.vcpu(extv=False, xsave=False) + bytes(4096)
    pages = o.batch(8, [(0, 3), (0, 4)], [b.page(1), b.page(2)])
    events = read(head + pages + o.chunk(o.END) + tail)
    assert bodies(events, "xen.pv.p2m_frames") == [struct.pack("<IIQQ", 0, 599, 3, 4)]


def test_of_a_32_bit_toolstack_it_is_refused_for_its_tables_may_have_two_levels() -> None:
    head = o.words([3000], 4) + o.words([2001, 2002, 2003], 4)
    with pytest.raises(StreamError, match=r"depth of a 32-bit guest's page tables is not known"):
        read(head + o.batch(4, [(0, 3)], [b.page(1)]) + bytes(64))


def test_unmapped_pfns_that_were_sent_become_absent() -> None:
    data = o.pv_head(8) + o.pv_body(8) + o.pv_tail(8, unmapped=[3, 4, 5])
    last = batches(data)[-1]
    assert last.entries.tolist() == [0xF << 60 | 4]  # 3 was never sent, 5 without contents
    assert last.pages is not None and last.pages.shape == (0, 4096)
    assert batches(data, xsave.PageMode.SKIP)[-1].pages is None


def test_verify_mode_is_marked() -> None:
    again = o.chunk(o.VERIFY) + o.pv_pages(8)
    data = o.pv_head(8) + o.pv_pages(8) + again + o.vcpu_info() + o.chunk(o.END) + o.pv_tail(8)
    found = names(read(data))
    assert found.count("xen.pv.page_data") == 4
    assert found.index("xen.libxc.verify") == found.index("xen.pv.vcpu_basic") - 3


@pytest.mark.parametrize(
    "device_model",
    [
        o.qemu(),
        o.qemu(b"RemusDeviceModelState"),
        b"QemuDeviceModelRecord" + o.QEVM,
        o.qemu(blob=o.QEVM * 2000),
    ],
)
def test_each_signature_of_a_device_models_state_is_read(device_model: bytes) -> None:
    [body] = bodies(read(o.hvm(8, device_model)), "xen.qemu.context")
    assert device_model.endswith(body[8:])
    assert body[8:12] == b"QEVM"


def test_a_bare_libxc_stream_ends_without_one() -> None:
    assert "xen.qemu.context" not in names(read(o.hvm(8, b"")))


# Checkpoints.


def test_each_checkpoint_but_the_last_is_marked() -> None:
    rounds = [o.pv_round(8), o.pv_round(8, last=True)]
    found = names(read(o.pv_remus(8, rounds)))
    marks = [name for name in found if "checkpoint" in name or name.endswith("libxc.end")]
    assert marks == ["xen.libxc.checkpoint", "xen.libxl.checkpoint_end"] * 2 + ["xen.libxc.end"]
    assert found.count("xen.pv.vcpu_basic") == 3


def test_a_captured_stream_ends_with_the_round_after_which_it_broke() -> None:
    whole = o.hvm_remus(4, 2)
    found = names(read(whole))
    assert found.count("xen.libxc.checkpoint") == 2
    assert found[-2:] == ["xen.qemu.xenstore_data", "xen.qemu.context"]
    one = o.hvm_remus(4, 1)
    assert names(read(whole[: len(one)])) == names(read(one))
    with pytest.raises(TruncatedError):
        read(whole[:-1])


def test_after_the_last_checkpoint_nothing_may_follow() -> None:
    for data in (o.pv(8), o.hvm(8)):
        with pytest.raises(FormatError, match=r"nothing after the last tail"):
            read(data + b"\0")


# What is refused, with its place.


def with_chunk(chunk: bytes, *, hvm: bool = False) -> bytes:
    if hvm:
        return o.hvm_head(8) + o.hvm_pages(8) + chunk + o.hvm_body(8) + o.hvm_tail() + o.qemu()
    return o.pv_head(8) + o.pv_pages(8) + chunk + o.pv_body(8) + o.pv_tail(8)


@pytest.mark.parametrize(
    ("chunk", "hvm", "match"),
    [
        (o.chunk(-21), False, "chunk at offset 0x.*: expected -20 to 1024, got -21"),
        (o.chunk(1025), False, "page batch at offset 0x.*: expected at most 1024 entries, got"),
        (o.param(o.IDENT_PT, 1), False, "HVM_IDENT_PT at .*: expected an HVM guest, got a PV"),
        (o.toolstack(8, o.PHYSMAP), False, "TOOLSTACK at .*: expected an HVM guest"),
        (o.toolstack(8, version=2), False, "TOOLSTACK: version at .*: expected 1, got 2"),
        (o.chunk(o.VCPU_INFO, b"\0\x10\0\0"), False, "highest vcpu at .*: expected 0 to 4095"),
        (o.vcpu_info(1, [5]), False, "online vcpus at .*: expected no vcpu above 1, got 0x20"),
        (o.batch(8, [(5, 1)]), False, "xen.pv.page_data at .*: entry 0: expected a page type"),
        (o.batch(8, [(0, 7)], [b.page(1)]), True, "xen.hvm.page_data at .*: pfn: expected below"),
        (o.chunk(1, o.words([1 << 33], 8)), True, "entry 0: expected 32 bits, got 0x200000000"),
        (o.chunk(o.COMPRESSED_DATA, bytes(8)), True, "place: expected ENABLE_COMPRESSION"),
        (o.chunk(o.TMEM_EXTRA), True, "TMEM_EXTRA at .*: expected TMEM before it, got none"),
    ],
)  # fmt: skip
def test_a_wrong_chunk_is_one_error_with_its_place(chunk: bytes, hvm: bool, match: str) -> None:
    with pytest.raises((FormatError, RecordError), match=match):
        read(with_chunk(chunk, hvm=hvm))


def test_sizes_are_bounded_before_room_is_made() -> None:
    huge = struct.pack("<I", 0xFFFFFFFF)
    for data in (
        o.words([7], 8) + b"\xff" * 8 + struct.pack("<I", 1 << 17) + bytes(1 << 17),
        o.hvm_head(8) + o.hvm_body(8) + struct.pack("<QQQ", 1, 2, 3) + huge,
        o.hvm_head(8) + o.hvm_body(8) + o.hvm_tail() + b"DeviceModelRecord0002" + huge,
        o.hvm_head(8) + o.hvm_pages(8) + o.chunk(o.TOOLSTACK, huge),
        o.pv_head(8) + o.pv_body(8) + huge,
    ):
        with pytest.raises(FormatError, match=r"at most|legacy stream"):
            read(data)


def test_before_the_first_batch_an_error_says_that_this_may_be_something_else() -> None:
    data = o.hvm_head(8) + o.tsc_info() + o.batch(8, [(0, 1)], [b.page(1)])
    with pytest.raises(StreamError, match=r"cut: .*; a legacy stream has no magic"):
        read(data[:-1])
    with pytest.raises(TruncatedError) as later:
        read(data + o.chunk(1))
    assert "magic" not in str(later.value)


def test_the_last_type_of_a_pfn_decides_whether_it_was_sent() -> None:
    """Sent, then given up in a later batch: the list of unmapped pfns changes nothing."""
    given_up = o.batch(8, [(0xF, 6)])
    data = o.pv_head(8) + o.pv_pages(8) + given_up + o.vcpu_info() + o.chunk(o.END)
    assert len(batches(data + o.pv_tail(8, unmapped=[6]))) == 3
    assert np.array_equal(batches(data + o.pv_tail(8))[2].types, [0xF])
