"""Pages one after the other in a file, by ascending pfn, from batches in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xsave import (
    PFN_MASK,
    TYPE_SHIFT,
    OutputError,
    carries_page,
    runs,
)

from . import elf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import PageBatch, Pages, RandomSink

PAGE = elf.PAGE_SIZE
PFN_LIMIT = 1 << 30  # 4 TiB of guest; what lies above is damage
WINDOW_PFNS = 1 << 20  # looked at together at the end
BATCH_SLOTS = 1024


class PageSlots:
    """:param offset: in the sink, of slot 0.

    Each pfn gets the next slot when it first comes with a page, and keeps it: if pfns come in
    order, that is their order. Whatever is not so at the end is put right then.
    """

    def __init__(self, sink: RandomSink, offset: int) -> None:
        self._sink = sink
        self._offset = offset
        # By pfn. Both begin as zeroes, for which no memory is needed until they are written to.
        self._slot_of = np.zeros(0, np.int32)  # slot + 1; 0: none
        self._has_page = np.zeros(0, np.bool_)
        self._types = np.zeros(0, np.uint8)  # the latest type nibble
        self._nr_slots = 0

    @property
    def end(self) -> int:
        """Where in the sink everything has been put before."""
        return self._offset + self._nr_slots * PAGE

    # -- pages come ----------------------------------------------------------------------

    def put(self, batch: PageBatch) -> None:
        if batch.pages is None:
            raise OutputError(f"{batch.name}: a batch without its pages")
        entries = batch.entries
        pfns = (entries & PFN_MASK).astype(np.int64)
        if (highest := int(pfns.max(initial=-1))) >= PFN_LIMIT:
            raise OutputError(f"pfn {highest:#x} is none that a guest has")
        self._make_room(highest + 1)
        carries = carries_page(entries)
        self._types[pfns] = entries >> TYPE_SHIFT
        self._has_page[pfns] = carries
        with_page = pfns[carries]
        self._give_slots(with_page)
        self._write(self._slots_of(with_page), batch.pages)

    def _make_room(self, nr_pfns: int) -> None:
        if nr_pfns <= len(self._types):
            return
        size = min(max(nr_pfns, 2 * len(self._types), 1 << 16), PFN_LIMIT)
        self._slot_of = _grown(self._slot_of, size)
        self._has_page = _grown(self._has_page, size)
        self._types = _grown(self._types, size)

    def _give_slots(self, pfns: NDArray[np.int64]) -> None:
        fresh = np.unique(pfns[self._slot_of[pfns] == 0])
        self._slot_of[fresh] = self._nr_slots + 1 + np.arange(len(fresh))
        self._nr_slots += len(fresh)

    def _slots_of(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._slot_of[pfns].astype(np.int64) - 1

    # -- and stand in order at the end ---------------------------------------------------

    def finish(self) -> NDArray[np.int64]:
        """Put pages in order.

        :returns: (n,) pfns that have a page in the end; from now on slots are places among them.
        """
        windows = range(0, len(self._has_page), WINDOW_PFNS)
        found = [np.flatnonzero(self._has_page[at : at + WINDOW_PFNS]) + at for at in windows]
        pfns = np.concatenate(found) if found else np.zeros(0, np.int64)
        slots = self._slots_of(pfns)
        self._slot_of = np.zeros(0, np.int32)
        self._put_in_order(slots)
        gone = np.arange(len(pfns), self._nr_slots)
        for start in range(0, len(gone), BATCH_SLOTS):  # nobody's any more
            which = gone[start : start + BATCH_SLOTS]
            self._write(which, np.zeros((len(which), PAGE), np.uint8))
        return pfns

    def _put_in_order(self, slots: NDArray[np.int64]) -> None:
        """:param slots: (n,) in which slot the page lies that belongs into slot 0, 1, ...; is
        changed.

        Batch by batch: what lies where the next pages belong goes where those came from.
        """
        if not (slots[1:] < slots[:-1]).any() and (not len(slots) or slots[-1] == len(slots) - 1):
            return
        belongs = np.full(self._nr_slots, -1, np.int64)  # by slot; -1: nowhere
        belongs[slots] = np.arange(len(slots))
        for start in range(0, len(slots), BATCH_SLOTS):
            here = np.arange(start, min(start + BATCH_SLOTS, len(slots)))
            there = slots[here].copy()
            if np.array_equal(here, there):
                continue
            in_the_way = np.setdiff1d(here, there)
            in_the_way = in_the_way[belongs[in_the_way] >= 0]
            room = np.setdiff1d(there, here)
            pages, moved = self.get(there), self.get(in_the_way)
            self._write(here, pages)
            to = room[: len(in_the_way)]
            self._write(to, moved)
            whose = belongs[in_the_way]
            belongs[room] = -1
            belongs[here] = here
            belongs[to], slots[whose] = whose, to

    def types(self, pfns: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._types[pfns]

    def get(self, slots: NDArray[np.int64]) -> Pages:
        """(k, 4096) u8, to be written to."""
        pages = np.empty((len(slots), PAGE), np.uint8)
        start = 0
        for first, length in zip(*(part.tolist() for part in runs(slots)), strict=True):
            data = self._sink.get_at(self._offset + first * PAGE, length * PAGE)
            pages[start : start + length] = np.frombuffer(data, np.uint8).reshape(length, PAGE)
            start += length
        return pages

    def put_back(self, slots: NDArray[np.int64], pages: Pages) -> None:
        """What :meth:`get` gave, changed."""
        self._write(slots, pages)

    def _write(self, slots: NDArray[np.int64], pages: Pages) -> None:
        start = 0
        for first, length in zip(*(part.tolist() for part in runs(slots)), strict=True):
            part = np.ascontiguousarray(pages[start : start + length])
            self._sink.put_at(self._offset + first * PAGE, [part.reshape(-1).data])
            start += length


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    grown = np.zeros(size, array.dtype)
    grown[: len(array)] = array
    return grown
