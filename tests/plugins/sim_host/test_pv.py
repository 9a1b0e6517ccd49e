"""PV guests: tables, p2m, vcpus, and what a host refuses."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from xsave import (
    L1TAB,
    L2TAB,
    L3TAB,
    L4TAB,
    NOTAB,
    PINNED,
    XTAB,
    DomainInfo,
    GuestType,
    PvFacet,
    XsaveError,
)
from xsave_plugins.pv_memory.vcpu_basic import VcpuBasicHandler, VcpuContext64
from xsave_plugins.pv_memory.vcpu_extended import VcpuExtendedHandler
from xsave_plugins.pv_memory.vcpu_msrs import VcpuMsrsHandler
from xsave_plugins.pv_memory.vcpu_xsave import VcpuXsaveHandler
from xsave_plugins.sim_host import SimBackend
from xsave_plugins.sim_host.domain import SimDomain
from xsave_plugins.sim_host.pv_kernel import DIRECT_MAP, P2M_ADDRESS
from xsave_plugins.sim_host.pv_tables import walk
from xsave_plugins.sim_host.state_page import Word

from .conftest import Boot

NO_FRAME = (1 << 64) - 1
FRAME = np.uint64(((1 << 40) - 1) << 12)
SIZE = 2048  # pfns of 8M
BUSY = "pv?memory=8M&vcpus=3&online=2&workload=random&dirty=40M/s"


def every(domain: SimDomain) -> np.ndarray:
    return np.arange(domain.info.p2m_size, dtype=np.uint64)


def facet(domain: SimDomain) -> PvFacet:
    found: PvFacet = domain.facet("pv")
    return found


def tables(domain: SimDomain, level: int) -> np.ndarray:
    entries = domain.page_types(every(domain))
    return entries[(entries >> np.uint64(60) & np.uint64(15) & np.uint64(7)) == level] & np.uint64(
        (1 << 52) - 1
    )


def read(domain: SimDomain, pfns: np.ndarray) -> np.ndarray:
    """(n, 512) u64"""
    out = np.empty((len(pfns), 4096), np.uint8)
    assert domain.read_pages(pfns, out).all()
    return out.view(np.uint64)


def present_frames(domain: SimDomain, level: int) -> np.ndarray:
    words = read(domain, tables(domain, level))
    present = words & np.uint64(1) != 0
    if level == 4:
        present[:, 256:272] = False
    return (words[present] & FRAME) >> np.uint64(12)


def context_of(domain: SimDomain, vcpu: int = 0) -> VcpuContext64:
    return VcpuContext64.decode(memoryview(facet(domain).vcpu_state(vcpu, "basic")))


def test_every_type_of_table_is_there_and_some_are_pinned(boot: Boot) -> None:
    types = boot(BUSY).page_types(np.arange(SIZE, dtype=np.uint64)) >> np.uint64(60)
    expected = {NOTAB, L1TAB, L2TAB, L3TAB, L1TAB | PINNED, L3TAB | PINNED, L4TAB | PINNED}
    assert set(types.tolist()) == expected


def test_m2p_is_the_inverse_of_p2m(boot: Boot) -> None:
    domain = boot(BUSY)
    pv = facet(domain)
    mfns = pv.p2m(every(domain))
    assert len(np.unique(mfns)) == SIZE
    assert (pv.m2p(mfns) == every(domain)).all()
    strange = np.array([0, 5, NO_FRAME, boot("pv?memory=4M").facet("pv").p2m(
        np.zeros(1, np.uint64))[0]], np.uint64)  # fmt: skip
    assert (pv.m2p(strange) == NO_FRAME).all()
    assert pv.p2m(np.array([SIZE, 1 << 50], np.uint64)).tolist() == [NO_FRAME] * 2


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("seconds", [0, 1])
def test_every_present_entry_refers_to_a_frame_of_the_guest(
    boot: Boot, level: int, seconds: int
) -> None:
    domain = boot(BUSY)
    domain.guest.step(seconds)
    domain.pause()  # what a running guest maps for a moment is gone
    pfns = facet(domain).m2p(present_frames(domain, level))
    assert len(pfns)
    assert (pfns != NO_FRAME).all()
    if level > 1:
        assert np.isin(pfns, tables(domain, level - 1)).all()


def test_no_table_is_mapped_writable(boot: Boot) -> None:
    domain = boot(BUSY)
    domain.guest.step(1)
    domain.pause()
    words = read(domain, tables(domain, 1))
    writable = words[words & np.uint64(3) == 3]
    mapped = facet(domain).m2p((writable & FRAME) >> np.uint64(12))
    for level in (1, 2, 3, 4):
        assert not np.isin(mapped, tables(domain, level)).any()


def test_walking_from_cr3_finds_all_memory_and_the_p2m(boot: Boot) -> None:
    domain = boot(BUSY)
    guest, pv = domain.guest, facet(domain)
    l4_frame = int(guest.host.frames(np.array([context_of(domain).cr3_pfn], np.uint64))[0])
    for pfn in (0, 1, 511, 512, SIZE - 1):
        way = walk(guest, l4_frame, DIRECT_MAP + 4096 * pfn)
        assert guest.host.mfns(way[-1:]).tolist() == pv.p2m(np.array([pfn], np.uint64)).tolist()
    found = [walk(guest, l4_frame, P2M_ADDRESS + 8 * start)[-1] for start in range(0, SIZE, 512)]
    assert pv.m2p(guest.host.mfns(np.array(found))).tolist() == pv.p2m_frame_pfns().tolist()
    held = read(domain, pv.p2m_frame_pfns()).reshape(-1)
    assert (held == pv.p2m(every(domain))).all()


def test_the_three_level_p2m_leads_to_the_same_pages(boot: Boot) -> None:
    domain = boot(BUSY)
    pv = facet(domain)
    top = struct.unpack_from("<Q", pv.shared_info(), 3096)[0]
    for _ in range(2):
        lists = read(domain, pv.m2p(np.array([top], np.uint64)))[0]
        found = pv.m2p(lists[lists != NO_FRAME])
        top = int(lists[0])
    assert found.tolist() == pv.p2m_frame_pfns().tolist()


def test_the_hypervisors_slots_hold_what_is_none_of_the_guests(boot: Boot) -> None:
    domain = boot(BUSY)
    slots = read(domain, tables(domain, 4))[:, 256:272]
    assert (slots & np.uint64(1)).all()
    assert (facet(domain).m2p((slots & FRAME).reshape(-1) >> np.uint64(12)) == NO_FRAME).all()


def test_entries_that_are_not_present_are_not_all_zero(boot: Boot) -> None:
    words = read(domain := boot(BUSY), tables(domain, 1))
    assert np.count_nonzero(words[words & np.uint64(1) == 0]) > 100


def test_a_running_guest_has_entries_that_cannot_be_sent_just_then(boot: Boot) -> None:
    domain = boot(BUSY)
    seen = 0
    for _ in range(100):
        domain.guest.step(0.01)
        seen += int((facet(domain).m2p(present_frames(domain, 1)) == NO_FRAME).sum())
    assert seen > 20


def test_a_running_guest_changes_its_tables_and_which_pages_are_tables(boot: Boot) -> None:
    domain = boot(BUSY)
    before = tables(domain, 1)
    domain.start_dirty_log()
    changed = set()
    for _ in range(100):
        domain.guest.step(0.01)
        changed |= set(before.tolist()) ^ set(tables(domain, 1).tolist())
    assert changed
    assert domain.read_dirty_log(clean=True)[before.astype(np.intp)].any()


def test_pages_given_up_leave_p2m_and_tables_and_come_back(boot: Boot) -> None:
    domain = boot("pv?memory=8M&workload=ballooning&dirty=80M/s")
    guest, pv = domain.guest, facet(domain)
    seen = set()
    for _ in range(40):
        guest.step(0.05)
        domain.pause()
        absent = domain.page_types(every(domain)) >> np.uint64(60) == XTAB
        seen.add(int(absent.sum()))
        held = read(domain, pv.p2m_frame_pfns()).reshape(-1)
        assert ((held == NO_FRAME) == absent).all()
        assert (held == pv.p2m(every(domain))).all()
        assert (pv.m2p(present_frames(domain, 1)) != NO_FRAME).all()
        out = np.empty((SIZE, 4096), np.uint8)
        assert (domain.read_pages(every(domain), out) == ~absent).all()
        domain.resume()
    assert len(seen) > 5
    assert guest.state is not None
    assert max(seen) == guest.state[Word.BALLOON_SIZE]
    assert min(seen) < max(seen) // 4


def test_suspending_turns_store_and_console_into_pfns_and_resuming_back(boot: Boot) -> None:
    domain = boot(BUSY)
    pv = facet(domain)
    start_info = int(pv.m2p(np.array([context_of(domain).user_regs.rdx], np.uint64))[0])
    page = np.array([start_info], np.uint64)
    words = read(domain, page)[0]
    assert words.tobytes().startswith(b"xen-3.0-x86_64\0")
    assert tuple(words[[7, 9]].tolist()) == pv.store_and_console()
    assert int(words[4]) == SIZE
    assert int(words[5]) == pv.shared_info_mfn() << 12  # type: ignore[attr-defined]  # may have it
    domain.pause()
    pfns = read(domain, page)[0][[7, 9]]
    assert pv.p2m(pfns).tolist() == words[[7, 9]].tolist() == list(pv.store_and_console())
    domain.resume()
    assert (read(domain, page)[0][[7, 9]] == words[[7, 9]]).all()


def test_vcpu_states_are_what_the_record_handlers_know(boot: Boot) -> None:
    domain = boot(BUSY)
    pv = facet(domain)
    assert pv.guest_width == 8
    assert list(pv.online_vcpus()) == [0, 1]
    for vcpu in (0, 1):
        header = struct.pack("<II", vcpu, 0)
        for kind, handler in (
            ("basic", VcpuBasicHandler()), ("extended", VcpuExtendedHandler()),
            ("xsave", VcpuXsaveHandler()), ("msrs", VcpuMsrsHandler()),
        ):  # fmt: skip
            body = header + pv.vcpu_state(vcpu, kind)
            assert b"".join(handler.encode(handler.decode(memoryview(body)))) == body
    context = context_of(domain)
    frames = [context.cr3_pfn, context.ctrlreg[1] >> 12, context.gdt_frames[0]]
    assert (pv.m2p(np.array(frames, np.uint64)) != NO_FRAME).all()
    assert context.ctrlreg[1] & 0xFFF == 0
    assert (pv.vcpu_state(0, "msrs"), len(pv.vcpu_state(1, "msrs"))) == (b"", 16)
    assert pv.vcpu_state(2, "basic") == b""


def test_registers_of_a_running_guest_change(boot: Boot) -> None:
    domain = boot(BUSY)
    before = context_of(domain).user_regs.rcx
    domain.guest.step(0.05)
    assert context_of(domain).user_regs.rcx == before + 5


# What a host refuses.


@pytest.fixture
def built(backend: SimBackend, boot: Boot) -> SimDomain:
    """A paused guest whose memory is that of another one, fitted to its own frames, but whose
    page types nobody told yet."""
    source = boot(BUSY)
    source.pause()
    info = DomainInfo(name="g", guest_type=GuestType.X86_PV, p2m_size=SIZE, nr_vcpus=3)
    target = backend.create("", info)
    assert isinstance(target, SimDomain)
    target.populate(every(source))
    words = read(source, every(source))
    levels = source.guest.levels()
    for pfn in np.flatnonzero(levels):
        row = words[pfn]
        if levels[pfn] == 4:
            row[256:272] = 0
        present = row & np.uint64(1) != 0
        pfns = facet(source).m2p((row[present] & FRAME) >> np.uint64(12))
        row[present] = row[present] & ~FRAME | facet(target).p2m(pfns) << np.uint64(12)
    target.write_pages(every(source), words.view(np.uint8))
    target.guest.facets["source types"] = source.page_types(every(source))
    return target


def named(domain: SimDomain) -> np.ndarray:
    """Entries of all page tables, as the source had them."""
    entries: np.ndarray = domain.guest.facets["source types"]
    return entries[entries >> np.uint64(60) != NOTAB]


def change(domain: SimDomain, pfn: int, slot: int, entry: int) -> None:
    page = np.array([pfn], np.uint64)
    words = read(domain, page)
    words[0, slot] = entry
    domain.write_pages(page, words.view(np.uint8))


def level_of(domain: SimDomain, level: int, which: int = 0) -> int:
    entries = named(domain)
    found = entries[(entries >> np.uint64(60) & np.uint64(7)) == level] & np.uint64((1 << 52) - 1)
    return int(found[which])


def test_right_tables_are_taken_and_the_hypervisor_fills_its_slots(built: SimDomain) -> None:
    facet(built).set_page_types(named(built))
    entries = built.guest.facets["source types"]
    assert (built.page_types(every(built)) == entries).all()
    assert (read(built, tables(built, 4))[:, 256:272] & np.uint64(1)).all()


def test_a_table_reached_from_no_pinned_one_stays_an_ordinary_page(built: SimDomain) -> None:
    entries = named(built)
    unpinned = entries & ~np.uint64(PINNED << 60)
    facet(built).set_page_types(unpinned)
    assert not built.guest.types.any()


@pytest.mark.parametrize(
    ("level", "entry", "says"),
    [
        (1, 0x1234567063, "slot 7 of the L1 table at pfn .* refers to mfn 0x1234567, which is not"),
        (2, 0x1234567063, "slot 7 of the L2 table"),
        (4, 0x1234567063, "slot 7 of the L4 table"),
    ],
)
def test_a_frame_of_somebody_else_is_refused(
    built: SimDomain, level: int, entry: int, says: str
) -> None:
    change(built, level_of(built, level), 7, entry)
    with pytest.raises(XsaveError, match=says):
        facet(built).set_page_types(named(built))
    assert not built.guest.types.any()


def test_a_table_of_the_wrong_level_is_refused(built: SimDomain) -> None:
    mfn = int(facet(built).p2m(np.array([level_of(built, 1)], np.uint64))[0])
    change(built, level_of(built, 4), 7, mfn << 12 | 0x67)
    with pytest.raises(XsaveError, match="should be an L3 table, it is an L1 table"):
        facet(built).set_page_types(named(built))


def test_a_writable_mapping_of_a_table_is_refused(built: SimDomain) -> None:
    mfn = int(facet(built).p2m(np.array([level_of(built, 2)], np.uint64))[0])
    change(built, level_of(built, 1), 7, mfn << 12 | 0x67)
    with pytest.raises(XsaveError, match="writable, which is an L2 table"):
        facet(built).set_page_types(named(built))


def test_a_large_page_is_refused(built: SimDomain) -> None:
    mfn = int(facet(built).p2m(np.array([SIZE - 1], np.uint64))[0])
    change(built, level_of(built, 2), 7, mfn << 12 | 0xE7)
    with pytest.raises(XsaveError, match="maps a large page"):
        facet(built).set_page_types(named(built))


def test_what_is_no_table_or_has_no_memory_is_refused(built: SimDomain) -> None:
    pv = facet(built)
    with pytest.raises(XsaveError, match="NOTAB is no page table"):
        pv.set_page_types(np.array([5], np.uint64))
    with pytest.raises(XsaveError, match="has no memory"):
        pv.set_page_types(np.array([SIZE | L1TAB << 60], np.uint64))


def basic(domain: SimDomain, **frames: int) -> bytes:
    context = bytearray(5168)
    for offset, value in frames.items():
        struct.pack_into("<Q", context, int(offset[1:]), value)
    return bytes(context)


def test_a_vcpu_state_that_no_hypervisor_loads_is_refused(built: SimDomain) -> None:
    pv = facet(built)
    own = int(pv.p2m(np.array([9], np.uint64))[0])
    for kind, state, says in (
        ("basic", b"short", "expected 5168 bytes, got 5"),
        ("basic", basic(built, _5008=9 << 12), "CR3 is mfn 0x9, which is not this guest's"),
        ("basic", basic(built, _5008=own << 12, _4992=7 << 12), "CR1 is mfn 0x7"),
        ("basic", basic(built, _5008=own << 12, _4960=600, _4832=own), "GDT frame 1 is mfn 0x0"),
        ("basic", basic(built, _5008=own << 12, _4960=7169), "at most 7168 GDT entries"),
        ("extended", bytes(31), "expected 32 to 128 bytes, got 31"),
        ("xsave", bytes(17), "expected 16 bytes or at least 592"),
        ("xsave", struct.pack("<QQ", 0, 0x80), "features 0x80"),
        ("msrs", bytes(15), "entries of 16 bytes"),
        ("msrs", struct.pack("<IIQ", 0x10, 0, 1), "MSR 0x10"),
    ):
        with pytest.raises(XsaveError, match=says):
            pv.set_vcpu_state(1, kind, state)
    with pytest.raises(XsaveError, match="none is number 3"):
        pv.set_vcpu_state(3, "msrs", b"")
    with pytest.raises(XsaveError, match="no vcpu state is named 'fpu'"):
        pv.vcpu_state(0, "fpu")
    pv.set_vcpu_state(1, "basic", basic(built, _5008=own << 12, _512=1 << 5))
    assert list(pv.online_vcpus()) == [1]


def test_shared_info_and_width_are_taken_as_they_must_be(built: SimDomain) -> None:
    pv = facet(built)
    pv.set_shared_info(bytes(range(256)) * 16)
    assert pv.shared_info() == bytes(range(256)) * 16
    with pytest.raises(XsaveError, match="expected 4096 bytes"):
        pv.set_shared_info(b"")
    pv.set_guest_width(8)
    with pytest.raises(XsaveError, match="no PV guests of width 4"):
        pv.set_guest_width(4)


def test_a_guest_is_told_where_its_p2m_is_before_it_has_memory(backend: SimBackend) -> None:
    about = DomainInfo(name="g", guest_type=GuestType.X86_PV, p2m_size=0, nr_vcpus=0)
    domain = backend.create("", about)
    pv = facet(domain)  # type: ignore[arg-type]  # of this backend
    assert len(pv.p2m_frame_pfns()) == 0
    pv.set_p2m_frame_pfns(np.array([8, 9], np.uint64), 1000)
    assert pv.p2m_frame_pfns().tolist() == [8, 9]
    assert domain.info.p2m_size == 1000
    with pytest.raises(XsaveError, match="vcpu 0 has no state yet"):
        pv.store_and_console()


def test_a_guest_without_its_page_tables_cannot_run(built: SimDomain) -> None:
    own = int(facet(built).p2m(np.array([level_of(built, 4)], np.uint64))[0])
    facet(built).set_vcpu_state(0, "basic", basic(built, _5008=own << 12))
    with pytest.raises(XsaveError, match=r"CR3 of vcpu 0, mfn .*, is no L4 table"):
        built.resume()
    assert not built.guest.is_running
