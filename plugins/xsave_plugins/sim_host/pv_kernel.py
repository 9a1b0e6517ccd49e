"""The kernel of a simulated 64-bit PV guest: its p2m, its page tables, its suspend.

Modelled on what Linux does: a direct map of all memory, a linear p2m with its own place in
the address space and the older three-level one beside it, a kernel's and a user's L4 table,
both pinned, and tables that nothing maps writable. The guest finds all of it through its
state page, wherever it wakes up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xsave import L1TAB, L2TAB, L3TAB, L4TAB, NOTAB, PINNED, XsaveError, frozen

from .contents import numbers
from .host import NO_FRAME
from .kernel import Kernel
from .pv_tables import (
    ACCESSED,
    DIRTY,
    NO_EXECUTE,
    PRESENT,
    SLOTS,
    TABLE_FLAGS,
    USER,
    WRITABLE,
    fill_xen_slots,
    make_entries,
)
from .state_page import StatePage, Word

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries

    from .guest import Guest
    from .pv_state import PvState

DIRECT_MAP = 0xFFFF_8880_0000_0000  # virtual address of pfn 0
P2M_ADDRESS = 0xFFFF_C900_0000_0000
DIRECT_SLOT, P2M_SLOT, USER_SLOT = 273, 402, 0

READ_ONLY = PRESENT | ACCESSED | DIRTY | NO_EXECUTE
READ_WRITE = READ_ONLY | WRITABLE
USER_PAGE = READ_WRITE | USER

MAGIC = b"xen-3.0-x86_64"
# In start_info, words of 64 bits (Xen's public xen.h, 64-bit form).
NR_PAGES, SHARED_INFO, STORE, CONSOLE = 32 // 8, 40 // 8, 56 // 8, 72 // 8
# In shared_info.
MAX_PFN, LIST_LIST, P2M_CR3, P2M_VADDR = 3088 // 8, 3096 // 8, 3112 // 8, 3120 // 8

CHURN_ENTRIES = 4  # entries that change in each slice of time
FOREIGN_ONE_IN = 8  # mappings that go to a page of another domain, for a moment
TABLE_ONE_IN = 16  # slices in which a whole table comes or goes
_CHUNK = 1 << 18  # entries written together


def _tables_for(nr_entries: int) -> int:
    return -(-nr_entries // SLOTS)


@frozen
class Layout:
    """Which pfns a new guest's kernel uses for what, from ``START`` on without a gap."""

    nr_pages: int
    nr_p2m: int
    nr_lists: int
    nr_l1: int
    nr_l2: int
    nr_p2m_l1: int
    nr_p2m_l2: int
    nr_user_l1: int

    @classmethod
    def of(cls, nr_pages: int) -> Layout:
        nr_p2m = nr_l1 = _tables_for(nr_pages)
        nr_p2m_l1 = _tables_for(nr_p2m)
        return cls(
            nr_pages, nr_p2m, _tables_for(nr_p2m), nr_l1, _tables_for(nr_l1), nr_p2m_l1,
            _tables_for(nr_p2m_l1), min(16, max(3, nr_pages // 4096)),
        )  # fmt: skip

    # from the front: state page 1, then these
    start_info, store, console, gdt, list_list, lists = 2, 3, 4, 5, 6, 7

    @property
    def p2m(self) -> int:
        return self.lists + self.nr_lists

    @property
    def kernel_l4(self) -> int:
        return self.p2m + self.nr_p2m

    @property
    def user_l4(self) -> int:
        return self.kernel_l4 + 1

    @property
    def direct_l3(self) -> int:
        return self.user_l4 + 1

    @property
    def direct_l2(self) -> int:
        return self.direct_l3 + 1

    @property
    def direct_l1(self) -> int:
        return self.direct_l2 + self.nr_l2

    @property
    def p2m_l3(self) -> int:
        return self.direct_l1 + self.nr_l1

    @property
    def p2m_l2(self) -> int:
        return self.p2m_l3 + 1

    @property
    def p2m_l1(self) -> int:
        return self.p2m_l2 + self.nr_p2m_l2

    @property
    def user_l3(self) -> int:
        return self.p2m_l1 + self.nr_p2m_l1

    @property
    def user_l2(self) -> int:
        return self.user_l3 + 1

    @property
    def user_l1(self) -> int:
        return self.user_l2 + 1

    @property
    def end(self) -> int:
        """The first pfn that is ordinary memory."""
        return self.user_l1 + self.nr_user_l1


class StrangePvKernel(Kernel):
    """Of a PV guest that was not made here. What any such guest does around a suspend is
    done for it, in the page that rdx of vcpu 0 names."""

    def suspend(self) -> None:
        row = self._start_info()
        row[[STORE, CONSOLE]] = self.guest.pfns_of(row[[STORE, CONSOLE]])

    def wake(self) -> None:
        if self.guest.has_arrived:
            row = self._start_info()
            row[[STORE, CONSOLE]] = self.guest.host.mfns(self.guest.backed(row[[STORE, CONSOLE]]))

    def _start_info(self) -> NDArray[np.uint64]:
        mfns = np.array([self.guest.facets["pv"].start_info_mfn()], np.uint64)
        return self.guest.row(int(self.guest.pfns_of(mfns)[0]))


class PvKernel(Kernel):
    def __init__(self, guest: Guest) -> None:
        super().__init__(guest)
        self._foreign: list[tuple[int, int]] = []  # user table, slot: mapped for a moment

    @property
    def _state(self) -> StatePage:
        state = self.guest.state
        assert state is not None  # or there would be no kernel
        return state

    @property
    def _pv(self) -> PvState:
        pv: PvState = self.guest.facets["pv"]
        return pv

    # -- boot ------------------------------------------------------------------------

    def boot(self, layout: Layout, seed: int) -> None:
        """Build everything into populated memory, as a domain builder and a kernel do."""
        guest, types = self.guest, self.guest.types
        for first, count, nibble in (
            (layout.kernel_l4, 2, L4TAB | PINNED),
            (layout.direct_l3, 1, L3TAB | PINNED),
            (layout.direct_l2, layout.nr_l2, L2TAB),
            (layout.direct_l1, layout.nr_l1, L1TAB),
            (layout.p2m_l3, 1, L3TAB),
            (layout.p2m_l2, layout.nr_p2m_l2, L2TAB),
            (layout.p2m_l1, layout.nr_p2m_l1, L1TAB),
            (layout.user_l3, 1, L3TAB),
            (layout.user_l2, 1, L2TAB),
            (layout.user_l1, layout.nr_user_l1, L1TAB),
            (layout.user_l1, 1, L1TAB | PINNED),
        ):
            types[first : first + count] = nibble
        self._write_p2m(layout.p2m, layout.nr_pages)
        self._map_run(layout.direct_l1, 0, layout.nr_pages, READ_WRITE)
        self._map_run(layout.direct_l2, layout.direct_l1, layout.nr_l1, TABLE_FLAGS)
        self._map_run(layout.direct_l3, layout.direct_l2, layout.nr_l2, TABLE_FLAGS)
        self._map_run(layout.p2m_l1, layout.p2m, layout.nr_p2m, READ_WRITE)
        self._map_run(layout.p2m_l2, layout.p2m_l1, layout.nr_p2m_l1, TABLE_FLAGS)
        self._map_run(layout.p2m_l3, layout.p2m_l2, layout.nr_p2m_l2, TABLE_FLAGS)
        self._map_run(layout.user_l3, layout.user_l2, 1, TABLE_FLAGS)
        self._map_run(layout.user_l2, layout.user_l1, layout.nr_user_l1, TABLE_FLAGS)
        for l4, slots in (
            (layout.kernel_l4, {
                DIRECT_SLOT: layout.direct_l3, P2M_SLOT: layout.p2m_l3, USER_SLOT: layout.user_l3,
            }),
            (layout.user_l4, {USER_SLOT: layout.user_l3}),
        ):  # fmt: skip
            row = guest.row(l4)
            row[:] = _leftovers(seed ^ l4, SLOTS)
            for slot, target in slots.items():
                row[slot] = guest.mfn(target) << 12 | TABLE_FLAGS
            fill_xen_slots(guest, l4)
        for table in range(layout.nr_user_l1):
            guest.row(layout.user_l1 + table)[:] = self._user_table(seed, table)
        guest.row(layout.gdt)[:16] = numbers(seed ^ 3, 0, 16)
        self._write_start_info(layout)

    def _write_p2m(self, first_pfn: int, nr_pages: int) -> None:
        guest = self.guest
        for start in range(0, nr_pages, _CHUNK):
            pfns = np.arange(start, min(start + _CHUNK, nr_pages), dtype=np.uint64)
            mfns = guest.host.mfns(guest.frames(pfns))
            whole = np.full(_tables_for(len(pfns)) * SLOTS, NO_FRAME, np.uint64)
            whole[: len(mfns)] = mfns
            first = first_pfn + start // SLOTS
            frames = guest.rows(_run(first, len(whole) // SLOTS))
            guest.host.memory.words[frames] = whole.reshape(-1, SLOTS)

    def _map_run(self, first_table: int, first_pfn: int, count: int, flags: int) -> None:
        """Entries for a run of pfns into a run of tables; those left over are not present,
        and not zero."""
        guest = self.guest
        is_l1 = int(guest.types[first_table]) & ~PINNED == L1TAB
        for start in range(0, count, _CHUNK):
            pfns = _run(first_pfn + start, min(_CHUNK, count - start))
            entries = make_entries(guest.host.mfns(guest.frames(pfns)), flags)
            if is_l1:
                protected = guest.levels()[pfns.astype(np.intp)] > 0
                entries[protected] &= ~np.uint64(WRITABLE)
            whole = _leftovers(first_table + start, _tables_for(len(pfns)) * SLOTS)
            whole[: len(entries)] = entries
            frames = guest.rows(_run(first_table + start // SLOTS, len(whole) // SLOTS))
            guest.host.memory.words[frames] = whole.reshape(-1, SLOTS)

    def _user_table(self, seed: int, table: int) -> Entries:
        """Half of it maps pages at random, the rest looks like pages on a swap device."""
        state = self._state
        drawn = numbers(seed ^ 4, table * SLOTS, SLOTS)
        pfns = state[Word.FIRST_PFN] + drawn % np.uint64(state[Word.NR_PFNS])
        entries = make_entries(self.guest.host.mfns(self.guest.frames(pfns)), USER_PAGE)
        leftovers = _leftovers(seed ^ table, SLOTS)
        return np.where(drawn >> np.uint64(63) == 0, entries, leftovers)

    def _write_start_info(self, layout: Layout) -> None:
        guest = self.guest
        row = guest.row(layout.start_info)
        row.view(np.uint8)[: len(MAGIC)] = np.frombuffer(MAGIC, np.uint8)
        row[NR_PAGES] = layout.nr_pages
        row[SHARED_INFO] = self._pv.shared_info_mfn() << 12
        row[STORE], row[CONSOLE] = guest.mfn(layout.store), guest.mfn(layout.console)
        row[8], row[10] = 1, 2  # event channels of the store and the console
        row[11], row[12] = P2M_ADDRESS, layout.nr_l1
        row.view(np.uint8)[128:152] = np.frombuffer(b"root=/dev/xvda console=h", np.uint8)
        row[1152 // 8], row[1160 // 8] = layout.p2m, layout.nr_p2m

    # -- suspend and what follows ----------------------------------------------------

    def suspend(self) -> None:
        """The store's and the console's frames become pfns: the next host has others."""
        super().suspend()
        state = self._state
        row = self.guest.row(state[Word.START_INFO_PFN])
        row[STORE], row[CONSOLE] = state[Word.STORE_PFN], state[Word.CONSOLE_PFN]

    def wake(self) -> None:
        """On the host where it was suspended it takes back what it changed; on another one
        it looks at what it was given."""
        guest, state = self.guest, self._state
        row = guest.row(state[Word.START_INFO_PFN])
        if guest.has_arrived:
            row[STORE] = guest.mfn(state[Word.STORE_PFN])
            row[CONSOLE] = guest.mfn(state[Word.CONSOLE_PFN])
        else:
            self._look_around(state, row)
        self._rebuild_lists(state)

    def _look_around(self, state: StatePage, start_info: NDArray[np.uint64]) -> None:
        guest = self.guest
        pages = (("store", STORE, Word.STORE_PFN), ("console", CONSOLE, Word.CONSOLE_PFN))
        for what, word, pfn_word in pages:
            expected, got = guest.mfn(state[pfn_word]), int(start_info[word])
            if got != expected:
                raise self._crash(f"its {what} page is mfn {expected:#x}, start_info has {got:#x}")
        if int(start_info[SHARED_INFO]) != self._pv.shared_info_mfn() << 12:
            raise self._crash("start_info does not tell where shared_info is")
        if self._pv.start_info_mfn() != guest.mfn(state[Word.START_INFO_PFN]):
            raise self._crash("rdx of vcpu 0 is not the mfn of its start_info")
        for start in range(0, state[Word.P2M_SIZE], _CHUNK):
            pfns = _run(start, min(_CHUNK, state[Word.P2M_SIZE] - start))
            tables = _run(state[Word.P2M_PFN] + start // SLOTS, _tables_for(len(pfns)))
            held = guest.host.memory.words[guest.backed(tables)].reshape(-1)[: len(pfns)]
            wrong = held != guest.host.mfns(guest.frames(pfns))
            if wrong.any():
                at = int(wrong.argmax())
                expected = int(guest.host.mfns(guest.frames(pfns[at : at + 1]))[0])
                raise self._crash(
                    f"its p2m has mfn {int(held[at]):#x} for pfn {int(pfns[at]):#x}, "
                    f"which is mfn {expected:#x}"
                )

    def _crash(self, why: str) -> XsaveError:
        return XsaveError(f"{self.guest.name} crashed when it was to run on: {why}")

    def _rebuild_lists(self, state: StatePage) -> None:
        """The three-level p2m above its leaves, and what Xen is told of it."""
        guest = self.guest
        p2m_mfns = guest.host.mfns(guest.backed(_run(state[Word.P2M_PFN], state[Word.NR_P2M])))
        lists = _run(state[Word.LIST_PFN], state[Word.NR_LISTS])
        whole = np.full(len(lists) * SLOTS, NO_FRAME, np.uint64)
        whole[: len(p2m_mfns)] = p2m_mfns
        guest.host.memory.words[guest.rows(lists)] = whole.reshape(-1, SLOTS)
        top = guest.row(state[Word.LIST_LIST_PFN])
        top[:] = NO_FRAME
        top[: len(lists)] = guest.host.mfns(guest.backed(lists))
        shared = self._pv.shared_words
        shared[MAX_PFN] = state[Word.P2M_SIZE]
        shared[LIST_LIST] = guest.mfn(state[Word.LIST_LIST_PFN])
        shared[P2M_CR3] = guest.mfn(state[Word.KERNEL_L4_PFN]) << 12
        shared[P2M_VADDR] = P2M_ADDRESS

    # -- memory that comes and goes --------------------------------------------------

    def give_up(self, pfns: Entries) -> None:
        """First out of the direct map and the p2m, then back to the host."""
        self._set_direct_map(pfns, None)
        super().give_up(pfns)
        self._set_p2m(pfns)

    def take_back(self, pfns: Entries) -> None:
        super().take_back(pfns)
        self._set_p2m(pfns)
        self._set_direct_map(pfns, READ_WRITE)

    def _set_p2m(self, pfns: Entries) -> None:
        first = np.uint64(self._state[Word.P2M_PFN])
        frames = self.guest.rows(first + pfns // np.uint64(SLOTS))
        mfns = self.guest.host.mfns(self.guest.frames(pfns))
        self.guest.host.memory.words[frames, (pfns % np.uint64(SLOTS)).astype(np.intp)] = mfns

    def _set_direct_map(self, pfns: Entries, flags: int | None) -> None:
        first = np.uint64(self._state[Word.DIRECT_L1_PFN])
        frames = self.guest.rows(first + pfns // np.uint64(SLOTS))
        entries = np.zeros(len(pfns), np.uint64)
        if flags is not None:
            entries = make_entries(self.guest.host.mfns(self.guest.backed(pfns)), flags)
        self.guest.host.memory.words[frames, (pfns % np.uint64(SLOTS)).astype(np.intp)] = entries

    # -- programs --------------------------------------------------------------------

    def churn(self) -> None:
        """Map some pages and unmap others; one mapping in eight is of another domain's page,
        as a backend driver makes them, and gone the next time. Now and then a whole table
        goes, or comes back."""
        self.settle()
        guest, state = self.guest, self._state
        count = state[Word.CHURN]
        state[Word.CHURN] += 1
        drawn = numbers(state[Word.SEED] ^ 5, count * 8, CHURN_ENTRIES + 2)
        tables = self._tables_in_use(state)
        for number in map(int, drawn[:CHURN_ENTRIES]):
            table, slot = tables[number % len(tables)], number >> 16 & (SLOTS - 1)
            row = guest.row(table)
            if int(row[slot]) & PRESENT:
                row[slot] = number & ~PRESENT & ((1 << 63) - 1)
            elif number >> 60 < 16 // FOREIGN_ONE_IN:
                row[slot] = (guest.host.base_mfn - 1 - (number & 0xFFF)) << 12 | USER_PAGE
                self._foreign.append((table, slot))
            else:
                pfn = state[Word.FIRST_PFN] + (number >> 8) % state[Word.NR_PFNS]
                row[slot] = guest.mfn(pfn) << 12 | USER_PAGE
        if int(drawn[-1]) % TABLE_ONE_IN == 0:
            self._turn_table(state, int(drawn[-2]))

    def settle(self) -> None:
        for table, slot in self._foreign:
            self.guest.row(table)[slot] = 0
        self._foreign.clear()

    def _tables_in_use(self, state: StatePage) -> list[int]:
        first, count = state[Word.USER_L1_PFN], state[Word.NR_USER_L1]
        return [pfn for pfn in range(first, first + count) if self.guest.types[pfn] != NOTAB]

    def _turn_table(self, state: StatePage, number: int) -> None:
        """The first table is pinned and stays."""
        guest = self.guest
        slot = 1 + number % (state[Word.NR_USER_L1] - 1)
        pfn = state[Word.USER_L1_PFN] + slot
        row, upper = guest.row(pfn), guest.row(state[Word.USER_L2_PFN])
        direct = np.array([pfn], np.uint64)
        if guest.types[pfn] != NOTAB:
            upper[slot] = 0
            self._foreign = [one for one in self._foreign if one[0] != pfn]
            guest.set_type(pfn, NOTAB)
            row[:] = numbers(number, 0, SLOTS) | np.uint64(PRESENT)  # data now, like entries
            self._set_direct_map(direct, READ_WRITE)
        else:
            row[:] = 0
            self._set_direct_map(direct, READ_ONLY)
            guest.set_type(pfn, L1TAB)
            upper[slot] = guest.mfn(pfn) << 12 | TABLE_FLAGS


def _run(first: int, count: int) -> Entries:
    return np.arange(first, first + count, dtype=np.uint64)


def _leftovers(seed: int, count: int) -> Entries:
    """Entries that are not present, of which no bit but that one means anything."""
    drawn = numbers(seed ^ 6, 0, count)
    drawn &= ~np.uint64(PRESENT)
    drawn[::3] = 0
    return drawn
