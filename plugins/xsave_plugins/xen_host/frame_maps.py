"""From pfn to mfn and back, for PV guests: Xen's m2p, and a guest's own p2m.

A PV guest keeps its p2m itself, and tells Xen where: as pages that lie one after another in
its own address space (the linear p2m, preferred), or as a tree of mfns, three levels deep.

Source: Xen's public arch-x86/xen.h; x86 paging. What is walked belongs to the guest, so
nothing in it is believed: each frame is checked before it is mapped.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from xsave import SourceError, frozen

from . import abi
from .control import NO_FRAME, Machine
from .memory import ForeignMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries, Pages

    Flags = NDArray[np.bool_]

PTES = 512
FRAME_SHIFT = np.uint64(12)
FRAME_BITS = np.uint64((1 << 40) - 1)
PTE_BITS = 9
MAX_PFNS = 1 << 32  # 16 TiB: what lies above is no guest's


class M2p:
    """Xen's map from mfn to pfn, as long as it is open."""

    def __init__(self, machine: Machine, memory: ForeignMemory) -> None:
        self.max_mfn = machine.max_mfn()
        self._memory = memory
        self._pages, errors = memory.map_loosely(abi.DOMID_XEN, machine.m2p_mfns(self.max_mfn))
        self._has_page: Flags = errors == 0
        self._words: Entries = self._pages.reshape(-1).view(np.uint64)

    def pfns(self, mfns: Entries) -> Entries:
        """(n,) u64, as whoever owns the frame counts; all ones where there is no memory."""
        within = np.minimum(mfns, np.uint64(self.max_mfn)).astype(np.intp)
        good = (mfns <= self.max_mfn) & self._has_page[within // PTES]
        found = np.full(len(mfns), NO_FRAME)
        found[good] = self._words[within[good]]  # a hole is never touched: that is a bus error
        return found

    def close(self) -> None:
        self._words = np.zeros(0, np.uint64)
        self._memory.unmap(self._pages)


@frozen
class GuestP2m:
    """Where a running guest keeps its p2m.

    :ivar width: bytes of an entry.
    :ivar max_pfn: the highest pfn that it has an entry for.
    :ivar leaf_mfns: (n,) u64, of the pages that hold the entries, in order.
    :ivar generation: counts changes of where it is; odd while one is under way.
    """

    width: int
    max_pfn: int
    leaf_mfns: Entries
    generation: int


def find_p2m(
    memory: ForeignMemory, domid: int, width: int, shared_info: bytes, max_mfn: int
) -> GuestP2m:
    """:param shared_info: 4096 bytes.
    :raises SourceError: the guest says nothing that makes sense.
    """
    size, tree, cr3, address, generation = _what_the_guest_says(shared_info, width)
    if not 0 < size <= MAX_PFNS:
        raise SourceError(
            f"the guest says that it has {size} pfns: it is no guest that can be saved, "
            "or has not started yet"
        )
    walk = _Walk(memory, domid, width, max_mfn, size - 1)
    if cr3:
        frame = cr3 >> 12 if width == 8 else (cr3 >> 12 | cr3 << 20) & 0xFFFFFFFF
        leaves = walk.linear(frame, address)
    else:
        leaves = walk.tree(tree)
    return GuestP2m(width, walk.max_pfn, leaves, generation)


def p2m_generation(shared_info: bytes, width: int) -> int:
    return _what_the_guest_says(shared_info, width)[4]


def _what_the_guest_says(shared_info: bytes, width: int) -> tuple[int, int, int, int, int]:
    word = struct.Struct("<Q" if width == 8 else "<I")
    size, tree, cr3, address, generation = (
        word.unpack_from(shared_info, at)[0] for at in abi.SHARED_INFO_P2M[width]
    )
    return size, tree, cr3, address, generation


class _Walk:
    """:ivar max_pfn: becomes lower when the end of the map shows the same page again and
    again: those are all "no memory", and need not be in a stream.
    """

    def __init__(
        self, memory: ForeignMemory, domid: int, width: int, max_mfn: int, max_pfn: int
    ) -> None:
        self._memory = memory
        self._domid = domid
        self._width = width
        self._max_mfn = max_mfn
        self.max_pfn = max_pfn
        self._per_page = abi.PAGE_BYTES // width

    def linear(self, root: int, address: int) -> Entries:
        nr_levels = 4 if self._width == 8 else 3
        bits = 48 if self._width == 8 else 32
        mask = (1 << bits) - 1
        first_byte = address & mask
        last_byte = first_byte + self._nr_leaves() * abi.PAGE_BYTES - 1
        if last_byte > mask or first_byte % abi.PAGE_BYTES:
            raise SourceError(f"the guest's p2m cannot begin at address {address:#x}")
        tables = np.array([root], np.uint64)
        first_above = 0  # number, in the whole address space, of the first table's entry above
        for level in range(nr_levels, 0, -1):
            shift = level * PTE_BITS + 3
            first, last = first_byte >> shift, last_byte >> shift
            entries = self._read(tables, f"level {level} of the linear p2m's page table")
            start = first - (first_above << PTE_BITS)
            part = entries.view(np.uint64).reshape(-1)[start : start + last - first + 1]
            tables = part >> FRAME_SHIFT & FRAME_BITS
            first_above = first
            if level == 2:
                kept = self._without_repeated_end(tables, first_byte % (1 << shift) == 0)
                if kept < len(tables):
                    tables = tables[:kept]
                    last_byte = first_byte + self._nr_leaves() * abi.PAGE_BYTES - 1
        return self._checked(tables, "the linear p2m")

    def tree(self, root: int) -> Entries:
        per_middle = self._per_page * self._per_page  # pfns that an entry at the top stands for
        nr_middle = self.max_pfn // per_middle + 1
        if root == 0 or nr_middle > self._per_page:
            raise SourceError("the guest keeps no p2m that its host could find")
        dtype = np.dtype(f"<u{self._width}")
        top = self._read(np.array([root], np.uint64), "the top of the p2m")
        middle = top.reshape(-1).view(dtype)[:nr_middle].astype(np.uint64)
        last = int(np.flatnonzero(np.append(True, middle[1:] != middle[:-1]))[-1])
        if (max_pfn := (last + 1) * per_middle - 1) < self.max_pfn:
            self.max_pfn = max_pfn
            middle = middle[: last + 1]
        leaves = self._read(middle, "the middle of the p2m").reshape(-1).view(dtype)
        return self._checked(leaves[: self._nr_leaves()].astype(np.uint64), "the p2m")

    def _nr_leaves(self) -> int:
        return self.max_pfn // self._per_page + 1

    def _without_repeated_end(self, tables: Entries, aligned: bool) -> int:
        """How many second-level entries are left without the last ones that are all the
        same; the highest pfn becomes that much lower."""
        last = int(np.flatnonzero(np.append(True, tables[1:] != tables[:-1]))[-1])
        if last == len(tables) - 1 or last == 0 or not aligned:
            return len(tables)
        self.max_pfn = min(self.max_pfn, last * PTES * self._per_page - 1)
        return last

    def _read(self, mfns: Entries, what: str) -> Pages:
        """Copies of these frames."""
        self._checked(mfns, what)
        with self._memory.mapped(self._domid, mfns) as (pages, errors):
            if errors.any():
                bad = int(mfns[np.flatnonzero(errors)[0]])
                raise SourceError(f"{what}: mfn {bad:#x} is not the guest's")
            return np.array(pages)

    def _checked(self, mfns: Entries, what: str) -> Entries:
        if len(bad := mfns[(mfns == 0) | (mfns > self._max_mfn)]):
            raise SourceError(f"{what}: there is no mfn {int(bad[0]):#x} on this host")
        return mfns
