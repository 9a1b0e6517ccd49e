"""Each refusal of the check over a PV stream, on streams of a guest of 1024 pages."""

from __future__ import annotations

import logging
import struct
import tracemalloc
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import (
    FieldError,
    FormatError,
    PageBatch,
    Record,
    RecordHandler,
    RecordType,
    build_manager,
    count_pages,
)
from xsave_plugins import pv_memory
from xsave_plugins.pv_memory.check import MAX_TYPED_PFNS, MAX_VCPUS, PageTypes, PvCheck

HANDLERS = build_manager([pv_memory]).handlers.items()

NOTAB, L1, L2, L3, L4, XTAB = 0, 1, 2, 3, 4, 0xF
PIN = 8
END_PFN = 0x3FF  # 1024 pages: two p2m frames of a 64-bit guest, one of a 32-bit guest
P2M_PFNS = (10, 11)
CR3, CR1, START_INFO, GDT = 20, 21, 30, 31

END, CHECKPOINT = "xen.libxc.end", "xen.libxc.checkpoint"

Batch = dict[int, int]  # pfn to type
Event = tuple[str, bytes] | Batch


def info(width: int = 8) -> Event:
    return "xen.pv.info", bytes([width, {8: 4, 4: 3}[width]]) + bytes(6)


def p2m(start: int = 0, end: int = END_PFN, frames: Iterable[int] = P2M_PFNS) -> Event:
    return "xen.pv.p2m_frames", struct.pack("<II", start, end) + b"".join(
        struct.pack("<Q", frame) for frame in frames
    )


def pages(width: int = 8, **changed: int) -> Batch:
    """All pages of the guest; ``changed`` has types by the names of the pfns above."""
    types = dict.fromkeys(range(END_PFN + 1), NOTAB)
    top = L4 if width == 8 else L3
    types |= {CR3: top | PIN, CR1: top}
    return types | {globals()[name]: kind for name, kind in changed.items()}


def vcpu(
    width: int = 8,
    vcpu_id: int = 0,
    start_info: int = START_INFO,
    gdt_ents: int = 16,
    gdt: Iterable[int] = (GDT,),
    cr3: int = CR3,
    cr1: int | None = CR1,
) -> Event:
    """A context that names these pfns."""
    word = "Q" if width == 8 else "I"
    blob = bytearray(5168 if width == 8 else 2800)
    offsets = (616, 4960, 4832, 4984) if width == 8 else (524, 2704, 2640, 2716)
    at_rdx, at_gdt_ents, at_gdt, at_ctrlreg = offsets
    struct.pack_into("<" + word, blob, at_rdx, start_info)
    struct.pack_into("<" + word, blob, at_gdt_ents, gdt_ents)
    for i, pfn in enumerate(gdt):
        struct.pack_into("<" + word, blob, at_gdt + i * width, pfn)
    cr3_value = cr3 << 12 if width == 8 else (cr3 << 12 | cr3 >> 20) & 0xFFFFFFFF
    struct.pack_into("<" + word, blob, at_ctrlreg + 3 * width, cr3_value)
    if cr1 is not None and width == 8:
        struct.pack_into("<Q", blob, at_ctrlreg + 8, cr1 << 12 | 1)
    return "xen.pv.vcpu_basic", struct.pack("<II", vcpu_id, 0) + blob


SHARED_INFO: Event = "xen.pv.shared_info", bytes(4096)
TSC: Event = "xen.x86.tsc_info", bytes(24)


def batch_of(types: Batch) -> PageBatch:
    entries = np.array([kind << 60 | pfn for pfn, kind in types.items()], np.uint64)
    return PageBatch(RecordType("xen.pv.page_data"), entries, None, count_pages(entries))


def feed(check: PvCheck, *events: Event) -> PvCheck:
    """Show the events at offsets 0x100, 0x200, … as a pipeline would."""
    for number, event in enumerate(events, 1):
        if isinstance(event, dict):
            batch = batch_of(event)
            batch.offset = number * 0x100
            check.see_pages(batch)
            continue
        name, body = event
        handler = HANDLERS.get(name)
        state: Any = None
        if isinstance(handler, RecordHandler):
            state = handler.decode(memoryview(body))
        check.see_record(Record(RecordType(name), body, number * 0x100), state)
    return check


def good(width: int = 8) -> list[Event]:
    frames = P2M_PFNS if width == 8 else P2M_PFNS[:1]
    return [
        info(width), p2m(frames=frames), pages(width), TSC, SHARED_INFO, vcpu(width), (END, b""),
    ]  # fmt: skip


