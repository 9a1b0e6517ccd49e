"""Page tables of 64-bit PV guests, and the rules by which a hypervisor takes them.

Source: the AMD64 paging format, and what Xen's memory management says of page types: a
page is of one type at a time, a table refers to tables one level below, and nothing that
is a table is mapped writable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xsave import PFN_MASK, PINNED, TYPE_NAMES, TYPE_SHIFT, XsaveError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries

    from .guest import Guest
    from .machine_memory import Frames

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, PSE = 1, 2, 4, 0x20, 0x40, 0x80
NO_EXECUTE = 1 << 63
TABLE_FLAGS = PRESENT | WRITABLE | USER | ACCESSED | DIRTY
FRAME_MASK = np.uint64(((1 << 52) - 1) & ~0xFFF)
SLOTS = 512
TOP_LEVEL = 4

# Of an L4 table, the slots that belong to the hypervisor: it fills them itself.
XEN_SLOTS = slice(256, 272)
NR_XEN_SLOTS = 16

_CHUNK = 1024  # tables looked at together: 4 MiB


def entry_mfns(entries: Entries) -> Entries:
    return (entries & FRAME_MASK) >> np.uint64(12)


def make_entries(mfns: Entries, flags: int) -> Entries:
    return mfns << np.uint64(12) | np.uint64(flags)


def fill_xen_slots(guest: Guest, l4_pfn: int) -> None:
    """What the hypervisor puts into its slots: addresses of its own memory, which differ
    on each host and are none of the guest's."""
    mfns = np.arange(NR_XEN_SLOTS, dtype=np.uint64) + np.uint64(guest.host.base_mfn >> 1)
    guest.row(l4_pfn)[XEN_SLOTS] = make_entries(mfns, PRESENT | WRITABLE | ACCESSED | DIRTY)


def set_page_types(guest: Guest, entries: Entries) -> None:
    """Pin what is to be pinned, and with it validate everything that is reached from
    there; nothing is changed when anything is wrong.

    A table that is named but reached from no pinned one is an ordinary page: a hypervisor
    would not know it for a table either.

    :param entries: (n,) u64, pfns with types.
    :raises XsaveError: names the table, the slot and what is wrong there.
    """
    pfns = (entries & PFN_MASK).astype(np.int64)
    nibbles = (entries >> TYPE_SHIFT).astype(np.uint8)
    guest.backed(entries & PFN_MASK)
    levels = nibbles & (PINNED - 1)
    wrong = (levels < 1) | (levels > TOP_LEVEL) | (nibbles > (PINNED | TOP_LEVEL))
    if wrong.any():
        at = int(wrong.argmax())
        raise XsaveError(f"pfn {int(pfns[at]):#x}: {TYPE_NAMES[int(nibbles[at])]} is no page table")
    named = np.zeros(guest.p2m_size, np.uint8)
    named[pfns] = levels
    reached = guest.levels()
    pinned = pfns[nibbles >= PINNED]
    _promote(reached, named, pinned, named[pinned], "pinning")
    for level in range(TOP_LEVEL, 0, -1):
        tables = np.flatnonzero(reached == level)
        for start in range(0, len(tables), _CHUNK):
            _validate(guest, tables[start : start + _CHUNK], level, reached, named)
    changed = reached != guest.levels()
    guest.types[changed] = reached[changed]
    guest.types[pinned] |= PINNED
    guest.mark_dirty(np.flatnonzero(changed).astype(np.uint64))
    for pfn in np.flatnonzero(changed & (reached == TOP_LEVEL)):
        fill_xen_slots(guest, int(pfn))


def _validate(
    guest: Guest,
    tables: NDArray[np.int64],
    level: int,
    reached: NDArray[np.uint8],
    named: NDArray[np.uint8],
) -> None:
    words = np.empty((len(tables), SLOTS), np.uint64)
    guest.host.memory.read(guest.backed(tables.astype(np.uint64)), words.view(np.uint8))
    present = words & np.uint64(PRESENT) != 0
    if level == TOP_LEVEL:
        present[:, XEN_SLOTS] = False
    where = np.flatnonzero(present)
    found = words.reshape(-1)[where]
    targets = guest.pfns_of(entry_mfns(found))
    if (targets < 0).any():
        at = int((targets < 0).argmax())
        raise XsaveError(
            f"{_place(tables, where, at, level)} refers to mfn "
            f"{int(entry_mfns(found[at : at + 1])[0]):#x}, which is not this guest's"
        )
    if level > 1:
        if (large := found & np.uint64(PSE) != 0).any():
            at = int(large.argmax())
            raise XsaveError(f"{_place(tables, where, at, level)} maps a large page")
        below = np.full(len(targets), level - 1, np.uint8)
        _promote(reached, named, targets, below, f"L{level} tables")
        return
    bad = (found & np.uint64(WRITABLE) != 0) & (reached[targets] > 0)
    if bad.any():
        at = int(bad.argmax())
        raise XsaveError(
            f"{_place(tables, where, at, level)} maps pfn {int(targets[at]):#x} writable, "
            f"which is an L{int(reached[targets[at]])} table"
        )


def _promote(
    reached: NDArray[np.uint8],
    named: NDArray[np.uint8],
    pfns: NDArray[np.int64],
    levels: NDArray[np.uint8],
    who: str,
) -> None:
    """These pages are used as tables of these levels: they must be that, or nothing yet."""
    for known in (reached, named):
        wrong = (known[pfns] != 0) & (known[pfns] != levels)
        if wrong.any():
            at = int(wrong.argmax())
            raise XsaveError(
                f"{who}: pfn {int(pfns[at]):#x} should be an L{int(levels[at])} table, "
                f"it is an L{int(known[pfns[at]])} table"
            )
    reached[pfns] = levels


def _place(tables: NDArray[np.int64], where: NDArray[np.intp], at: int, level: int) -> str:
    table, slot = divmod(int(where[at]), SLOTS)
    return f"slot {slot} of the L{level} table at pfn {int(tables[table]):#x}"


def walk(guest: Guest, l4_frame: int, address: int) -> Frames:
    """The frames of the four tables on the way to an address and of the page there, as a
    processor finds them; fewer where the way ends."""
    found = [l4_frame]
    for shift in (39, 30, 21, 12):
        entry = guest.host.memory.words[found[-1]][address >> shift & 511]
        if not int(entry) & PRESENT:
            break
        frame = int(guest.host.frames(entry_mfns(np.array([entry], np.uint64)))[0])
        if frame < 0:
            break
        found.append(frame)
    return np.array(found, np.int64)
