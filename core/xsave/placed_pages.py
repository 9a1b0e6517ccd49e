"""Pages by pfn in an image that holds them as they are, batch after batch.

Kept are each batch's range of pfns and where it lies: some 40 bytes for a batch. Its entries
are read again when a pfn may be among them, and the last ones are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .batch import PAGE_SIZE
from .pages import PFN_MASK, LatestEntries, carries_page, runs

if TYPE_CHECKING:
    from .format import RandomAccess
    from .pages import Entries, Pages

ENTRIES_KEPT = 1 << 16  # 512 KiB
_ROW = np.dtype([
    ("first", "u8"), ("last", "u8"), ("table", "u8"), ("nr_entries", "u8"), ("pages", "u8"),
])  # fmt: skip


class PlacedPages:
    """A :class:`xsave.PageFinder`.

    :param image: in which the pages lie.
    :param read_entries: from a batch's place and the number of its entries to those.
    """

    def __init__(self, image: RandomAccess, read_entries: Callable[[int, int], Entries]) -> None:
        self._image = image
        self._read_entries = read_entries
        self._added: list[tuple[int, int, int, int, int]] = []
        self._table: NDArray[np.void] = np.zeros(0, _ROW)
        self._recent: OrderedDict[int, Entries] = OrderedDict()
        self._nr_recent = 0

    def add(self, pfns: tuple[int, int], table: int, nr_entries: int, pages: int) -> None:
        """The next batch; what it says of a pfn counts more than what was said before.

        :param pfns: the lowest and the highest.
        :param table: the batch's place, for ``read_entries``; :param pages: where in the image
            the page of the first entry that has one is; the others follow at once.
        """
        self._added.append((*pfns, table, nr_entries, pages))

    def entries(self) -> Entries:
        latest = LatestEntries()
        for row in range(len(self._rows())):
            latest.see(self._entries_of(row))
        return latest.result()

    def find(self, pfns: Sequence[int]) -> Mapping[int, tuple[int, Pages | None]]:
        found: dict[int, tuple[int, Pages | None]] = {}
        wanted = np.unique(np.array(pfns, np.uint64))
        if not len(wanted):
            return found
        rows = self._rows()
        reaches = (rows["first"] <= wanted[-1]) & (rows["last"] >= wanted[0])
        for row in np.flatnonzero(reaches)[::-1].tolist():
            if not len(wanted):
                break
            wanted = self._search(row, wanted, found)
        return found

    def _rows(self) -> NDArray[np.void]:
        if self._added:
            self._table = np.concatenate((self._table, np.array(self._added, _ROW)))
            self._added.clear()
        return self._table

    def _search(
        self, row: int, wanted: Entries, found: dict[int, tuple[int, Pages | None]]
    ) -> Entries:
        """Look for pfns in one batch; the pfns that are still wanted."""
        entries = self._entries_of(row)
        pfns = entries & PFN_MASK
        order = np.argsort(pfns, kind="stable")
        at = np.searchsorted(pfns[order], wanted, side="right") - 1
        here = (at >= 0) & (pfns[order[at]] == wanted)
        at = order[at[here]]  # of the last mention of each
        carries = carries_page(entries)
        which = (np.cumsum(carries) - 1)[at[carries[at]]]
        pages = iter(self._pages(int(self._table["pages"][row]), which))
        for pfn, entry, has_page in zip(
            wanted[here].tolist(), entries[at].tolist(), carries[at].tolist(), strict=True
        ):
            found[pfn] = (entry >> 60, next(pages)[None] if has_page else None)
        return np.asarray(wanted[~here])

    def _entries_of(self, row: int) -> Entries:
        if (kept := self._recent.get(row)) is not None:
            self._recent.move_to_end(row)
            return kept
        one = self._table[row]
        entries = self._recent[row] = self._read_entries(int(one["table"]), int(one["nr_entries"]))
        self._nr_recent += len(entries)
        while self._nr_recent > ENTRIES_KEPT and len(self._recent) > 1:
            self._nr_recent -= len(self._recent.popitem(last=False)[1])
        return entries

    def _pages(self, offset: int, which: NDArray[np.intp]) -> Pages:
        """(k, 4096) u8: of a batch these pages, which are read together where they lie so."""
        out = np.empty((len(which), PAGE_SIZE), np.uint8)
        start = 0
        for first, length in zip(*(array.tolist() for array in runs(which)), strict=True):
            data = self._image.read_at(offset + first * PAGE_SIZE, length * PAGE_SIZE, "pages")
            out[start : start + length] = np.frombuffer(data, np.uint8).reshape(length, PAGE_SIZE)
            start += length
        return out
