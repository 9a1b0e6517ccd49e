"""A PV guest's state becomes independent of its host, and fits another one again."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.fake_domain import (
    NO_FRAME,
    FakeDomain,
    FakePv,
    FakePvThatShares,
    FakeX86,
    apply,
    bodies,
    collect,
    move,
)
from tests.plugins.xen_stream.streams import read
from xsave import (
    PFN_MASK,
    Entries,
    FieldError,
    GuestType,
    Handler,
    PageBatch,
    Pages,
    Phase,
    Record,
    RecordHandler,
    SourceError,
    XsaveError,
    carries_page,
)
from xsave_plugins.pv_memory.info import PvInfoHandler
from xsave_plugins.pv_memory.p2m_frames import P2mFramesHandler
from xsave_plugins.pv_memory.page_data import PvPageDataHandler
from xsave_plugins.pv_memory.shared_info import SharedInfo, SharedInfoHandler
from xsave_plugins.pv_memory.vcpu_basic import VcpuBasicHandler
from xsave_plugins.pv_memory.vcpu_extended import VcpuExtendedHandler
from xsave_plugins.pv_memory.vcpu_msrs import VcpuMsrsHandler
from xsave_plugins.pv_memory.vcpu_xsave import VcpuXsaveHandler

if TYPE_CHECKING:
    from xsave import Event

MEMORY = PvPageDataHandler()
BASIC = VcpuBasicHandler()
FRAME_BITS = ((1 << 40) - 1) << 12
L1, L2, L3, L4, PINNED = 1, 2, 3, 4, 8


def domain(p2m_size: int, width: int = 0, *, seed: int = 0, populated: bool = True) -> FakeDomain:
    made = FakeDomain(GuestType.X86_PV, p2m_size, seed=seed, populated=populated)
    made.facets["pv"] = FakePv(made, width)
    return made


def code(width: int) -> str:
    return "<Q" if width == 8 else "<I"


# Page tables


def entries(*pairs: tuple[int, int]) -> Entries:
    """Of (type, pfn)."""
    return np.array([kind << 60 | pfn for kind, pfn in pairs], np.uint64)


def random_table(rng: Random, level: int, frames: list[int]) -> list[int]:
    """512 entries: half of them present, with any flags but that of superpages."""
    table = []
    for _ in range(512):
        if rng.getrandbits(1):
            flags = rng.getrandbits(64) & ~FRAME_BITS | 1
            table.append(flags & ~(1 << 7 if level > 1 else 0) | rng.choice(frames) << 12)
        else:
            table.append(rng.getrandbits(64) & ~1)
    return table


def as_pages(tables: list[list[int]]) -> Pages:
    return np.array(tables, np.uint64).view(np.uint8)


def renumbered(table: list[int], level: int, width: int, frames: dict[int, int]) -> list[int]:
    """What the table is in the end, an entry at a time."""
    xen = {(8, L4): range(256, 272), (4, L3): range(4, 512)}.get((width, level), range(0))
    new = []
    for slot, entry in enumerate(table):
        if slot in xen:
            new.append(0)
        elif entry & 1:
            new.append(entry & ~FRAME_BITS | frames[entry >> 12 & (1 << 40) - 1] << 12)
        else:
            new.append(entry)
    return new


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([4, 8]), st.lists(st.integers(0, 8), max_size=6))
def test_tables_go_there_and_back_with_frames_renumbered(
    seed: int, width: int, kinds: list[int]
) -> None:
    top = 4 if width == 8 else 3
    levels = [min(kind % 5, top) for kind in kinds]
    pinned = [
        PINNED if kind > 4 and level else 0 for kind, level in zip(kinds, levels, strict=True)
    ]
    types = [level | pin for level, pin in zip(levels, pinned, strict=True)]
    source, dest = domain(64, width, seed=seed), domain(64, width, seed=seed + 1)
    rng = Random(seed)
    frames = [source.mfn(pfn) for pfn in range(64)]
    tables = [random_table(rng, level or 1, frames) for level in levels]
    listed = entries(*((kind, pfn) for pfn, kind in enumerate(types)))
    pages = as_pages(tables).reshape(-1, 4096)

    assert MEMORY.normalise(source, listed, pages) is None
    to_pfn = {mfn: pfn for pfn, mfn in enumerate(frames)}
    for row, table, level in zip(pages, tables, levels, strict=True):
        expected = renumbered(table, level, width, to_pfn) if level else table
        assert row.view(np.uint64).tolist() == expected

    MEMORY.localise(dest, listed, pages)
    to_new = {mfn: dest.mfn(pfn) for pfn, mfn in enumerate(frames)}
    for row, table, level in zip(pages, tables, levels, strict=True):
        expected = renumbered(table, level, width, to_new) if level else table
        assert row.view(np.uint64).tolist() == expected


def test_only_the_pae_table_that_maps_the_top_has_slots_of_xens() -> None:
    source = domain(8, 4)
    top = [source.mfn(3) << 12 | 1] * 428 + [0x42 << 12 | 1 | 1 << 7] * 84
    low = [source.mfn(3) << 12 | 1] * 512
    empty_slot = [source.mfn(3) << 12 | 1] * 428 + [0x42 << 12] * 84
    pages = as_pages([top, low, empty_slot])
    assert MEMORY.normalise(source, entries((L2, 0), (L2, 1), (L2, 2)), pages) is None
    words = pages.view(np.uint64)
    assert words[0].tolist() == [3 << 12 | 1] * 428 + [0] * 84
    assert words[1].tolist() == [3 << 12 | 1] * 512
    assert words[2].tolist() == [3 << 12 | 1] * 428 + [0x42 << 12] * 84


def test_a_64_bit_second_level_table_has_no_slots_of_xens() -> None:
    source = domain(8, 8)
    pages = as_pages([[0] * 428 + [0x42 << 12 | 1] * 84])
    made = MEMORY.normalise(source, entries((L2, 0)), pages)
    assert made is not None and not made.any()


@pytest.mark.parametrize("kind", [L1, L2, L3, L4, L1 | PINNED])
def test_a_table_with_a_foreign_frame_is_deferred_and_no_other(kind: int) -> None:
    source = domain(16, 8)
    good = [source.mfn(5) << 12 | 1] + [0] * 511
    bad = [0] * 511 + [0x42 << 12 | 1]
    pages = as_pages([good, bad, bad, good])
    made = MEMORY.normalise(source, entries((kind, 1), (kind, 2), (0, 3), (kind, 4)), pages)
    assert made is not None and made.tolist() == [True, False, True, True]
    words = pages.view(np.uint64)
    assert words[0].tolist() == words[3].tolist() == [5 << 12 | 1] + [0] * 511
    assert words[2].tolist() == bad  # an ordinary page, whatever stands in it


@pytest.mark.parametrize("kind", [L2, L3, L4, L2 | PINNED])
def test_superpages_cannot_be_saved(kind: int) -> None:
    source = domain(16, 8)
    source.types[2] = kind
    pages = as_pages([[0] * 100 + [source.mfn(5) << 12 | 0x81] + [0] * 411])
    with pytest.raises(SourceError, match="page at pfn 0x2 has superpages"):
        MEMORY.normalise(source, entries((kind, 2)), pages)


def test_what_only_looked_like_superpages_is_deferred() -> None:
    """The guest made something else of the page after its type was asked for."""
    source = domain(16, 8)
    source.types[2] = 0
    pages = as_pages([[source.mfn(5) << 12 | 0x81] * 512])
    made = MEMORY.normalise(source, entries((L2, 2)), pages)
    assert made is not None and made.tolist() == [False]


def test_the_superpage_bit_means_something_else_in_first_level_tables_and_absent_entries() -> None:
    source = domain(16, 8)
    pages = as_pages([[source.mfn(5) << 12 | 0x81] * 512, [0x80] * 512])
    assert MEMORY.normalise(source, entries((L1, 2), (L2, 3)), pages) is None


def test_a_32_bit_guest_has_no_fourth_level() -> None:
    pages = as_pages([[0] * 512])
    with pytest.raises(SourceError, match="L4TAB page at pfn 0x3: a 32-bit guest"):
        MEMORY.normalise(domain(16, 4), entries((L4, 3)), pages)
    with pytest.raises(FieldError, match=r"32-bit guest.*L4TAB page at pfn 0x3"):
        MEMORY.localise(domain(16, 4), entries((L4, 3)), pages)


def test_batches_without_tables_are_not_looked_at() -> None:
    bare = FakeDomain(GuestType.X86_PV, 4)
    pages = as_pages([[1] * 512])
    assert MEMORY.normalise(bare, entries((0, 1)), pages) is None
    assert MEMORY.normalise(bare, entries(), pages[:0]) is None
    MEMORY.localise(bare, entries((0, 1)), pages)
    assert pages.view(np.uint64).tolist() == [[1] * 512]


def test_pfns_that_tables_only_refer_to_get_memory() -> None:
    dest = domain(16, 8, populated=False)
    pages = as_pages([[pfn << 12 | 1 for pfn in (3, 9, 3)] + [7 << 12] * 509])
    MEMORY.localise(dest, entries((L1, 1)), pages)
    assert dest.told == [("populate", [3, 9])]
    assert pages.view(np.uint64)[0, :3].tolist() == [dest.mfn(pfn) << 12 | 1 for pfn in (3, 9, 3)]


def test_pfns_beyond_the_guests_highest_are_refused() -> None:
    pages = as_pages([[0] * 512, [0] * 7 + [16 << 12 | 1] + [0] * 504])
    with pytest.raises(FieldError, match=r"pfn 0x2, slot 7: expected a pfn below 0x10, got 0x10"):
        MEMORY.localise(domain(16, 8), entries((L1, 1), (L1 | PINNED, 2)), pages)


# Vcpus


@frozen
class Places:
    """Offsets in a context, from Xen's headers."""

    size: int
    flags: int
    start_info: int
    gdt: int
    gdt_ents: int
    ctrlreg: int