def refused(*events: Event, match: str) -> None:
    """The last of the events is refused, and none before it."""
    check = feed(PvCheck(), *events[:-1])
    with pytest.raises(FieldError, match=match):
        feed(check, events[-1])


def completed_with(
    *records: Event, width: int = 8, memory: Batch | None = None, match: str
) -> None:
    """Refused at the end; ``records`` are the vcpus of an otherwise good stream."""
    start = [*good(width)[:2], memory or pages(width), TSC, SHARED_INFO]
    refused(*start, *records, (END, b""), match=match)


@pytest.mark.parametrize("width", [8, 4])
def test_a_good_stream_passes(width: int) -> None:
    feed(PvCheck(), *good(width)).finish()


# Order.


def test_a_second_info_is_refused() -> None:
    refused(info(), info(), match="expected one xen.pv.info, got a second")


def test_p2m_frames_before_info_is_refused() -> None:
    refused(p2m(), match=r"expected xen\.pv\.info before it")


def test_shared_info_before_info_is_refused() -> None:
    refused(SHARED_INFO, match=r"expected xen\.pv\.info before it")


def test_a_context_before_info_is_refused() -> None:
    refused(vcpu(), match=r"expected xen\.pv\.info before it")


def test_pages_before_p2m_frames_are_refused() -> None:
    refused(info(), {0: NOTAB}, match=r"expected xen\.pv\.p2m_frames before it")


# Sizes and bounds, when the record arrives.


@pytest.mark.parametrize(("width", "nr", "expected"), [(8, 1, 2), (4, 2, 1)])
def test_p2m_frames_of_the_other_width_are_refused(width: int, nr: int, expected: int) -> None:
    refused(
        info(width),
        p2m(frames=P2M_PFNS[:nr]),
        match=rf"frames: expected {expected} for pfns 0x0-0x3ff at guest_width {width}, got {nr}",
    )


@pytest.mark.parametrize("width", [8, 4])
def test_a_context_of_the_other_width_is_refused(width: int) -> None:
    other = 12 - width
    refused(info(width), vcpu(other), match=f"expected that of guest_width {width}, got .* {other}")


def test_a_vcpu_id_that_no_guest_can_have_is_refused() -> None:
    refused(info(), vcpu(vcpu_id=MAX_VCPUS), match=f"vcpu_id: expected below {MAX_VCPUS}, got 8192")


@pytest.mark.parametrize("kind", [NOTAB, XTAB])
def test_a_pfn_above_the_highest_known_one_is_refused(kind: int) -> None:
    refused(
        info(), p2m(), {5: NOTAB, END_PFN + 1: kind, 0x999: kind},
        match=r"pfn: expected at most 0x3ff .*, got 0x400",
    )  # fmt: skip


def test_the_highest_known_pfn_may_rise_and_never_falls() -> None:
    check = feed(PvCheck(), info(), p2m(), p2m(END_PFN + 1, 0x5FF, [12]), {0x5FF: NOTAB})
    feed(check, p2m(0, 0, [10]), {0x5FF: NOTAB})
    with pytest.raises(FieldError, match="expected at most 0x5ff"):
        feed(check, {0x600: NOTAB})


# Completion: what is missing.


def test_no_context_for_vcpu_0_is_refused_at_the_end() -> None:
    completed_with(match="vcpu_basic of vcpu 0: expected one, got none")
    completed_with(vcpu(vcpu_id=1), match="vcpu_basic of vcpu 0: expected one, got none")


def test_no_p2m_frames_is_refused_at_the_end() -> None:
    refused(info(), (END, b""), match=r"xen\.pv\.p2m_frames: expected one, got none")


def test_no_info_is_refused_at_the_end() -> None:
    refused((END, b""), match=r"xen\.pv\.info: expected one, got none")


# Completion: the p2m.


@pytest.mark.parametrize("kind", [L1, L4 | PIN, XTAB, 0xD, 0xE])
def test_a_p2m_frame_that_is_no_plain_page_is_refused(kind: int) -> None:
    memory = pages() | {P2M_PFNS[1]: kind}
    completed_with(
        vcpu(), memory=memory, match="p2m frame 1: expected a page of type NOTAB, got pfn 0xb of"
    )


def test_a_p2m_frame_that_was_never_sent_is_refused() -> None:
    memory = pages()
    del memory[P2M_PFNS[0]]
    completed_with(
        vcpu(), memory=memory, match="p2m frame 0: .* pfn 0xa of type XTAB, or never sent"
    )


def test_a_p2m_frame_out_of_range_is_refused() -> None:
    refused(
        info(), p2m(frames=[10, END_PFN + 1]), pages(), vcpu(), (END, b""),
        match="p2m frame 1: expected a pfn up to 0x3ff, got 0x400",
    )  # fmt: skip


