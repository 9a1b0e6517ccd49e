"""Page tables between host and image, many at a time.

Source: x86 paging (four levels, or three with PAE), Xen's public ``arch-x86/xen-x86_64.h``
and ``xen-x86_32.h`` for the slots that belong to the hypervisor; checked against a real
image of Xen 4.17 (docs/formats/pv.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xsave import PFN_MASK, TYPE_NAMES, TYPE_SHIFT, FieldError, SourceError

from .frames import NO_FRAME

if TYPE_CHECKING:
    from xsave import Domain, Entries, Pages, PvFacet

PRESENT = np.uint64(1 << 0)
SUPERPAGE = np.uint64(1 << 7)  # above level 1; in level 1 the same bit means caching
SLOTS = 512
FRAME_SHIFT = np.uint64(12)
FRAME_MASK = np.uint64(((1 << 40) - 1) << 12)  # bits 51-12
NONE = np.uint64(NO_FRAME)

# Slots that Xen fills in every table of a level, by guest_width and level.
XEN_SLOTS = {(8, 4): slice(256, 272), (4, 3): slice(4, 512)}
# With PAE it also fills these, of the one L2 that maps the top of the address space.
PAE_TOP_L2_SLOTS = slice(428, 512)

Tables = NDArray[np.uint64]  # (k, SLOTS)


def normalise_tables(domain: Domain, entries: Entries, pages: Pages) -> NDArray[np.bool_] | None:
    """mfns of present entries become pfns, the hypervisor's slots zero; in place.

    :returns: (n,) bool, False for tables that cannot be made so now: a running guest may
        take a page for something else between the look at its type and the copy of its
        contents. Their rows are undefined. None for "all could".
    :raises SourceError: a table has superpages, or is of a level this guest has not.
    """
    levels = _levels(entries)
    rows = np.flatnonzero(levels)
    if not len(rows):
        return None
    pv: PvFacet = domain.need_facet("pv")
    levels, entries_of_tables = levels[rows], entries[rows]
    if (beyond := _beyond_top(pv.guest_width, levels)) is not None:
        raise SourceError(f"{_name(entries_of_tables[beyond])}: a 32-bit guest has no such table")
    tables: Tables = pages[rows].view(np.uint64)
    _clear_xen_slots(pv, levels, tables)
    late = _superpages(domain, entries_of_tables, levels, tables)
    flat = tables.reshape(-1)
    at = np.flatnonzero(flat & PRESENT)
    pfns = pv.m2p(_frames(flat[at]))
    late[at[pfns == NONE] // SLOTS] = True
    flat[at] = _with_frames(flat[at], pfns)
    pages[rows] = tables.view(np.uint8)
    if not late.any():
        return None
    good = np.ones(len(entries), np.bool_)
    good[rows[late]] = False
    return good


def localise_tables(domain: Domain, entries: Entries, pages: Pages) -> None:
    """pfns of present entries become mfns, in place; pfns that the image only refers to get
    memory. Xen fills its own slots when it is told of the table.

    :raises FieldError: an entry refers to a pfn beyond the guest's highest, or a table is
        of a level this guest has not.
    """
    levels = _levels(entries)
    rows = np.flatnonzero(levels)
    if not len(rows):
        return
    pv: PvFacet = domain.need_facet("pv")
    if (beyond := _beyond_top(pv.guest_width, levels[rows])) is not None:
        raise FieldError(
            field="page type", expected="L1TAB to L3TAB (32-bit guest)",
            got=_name(entries[rows[beyond]]),
        )  # fmt: skip
    tables: Tables = pages[rows].view(np.uint64)
    flat = tables.reshape(-1)
    at = np.flatnonzero(flat & PRESENT)
    pfns = _frames(flat[at])
    if len(pfns) and int(pfns.max()) >= domain.info.p2m_size:
        row, slot = divmod(int(at[pfns.argmax()]), SLOTS)
        raise FieldError(
            field=f"{_name(entries[rows[row]])}, slot {slot}",
            expected=f"a pfn below {domain.info.p2m_size:#x}", got=hex(int(pfns.max())),
        )  # fmt: skip
    mfns = pv.p2m(pfns)
    if (missing := mfns == NONE).any():
        domain.populate(np.unique(pfns[missing]))
        mfns = pv.p2m(pfns)
    flat[at] = _with_frames(flat[at], mfns)
    pages[rows] = tables.view(np.uint8)


def _levels(entries: Entries) -> NDArray[np.uint64]:
    """(n,) 1 to 4 for page tables, pinned or not; 0 for ordinary pages."""
    return (entries >> TYPE_SHIFT) & np.uint64(7)


def _frames(ptes: Entries) -> Entries:
    return (ptes & FRAME_MASK) >> FRAME_SHIFT


def _with_frames(ptes: Entries, frames: Entries) -> Entries:
    return ptes & ~FRAME_MASK | frames << FRAME_SHIFT & FRAME_MASK


def _beyond_top(guest_width: int, levels: NDArray[np.uint64]) -> int | None:
    """Which is the first table of a level that a guest of this width has not."""
    wrong = np.flatnonzero(levels > (4 if guest_width == 8 else 3))
    return int(wrong[0]) if len(wrong) else None


def _clear_xen_slots(pv: PvFacet, levels: NDArray[np.uint64], tables: Tables) -> None:
    for (width, level), slots in XEN_SLOTS.items():
        if width == pv.guest_width:
            tables[levels == level, slots] = 0
    if pv.guest_width == 4:
        # Told apart as Xen's own saver does: the first of these slots shows a frame of Xen's,
        # where that of any other L2 can only show one of the guest's tables.
        seconds = np.flatnonzero(levels == 2)
        first = tables[seconds, PAE_TOP_L2_SLOTS.start]
        of_xen = (first & PRESENT).astype(np.bool_) & (pv.m2p(_frames(first)) == NONE)
        tables[seconds[of_xen], PAE_TOP_L2_SLOTS] = 0


def _superpages(
    domain: Domain, entries: Entries, levels: NDArray[np.uint64], tables: Tables
) -> NDArray[np.bool_]:
    """(k,) bool: what looks like a table with superpages, and is none any more.

    :raises SourceError: it still is one, so it has.
    """
    large = PRESENT | SUPERPAGE
    found: NDArray[np.bool_] = ((tables & large == large) & (levels > 1)[:, None]).any(axis=1)
    if found.any():
        now = domain.page_types(entries[found] & PFN_MASK)
        still = np.flatnonzero(_levels(now) == levels[found])
        if len(still):
            raise SourceError(
                f"{_name(now[still[0]])} has superpages, which cannot be saved for a PV guest"
            )
    return found


def _name(entry: np.uint64) -> str:
    """Of a table, for messages."""
    return f"{TYPE_NAMES[int(entry >> TYPE_SHIFT)]} page at pfn {int(entry & PFN_MASK):#x}"