PLACES = {
    8: Places(5168, 512, 616, 4832, 4960, 4984),
    4: Places(2800, 512, 524, 2640, 2704, 2716),
}


def cr3(frame: int, width: int) -> int:
    return frame << 12 if width == 8 else (frame << 12 | frame >> 20) & 0xFFFFFFFF


def context_of(width: int, seed: int, given: dict[int, int]) -> bytearray:
    """A context of random bytes, with these numbers at these offsets."""
    context = bytearray(Random(seed).randbytes(PLACES[width].size))
    for offset, value in given.items():
        struct.pack_into(code(width), context, offset, value)
    return context


def host_context(
    of: FakeDomain, width: int, *, vcpu: int = 0, gdt_ents: int = 1025, user: bool = True
) -> bytes:
    """As a hypervisor gives it: start_info pfn 1, GDT pfns 2, 3, 4, CR3 pfn 5, CR1 pfn 6."""
    at = PLACES[width]
    given = {at.flags: 0xFFFF & ~(1 << 5), at.gdt_ents: gdt_ents}
    if vcpu == 0:
        given[at.start_info] = of.mfn(1)
    for number in range(-(-gdt_ents // 512)):
        given[at.gdt + number * width] = of.mfn(2 + number)
    given[at.ctrlreg + 3 * width] = cr3(of.mfn(5), width)
    if width == 8:
        given[at.ctrlreg + width] = of.mfn(6) << 12 if user else 0
    return bytes(context_of(width, vcpu, given))


def image_context(width: int, like: bytes, *, vcpu: int = 0, user: bool = True) -> bytes:
    """The same as it stands in an image."""
    at, context = PLACES[width], bytearray(like)
    given = {at.gdt + number * width: 2 + number for number in range(3)}
    given[at.ctrlreg + 3 * width] = cr3(5, width)
    if vcpu == 0:
        given[at.start_info] = 1
    if width == 8 and user:
        given[at.ctrlreg + width] = 6 << 12 | 1
    for offset, value in given.items():
        struct.pack_into(code(width), context, offset, value)
    return bytes(context)


def header(vcpu: int) -> bytes:
    return struct.pack("<II", vcpu, 0)


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("user", [True, False])
def test_a_context_arrives_with_the_frames_of_its_new_host(width: int, user: bool) -> None:
    source, dest = domain(16, width, seed=1), domain(16, width, seed=2)
    contexts = {vcpu: host_context(source, width, vcpu=vcpu, user=user) for vcpu in (0, 2)}
    source.facets["pv"].states = {(vcpu, "basic"): one for vcpu, one in contexts.items()}
    assert move(BASIC, source, dest) == [
        header(vcpu) + image_context(width, one, vcpu=vcpu, user=user)
        for vcpu, one in contexts.items()
    ]
    for vcpu in contexts:
        expected = bytearray(host_context(dest, width, vcpu=vcpu, user=user))
        flags = PLACES[width].flags
        struct.pack_into(code(width), expected, flags, 0xFFFF)  # online
        assert dest.facets["pv"].states[vcpu, "basic"] == bytes(expected)


@settings(max_examples=50)
@given(st.integers(0, (1 << 32) - 1))
def test_any_frame_of_32_bits_fits_a_32_bit_cr3(frame: int) -> None:
    source = domain(8, 4)
    source.frames[5] = frame
    source.facets["pv"].states[0, "basic"] = host_context(source, 4, gdt_ents=0)
    (body,) = bodies(BASIC, source)
    assert struct.unpack_from("<I", body, 8 + 2716 + 12) == (5 << 12,)
    apply(BASIC, source, body)
    saved = source.facets["pv"].states[0, "basic"]
    assert struct.unpack_from("<I", saved, 2716 + 12) == (cr3(frame, 4),)


def test_a_frame_of_more_than_32_bits_does_not_fit_a_32_bit_guest() -> None:
    source, dest = domain(8, 4), domain(8, 4)
    source.facets["pv"].states[0, "basic"] = host_context(source, 4, gdt_ents=0)
    dest.frames[5] = 1 << 32
    with pytest.raises(FieldError, match="CR3: expected an mfn of 32 bits"):
        move(BASIC, source, dest)


@pytest.mark.parametrize("what", ["start_info", "GDT", "CR3", "CR1"])
def test_a_frame_that_is_not_the_guests_cannot_be_saved(what: str) -> None:
    source = domain(16, 8)
    source.facets["pv"].states[0, "basic"] = host_context(source, 8)
    source.frames[{"start_info": 1, "GDT": 3, "CR3": 5, "CR1": 6}[what]] = 0x42
    with pytest.raises(SourceError, match=f"vcpu 0: {what}: mfn 0x.* is not a frame of this guest"):
        bodies(BASIC, source)


@pytest.mark.parametrize("what", ["start_info", "GDT", "CR3", "CR1"])
def test_a_pfn_without_memory_cannot_be_restored(what: str) -> None:
    source, dest = domain(16, 8), domain(16, 8)
    source.facets["pv"].states[0, "basic"] = host_context(source, 8)
    pfn = {"start_info": 1, "GDT": 3, "CR3": 5, "CR1": 6}[what]
    dest.frames[pfn] = NO_FRAME
    message = f"vcpu 0: {what}: expected a pfn with memory, got {pfn:#x}"
    with pytest.raises(FieldError, match=message):
        move(BASIC, source, dest)


def test_more_of_a_gdt_than_a_guest_can_have_is_refused_both_ways() -> None:
    source, dest = domain(16, 8), domain(16, 8)
    at = PLACES[8]
    source.facets["pv"].states[0, "basic"] = bytes(context_of(8, 0, {at.gdt_ents: 7169}))
    with pytest.raises(SourceError, match="7169 GDT entries"):
        bodies(BASIC, source)
    with pytest.raises(FieldError, match="gdt_ents: expected at most 7168, got 7169"):
        apply(BASIC, dest, header(0) + source.facets["pv"].states[0, "basic"])


def test_a_context_of_the_other_width_is_refused() -> None:
    source, dest = domain(16, 4), domain(16, 8)
    source.facets["pv"].states[0, "basic"] = host_context(source, 4)
    with pytest.raises(FieldError, match="expected that of width 8, got that of width 4"):
        move(BASIC, source, dest)


OTHER_STATE = [
    (VcpuExtendedHandler(), "extended", 64),
    (VcpuXsaveHandler(), "xsave", 16),
    (VcpuMsrsHandler(), "msrs", 32),
]


@pytest.mark.parametrize(("handler", "kind", "size"), OTHER_STATE)
def test_other_vcpu_state_arrives_as_it_was(
    handler: RecordHandler[Any], kind: str, size: int
) -> None:
    source, dest = domain(4, 8), domain(4, 8)
    states = {(vcpu, kind): Random(vcpu).randbytes(size) for vcpu in (3, 0)}
    source.facets["pv"].states = {**states, (1, kind): b"", (2, "basic"): bytes(5168)}
    assert move(handler, source, dest) == [header(vcpu) + states[vcpu, kind] for vcpu in (0, 3)]
    assert dest.facets["pv"].states == states


@pytest.mark.parametrize(("handler", "kind", "size"), OTHER_STATE)
def test_a_record_of_nothing_but_its_header_means_nothing(
    handler: RecordHandler[Any], kind: str, size: int
) -> None:
    dest = domain(4, 8)
    apply(handler, dest, header(0))
    assert not dest.facets["pv"].states


@pytest.mark.parametrize(
    ("handler", "size"), [(BASIC, 5168), *((row[0], row[2]) for row in OTHER_STATE)]
)
def test_a_later_record_replaces_that_of_its_vcpu(handler: RecordHandler[Any], size: int) -> None:
    states = [handler.decode(memoryview(header(vcpu) + bytes(size))) for vcpu in (0, 5)]
    assert [handler.key(state) for state in states] == [0, 5]


# What the guest is


@pytest.mark.parametrize(("width", "levels"), [(8, 4), (4, 3)])
def test_the_width_is_told_first(width: int, levels: int) -> None:
    dest = domain(4)
    assert move(PvInfoHandler(), domain(4, width), dest) == [bytes([width, levels]) + bytes(6)]
    assert dest.facets["pv"].guest_width == width


@pytest.mark.parametrize(("width", "p2m_size", "nr_pages"), [(8, 513, 2), (4, 1024, 1)])
def test_the_p2ms_pages_are_told_with_the_guests_highest_pfn(
    width: int, p2m_size: int, nr_pages: int
) -> None:
    source, dest = domain(p2m_size, width), domain(0, width)
    source.facets["pv"].p2m_pages = np.arange(7, 7 + nr_pages, dtype=np.uint64)
    (body,) = move(P2mFramesHandler(), source, dest)
    assert body == struct.pack(f"<II{nr_pages}Q", 0, p2m_size - 1, *range(7, 7 + nr_pages))
    assert dest.facets["pv"].p2m_pages.tolist() == list(range(7, 7 + nr_pages))
    assert dest.info.p2m_size == p2m_size


def test_a_p2m_that_does_not_cover_the_guest_cannot_be_saved() -> None:
    source = domain(513, 8)
    source.facets["pv"].p2m_pages = np.array([7], np.uint64)
    with pytest.raises(SourceError, match="p2m has 1 pages; 2 cover pfns 0-0x200"):
        bodies(P2mFramesHandler(), source)


def test_a_p2m_may_be_told_in_pieces() -> None:
    dest = domain(0, 8)
    first = struct.pack("<II2Q", 0, 1023, 3, 4)
    second = struct.pack("<II2Q", 512, 1500, 8, 9)
    apply(P2mFramesHandler(), dest, first, second)
    assert dest.facets["pv"].p2m_pages.tolist() == [3, 8, 9]
    assert dest.info.p2m_size == 1501
    with pytest.raises(FieldError, match="expected pfns that follow those of the records before"):
        apply(P2mFramesHandler(), dest, struct.pack("<IIQ", 2048, 2049, 3))


SHARED = {  # offsets and sizes by width
    8: {"pending": (2048, 512), "mask": (2560, 512), "clock": (3072, 16), "arch": (3088, 48),
        "list_list": 3096, "selector": (8, 8), "unused": 3136},
    4: {"pending": (2048, 128), "mask": (2176, 128), "clock": (2304, 12), "arch": (2316, 28),
        "list_list": 2320, "selector": (4, 4), "unused": 2344},
}  # fmt: skip


@pytest.mark.parametrize("width", [4, 8])
def test_the_shared_page_keeps_what_is_the_guests(width: int) -> None:
    source, dest = domain(4, width), domain(4, width)
    saved, own = Random(1).randbytes(4096), Random(2).randbytes(4096)
    source.facets["pv"].shared, dest.facets["pv"].shared = saved, own
    assert move(SharedInfoHandler(), source, dest) == [saved]

    at: dict[str, Any] = SHARED[width]
    expected = bytearray(own)
    expected[:2048] = saved[:2048]
    for vcpu in range(32):
        start = 64 * vcpu + at["selector"][0]
        expected[start : start + at["selector"][1]] = bytes(at["selector"][1])
    start, size = at["pending"]
    expected[start : start + size] = bytes(size)
    start, size = at["mask"]
    expected[start : start + size] = b"\xff" * size
    start, size = at["arch"]
    expected[start : start + size] = saved[start : start + size]
    expected[at["list_list"] : at["list_list"] + width] = bytes(width)
    if width == 4:  # the clock's high word lies in arch, and the clock is the host's
        expected[2340:2344] = own[2340:2344]
    assert dest.facets["pv"].shared == bytes(expected)


STATE_HANDLERS = [PvInfoHandler(), P2mFramesHandler(), SharedInfoHandler(), BASIC,
                  *(row[0] for row in OTHER_STATE)]  # fmt: skip


@pytest.mark.parametrize("handler", STATE_HANDLERS, ids=lambda handler: handler.name)
def test_a_domain_without_the_facet_has_none_and_takes_none(handler: RecordHandler[Any]) -> None:
    bare, whole = FakeDomain(GuestType.X86_PV, 16), domain(16, 8)
    assert not bodies(handler, bare)
    pv = whole.facets["pv"]
    pv.p2m_pages = np.array([1], np.uint64)
    pv.states = {(0, kind): bytes(size) for _, kind, size in OTHER_STATE}
    pv.states[0, "basic"] = host_context(whole, 8)
    with pytest.raises(XsaveError, match="no 'pv' state"):
        apply(handler, bare, *bodies(handler, whole))


# The end of restoring

START_INFO = {  # offsets by width: nr_pages, shared_info, flags, store_mfn, console mfn
    8: (32, 40, 48, 56, 72),
    4: (32, 36, 40, 44, 52),
}
START_PFN = 1
P2M_PFNS = (9, 4)


def arrived(width: int, *, shares: bool = False) -> FakeDomain:
    """A guest whose records and pages have all come; its p2m needs two pages."""
    p2m_size = 4096 // width + 5
    made = domain(p2m_size, width, seed=3)
    pv = FakePvThatShares(made, width) if shares else FakePv(made, width)
    made.facets["pv"] = pv
    pv.rings = (made.mfn(11), made.mfn(12))
    pv.set_p2m_frame_pfns(np.array(P2M_PFNS, np.uint64), p2m_size)
    pv.states[0, "basic"] = host_context(made, width)
    for pfn in (START_PFN, *P2M_PFNS):
        made.memory[pfn] = np.frombuffer(Random(pfn).randbytes(4096), np.uint8)
    made.frames[p2m_size - 2] = NO_FRAME
    made.told.clear()
    return made


TABLES = entries((L4 | PINNED, 5), (L1, 7))


@pytest.mark.parametrize("width", [4, 8])
def test_types_are_told_before_anything_is_rewritten(width: int) -> None:
    dest = arrived(width)
    MEMORY.finish(dest, TABLES)
    assert dest.told == [
        ("set_page_types", TABLES.tolist()),
        ("write_pages", list(P2M_PFNS)),
        ("write_pages", [START_PFN]),
    ]


@pytest.mark.parametrize("width", [4, 8])
def test_the_guests_p2m_is_that_of_its_new_host(width: int) -> None:
    dest = arrived(width)
    MEMORY.finish(dest, TABLES)
    found = b"".join(dest.memory[pfn].tobytes() for pfn in P2M_PFNS)
    expected = b"".join(
        (mfn & (1 << 8 * width) - 1).to_bytes(width, "little") for mfn in dest.frames.tolist()
    )
    assert found[: len(expected)] == expected
    assert found[len(expected) :] == Random(P2M_PFNS[1]).randbytes(4096)[5 * width :]


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("shares", [True, False])
def test_start_info_tells_what_the_new_host_gave(width: int, shares: bool) -> None:
    dest = arrived(width, shares=shares)
    before = bytearray(dest.memory[START_PFN].tobytes())
    MEMORY.finish(dest, TABLES)
    nr_pages, shared, flags, store, console = START_INFO[width]
    word = code(width)
    struct.pack_into(word, before, nr_pages, len(dest.frames))
    if shares:
        struct.pack_into(word, before, shared, 0xBEEF << 12)
        struct.pack_into("<I", before, store + width, 0x11)
        struct.pack_into("<I", before, console + width, 0x22)
    struct.pack_into("<I", before, flags, 0)
    struct.pack_into(word, before, store, dest.mfn(11))
    struct.pack_into(word, before, console, dest.mfn(12))
    assert dest.memory[START_PFN].tobytes() == bytes(before)


@pytest.mark.parametrize(
    ("pfn", "what"), [(START_PFN, "start_info"), (P2M_PFNS[1], "a page of the guest's p2m")]
)
def test_page_tables_are_not_written_over(pfn: int, what: str) -> None:
    message = rf"{what}: expected an ordinary page \(NOTAB\), got pfn {pfn:#x}"
    with pytest.raises(FieldError, match=message):
        MEMORY.finish(arrived(8), entries((L1, 0), (L1 | PINNED, pfn)))


def test_a_page_of_the_p2m_that_did_not_come_is_refused() -> None:
    dest = arrived(8)
    dest.frames[P2M_PFNS[0]] = NO_FRAME
    with pytest.raises(FieldError, match="p2m: expected an ordinary page"):
        MEMORY.finish(dest, TABLES)


def test_a_guest_without_its_first_vcpu_is_refused() -> None:
    dest = arrived(8)
    del dest.facets["pv"].states[0, "basic"]
    with pytest.raises(FieldError, match=r"context: expected 5168 bytes .*, got 0 bytes"):
        MEMORY.finish(dest, TABLES)


# All of it


def restore(image: list[Event], dest: FakeDomain, handlers: Mapping[str, Handler]) -> None:
    """As the contract has it: static data and pages as they come, the rest at the end."""
    later, tables = [], []
    for event in image:
        handler = handlers[event.name]
        if isinstance(event, PageBatch):
            carries = carries_page(event.entries)
            dest.populate(event.pfns[carries])
            assert event.pages is not None
            dest.write_pages(event.pfns[carries], event.pages)
            tables.append(event.entries[carries & (event.types != 0)])
        elif isinstance(handler, RecordHandler) and handler.phase < Phase.MEMORY:
            apply(handler, dest, bytes(event.body))
        elif isinstance(handler, RecordHandler):
            later.append((handler, bytes(event.body)))
    listed = np.concatenate(tables)
    pages = dest.memory[(listed & PFN_MASK).astype(np.intp)]
    MEMORY.localise(dest, listed, pages)
    dest.write_pages(listed & PFN_MASK, pages)
    for handler, body in later:
        apply(handler, dest, body)
    MEMORY.finish(dest, listed)


@pytest.mark.images("pv1")
def test_a_real_guest_comes_back_from_a_domain(
    real_image: Path, manager: xsave.PluginManager
) -> None:
    """Only what belongs to the new host is different: its frames in the p2m's pages and in
    start_info, and the masks of events that are no more."""
    image = read(real_image.read_bytes(), "xl")
    middle = domain(0, populated=False)
    middle.facets["x86"] = FakeX86()
    restore(image, middle, manager.handlers.items())

    records = {event.name: bytes(event.body) for event in image if isinstance(event, Record)}
    for record in collect(manager.handlers.items().values(), middle):
        if record.name != "xen.pv.shared_info":
            assert records[record.name] == record.body, record.name
    shared = next(iter(bodies(SharedInfoHandler(), middle)))
    before = SharedInfo(records["xen.pv.shared_info"]).fields(8)
    assert SharedInfo(shared).fields(8).arch == before.arch.replace(pfn_to_mfn_frame_list_list=0)

    changed = set()
    for batch in image:
        if isinstance(batch, PageBatch):
            entries_now = middle.page_types(batch.pfns)
            pages = middle.memory[batch.pfns.astype(np.intp)]
            assert np.array_equal(entries_now, batch.entries)
            assert MEMORY.normalise(middle, entries_now, pages) is None
            assert batch.pages is not None
            changed |= set(batch.pfns[(pages != batch.pages).any(axis=1)].tolist())
    assert changed == {0x4A00, *middle.facets["pv"].p2m_pages.tolist()}