def test_a_part_of_the_p2m_that_was_never_listed_is_refused() -> None:
    refused(
        info(), p2m(512, END_PFN, [11]), pages(), vcpu(), (END, b""),
        match="p2m frame 0: expected a pfn, got none listed",
    )  # fmt: skip


def test_a_p2m_listed_in_several_records_is_one_list() -> None:
    parts = [p2m(0, 511, [10]), p2m(512, END_PFN, [11])]
    feed(PvCheck(), info(), *parts, pages(), vcpu(), (END, b"")).finish()


def test_a_later_list_replaces_an_earlier_one() -> None:
    events = [info(), p2m(frames=[10, 0x7777]), p2m(512, END_PFN, [11]), pages(), vcpu()]
    feed(PvCheck(), *events, (END, b""))


# Completion: the vcpus' pages.


@pytest.mark.parametrize(("width", "register"), [(8, "rdx"), (4, "edx")])
def test_a_start_info_page_that_is_no_plain_page_is_refused(width: int, register: str) -> None:
    completed_with(
        vcpu(width), width=width, memory=pages(width, START_INFO=L2),
        match=rf"start-info page \({register}\): expected .* type NOTAB, got pfn 0x1e .*L2TAB",
    )  # fmt: skip


def test_a_start_info_page_out_of_range_is_refused() -> None:
    completed_with(
        vcpu(start_info=1 << 40), match=r"start-info page .*: expected a pfn up to 0x3ff, got 0x1"
    )


def test_only_vcpu_0_names_a_start_info_page() -> None:
    feed(PvCheck(), *good()[:-1], vcpu(vcpu_id=1, start_info=1 << 40), (END, b""))


@pytest.mark.parametrize("width", [8, 4])
def test_a_gdt_page_that_is_no_plain_page_is_refused(width: int) -> None:
    completed_with(
        vcpu(width), width=width, memory=pages(width, GDT=XTAB),
        match=r"vcpu 0: gdt_frames\[0\]: expected a page of type NOTAB, got pfn 0x1f",
    )  # fmt: skip


def test_a_gdt_page_out_of_range_is_refused() -> None:
    completed_with(vcpu(gdt=[0x400]), match=r"gdt_frames\[0\]: expected a pfn up to 0x3ff")


@pytest.mark.parametrize(
    ("gdt_ents", "nr_frames"), [(0, 0), (1, 1), (512, 1), (513, 2), (7168, 14)]
)
def test_only_gdt_frames_that_hold_entries_count(gdt_ents: int, nr_frames: int) -> None:
    frames = [GDT] * nr_frames + [0x9999] * (16 - nr_frames)
    feed(PvCheck(), *good()[:-2], vcpu(gdt_ents=gdt_ents, gdt=frames), (END, b""))
    if nr_frames:
        frames[nr_frames - 1] = 0x9999
        completed_with(vcpu(gdt_ents=gdt_ents, gdt=frames), match=rf"gdt_frames\[{nr_frames - 1}\]")


def test_more_gdt_entries_than_a_guest_can_have_are_refused() -> None:
    completed_with(vcpu(gdt_ents=7169), match="gdt_ents: expected at most 7168, got 7169")


@pytest.mark.parametrize(("width", "level", "name"), [(8, L4, "L4TAB"), (4, L3, "L3TAB")])
def test_a_cr3_page_that_is_no_top_level_table_is_refused(
    width: int, level: int, name: str
) -> None:
    for kind in range(16):
        if kind in (5, 6, 7, 8):
            continue
        memory = pages(width, CR3=kind)
        if kind in (level, level | PIN):
            feed(PvCheck(), *good(width)[:2], memory, vcpu(width), (END, b""))
        else:
            completed_with(
                vcpu(width), width=width, memory=memory,
                match=rf"vcpu 0: ctrlreg\[3\] \(CR3\): expected .* type {name}, got pfn 0x14",
            )  # fmt: skip


@pytest.mark.parametrize(("width", "pfn"), [(8, 0x400), (4, 0x400), (4, 0x100000 | CR3)])
def test_a_cr3_page_out_of_range_is_refused(width: int, pfn: int) -> None:
    completed_with(
        vcpu(width, cr3=pfn), width=width,
        match=rf"ctrlreg\[3\] .*: expected a pfn up to 0x3ff, got {pfn:#x}",
    )  # fmt: skip


def test_a_valid_cr1_page_that_is_no_top_level_table_is_refused() -> None:
    completed_with(
        vcpu(), memory=pages(CR1=L3 | PIN),
        match=r"ctrlreg\[1\] \(CR1\): expected .* type L4TAB, got pfn 0x15 of type L3TAB\+PIN",
    )  # fmt: skip


def test_a_valid_cr1_page_out_of_range_is_refused() -> None:
    completed_with(vcpu(cr1=0x400), match=r"ctrlreg\[1\] .*: expected a pfn up to 0x3ff")


def test_a_cr1_that_is_not_valid_names_no_page() -> None:
    feed(PvCheck(), *good()[:2], pages(CR1=NOTAB), vcpu(cr1=None), (END, b""))


def test_the_pages_of_every_vcpu_are_looked_at() -> None:
    completed_with(vcpu(), vcpu(vcpu_id=7, cr3=GDT), match=r"vcpu 7: ctrlreg\[3\]")


# What is latest counts.


def test_the_latest_type_of_a_page_counts() -> None:
    feed(PvCheck(), *good()[:2], pages(CR3=L1), {CR3: L4}, vcpu(), (END, b""))
    refused(*good()[:2], pages(), {CR3: NOTAB}, vcpu(), (END, b""), match=r"\(CR3\).*of type NOTAB")


def test_the_latest_context_of_a_vcpu_counts() -> None:
    feed(PvCheck(), *good()[:3], vcpu(cr3=GDT), vcpu(), (END, b""))


def test_each_checkpoint_is_looked_at() -> None:
    check = feed(PvCheck(), *good()[:-1], (CHECKPOINT, b""))
    feed(check, pages(), vcpu(), (CHECKPOINT, b""), {CR3: XTAB})
    with pytest.raises(FieldError, match=r"\(CR3\)"):
        feed(check, (CHECKPOINT, b""))


def test_what_follows_the_last_checkpoint_and_has_no_end_is_thrown_away() -> None:
    feed(PvCheck(), *good()[:-1], (CHECKPOINT, b""), {CR3: XTAB}).finish()


def test_a_stream_without_end_is_looked_at_when_it_is_over() -> None:
    feed(PvCheck(), *good()[:-1]).finish()
    check = feed(PvCheck(), *good()[:2], pages(CR3=NOTAB), vcpu())
    with pytest.raises(FormatError, match=r"CR3\) at offset 0x400: expected .*L4TAB, got pfn 0x14"):
        check.finish()


def test_an_empty_stream_is_refused_when_it_is_over() -> None:
    with pytest.raises(FormatError, match=r"xen\.pv\.info at offset 0x0: expected one, got none"):
        PvCheck().finish()


# Bounds.


def huge(end: int) -> Event:
    return p2m(end, end, [1])


def test_beyond_the_bound_types_are_not_remembered_and_that_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        check = feed(PvCheck(), *good()[:3], huge(MAX_TYPED_PFNS), huge(MAX_TYPED_PFNS + 9))
    assert [record.args for record in caplog.records] == [(MAX_TYPED_PFNS + 1, MAX_TYPED_PFNS)]
    feed(check, {CR3: NOTAB}, vcpu(), (END, b"")).finish()


def test_beyond_the_bound_ranges_and_missing_contexts_are_still_refused() -> None:
    start = [info(), huge(MAX_TYPED_PFNS)]
    above = MAX_TYPED_PFNS + 1
    refused(*start, {above: NOTAB}, match="expected at most 0x8000000")
    refused(*start, (END, b""), match="of vcpu 0: expected one")
    refused(*start, vcpu(cr3=above), (END, b""), match=r"\(CR3\): expected a pfn up to 0x8000000")
    refused(*start, vcpu(gdt_ents=7169), (END, b""), match="gdt_ents")


def test_memory_does_not_grow_with_what_a_short_stream_claims() -> None:
    feed(PvCheck(), *good())  # what is imported on the way does not count
    tracemalloc.start()
    try:
        check = feed(PvCheck(), info(), huge(MAX_TYPED_PFNS - 1), {0: NOTAB, 1 << 26: NOTAB})
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 << 20
    with pytest.raises(FormatError):
        check.finish()


@settings(max_examples=50)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from([0, 1, 65535, 65536, 70000, 1 << 20]), st.integers(0, 15)),
            min_size=1,
        )
    )
)
def test_page_types_are_those_of_the_latest_mention(batches: list[list[tuple[int, int]]]) -> None:
    types, expected = PageTypes(), dict[int, int]()
    for batch in batches:
        pfns, kinds = (np.array(column, np.uint64) for column in zip(*batch, strict=True))
        types.put(pfns, kinds)
        expected.update(batch)
    asked = [0, 1, 2, 65535, 65536, 70000, 1 << 20, 1 << 21]
    found = types.get(np.array(asked, np.uint64)).tolist()
    assert found == [expected.get(pfn, XTAB) for pfn in asked]
