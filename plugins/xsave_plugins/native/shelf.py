"""Earlier versions of pages, so that a page that comes again can be stored as a difference.

A *shelf* has a fixed number of places, each for one page. The image says of each stored page
whether it goes into a place and whether it is stored as its difference (XOR) from what lay
there. So a reader needs to know nothing of what a writer keeps and why, only to follow; and
its memory is bounded by the number in the header.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsave import Entries, Pages, frozen

from .delta_table import Bits, Deltas

PAGE_WORDS = 512
FIRST_WORDS = 128  # of a page, that are looked at first
CACHED_ROWS = 64  # pages at a time, so that they stay in the processor's cache
# A difference is stored where at most one word in so many of those that are not zero
# changed. Changed words are nearly random, and a page as it is shrinks to about a third or
# a quarter (zstd 1): so a difference never comes out larger, but for contrived pages.
SHRINKS = 4


class Shelf:
    """A reader's. What is in its places is followed in two steps: :meth:`expect` when a
    table is read, :meth:`restore` when the pages of that batch are there."""

    def __init__(self, nr_places: int) -> None:
        self.nr_places = nr_places
        self._filled = np.zeros(nr_places, np.bool_)
        self._pages: Pages | None = None

    def expect(self, deltas: Deltas) -> None:
        """:raises ValueError: a difference from a place in which nothing lies."""
        needed = deltas.places[deltas.changed]
        if not self._filled[needed].all():
            empty = int(needed[~self._filled[needed]][0])
            raise ValueError(f"a difference from place {empty}, where nothing lies")
        self._filled[deltas.places] = True

    def restore(self, deltas: Deltas, stored: Pages) -> None:
        """Make differences pages again, in place; keep what is to be kept."""
        if not len(deltas.places):
            return
        if self._pages is None:  # the kernel gives memory for the places that are used
            self._pages = np.empty((self.nr_places, stored.shape[1]), np.uint8)
        kept = np.flatnonzero(deltas.kept)
        changed = kept[deltas.changed]
        if len(changed):
            stored[changed] ^= self._pages[deltas.places[deltas.changed]]
        self._pages[deltas.places] = stored[kept]


@frozen
class Shelved:
    """What a writer's shelf says of the pages stored in a batch.

    :ivar kept: (s,) bool; :ivar places: (k,) i64; :ivar changed: (k,) bool.
    :ivar body: (s, 4096) u8, the pages with differences in place of those that changed.
    """

    kept: Bits
    places: NDArray[np.int64]
    changed: Bits
    body: Pages


class Keeper:
    """A writer's shelf: which pages are worth a place.

    A pfn has one place that it may have (pfn modulo the number of places). It gets it when
    it is free, or when whoever has it was not sent in this pass or the one before; a
    *pass* ends where pfns begin again from below. So pages that are written all the time
    keep their places, however many others come by, and the first pass over a large guest
    only fills the shelf once.
    """

    def __init__(self, nr_places: int) -> None:
        self._pages = np.empty((nr_places, 8 * PAGE_WORDS), np.uint8)
        self._owners = np.full(nr_places, -1, np.int64)  # pfns
        self._passes = np.zeros(nr_places, np.int64)  # when the owner was last sent again
        self._pass = 0
        self._highest = -1

    def follow(self, first_pfn: int, last_pfn: int) -> None:
        """The next batch has pfns from this one to that one."""
        if first_pfn <= self._highest:
            self._pass += 1
            self._highest = -1
        self._highest = max(self._highest, last_pfn)

    def shelve(self, pfns: Entries, stored: Pages, body: Pages, taken: Bits) -> Shelved:
        """:param pfns: (s,) of the pages that are stored, (s, 4096) u8.
        :param body: the same as far as they are stored as they are.
        :param taken: (s,) bool, pages that are a difference already.
        """
        numbers = pfns.astype(np.int64)
        places = numbers % len(self._owners)
        owners = self._owners[places]
        own = owners == numbers
        kept = own | (owners < 0) | (self._pass - self._passes[places] >= 2)
        _drop_doubles(kept, places)
        rows = np.flatnonzero(kept)
        places, own = places[rows], own[rows]
        self._owners[places] = numbers[rows]
        self._passes[places] = np.where(own, self._pass, self._pass - 1)
        changed = np.zeros(len(rows), np.bool_)
        may_differ = own & ~taken[rows]
        if may_differ.any():
            again, others = np.flatnonzero(may_differ), np.flatnonzero(~may_differ)
            body, changed[again] = self._differ(stored, body, rows[again], places[again])
            self._pages[places[others]] = stored[rows[others]]
        elif len(rows):
            self._pages[as_slice(places)] = stored[as_slice(rows)]
        return Shelved(kept, places, changed, body)

    def _differ(
        self, stored: Pages, body: Pages, rows: NDArray[np.intp], places: NDArray[np.int64]
    ) -> tuple[Pages, Bits]:
        """Put differences into the body where they are worth storing, and the pages into
        their places.

        :param rows: (k,) of the pages that may be differences from what lies in ``places``.
        :returns: the body, in memory of its own; (k,) bool, which are.
        """
        pages = stored[as_slice(rows)]
        if len(rows) == len(stored):  # nothing of the body is as it was
            differences = np.empty_like(stored)
        else:
            differences = np.empty_like(pages)
            body = body.copy() if body is stored else body
        nr_changed = make_differences(pages, self._pages, places, differences)
        small = worth_storing(nr_changed, pages.view(np.uint64))
        if len(rows) == len(stored):
            body = differences
            if not small.all():
                body[~small] = stored[~small]
        else:
            body[rows[small]] = differences[small]
        return body, small


def _drop_doubles(kept: Bits, places: NDArray[np.int64]) -> None:
    """Of the pages of a batch that would go into one place, keep the first."""
    rows = np.flatnonzero(kept)
    wanted = places[rows]
    if (wanted[1:] > wanted[:-1]).all():
        return
    first = np.unique(wanted, return_index=True)[1]
    kept[:] = False
    kept[rows[first]] = True


def make_differences(
    pages: Pages, shelf: Pages, places: NDArray[np.int64], out: Pages
) -> NDArray[np.int64]:
    """Put pages into their places on a shelf; a few at a time, so that they stay in the
    processor's cache.

    :param out: takes how the pages differ from what lay there.
    :returns: (n,) how many words of each changed.
    """
    words, kept, changed = (array.view(np.uint64) for array in (pages, shelf, out))
    sums = np.empty(len(words), np.uint64)
    flags = np.empty((CACHED_ROWS, words.shape[1]), np.bool_)
    for row in range(0, len(words), CACHED_ROWS):
        part = slice(row, min(row + CACHED_ROWS, len(words)))
        into = as_slice(places[part])
        old = kept[into] if isinstance(into, slice) else np.take(kept, into, axis=0)
        differ = np.not_equal(words[part], old, out=flags[: part.stop - row])
        np.add.reduce(differ.view(np.uint64), axis=1, out=sums[part])
        np.bitwise_xor(words[part], old, out=changed[part])
        kept[into] = words[part]
    return add_bytes(sums)


def as_slice(rows: NDArray[Any]) -> NDArray[Any] | slice:
    """To take these (n,) rows, at least one, without a copy where they go up by one."""
    first = int(rows[0])
    if int(rows[-1]) - first + 1 == len(rows) and bool((rows[1:] - rows[:-1] == 1).all()):
        return slice(first, first + len(rows))
    return rows


def worth_storing(nr_changed: NDArray[np.int64], words: NDArray[np.uint64]) -> Bits:
    """(n,) bool: which of these (n, 512) pages, of whose words so many changed, are better
    stored as differences. The first words of a page are nearly always enough of it to tell."""
    wanted = nr_changed * SHRINKS
    worth: Bits = wanted <= count_set(words[:, :FIRST_WORDS] != 0)
    unclear = np.flatnonzero(~worth & (wanted <= PAGE_WORDS))
    if len(unclear):
        worth[unclear] = wanted[unclear] <= count_set(words[unclear] != 0)
    return worth


def count_set(flags: Bits) -> NDArray[np.int64]:
    """(n,) i64: how many of each row are set, for rows of up to 2040, a multiple of 8.

    Eight flags are added at once as the bytes of a word, in which no byte overflows: three times
    as fast as counting them.
    """
    sums: NDArray[np.uint64] = np.add.reduce(flags.view(np.uint64), axis=1)
    return add_bytes(sums)


_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_ONES = np.uint64(0x0001000100010001)


def add_bytes(sums: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) i64: of each word the sum of its eight bytes."""
    pairs = (sums & _EVEN_BYTES) + (sums >> np.uint64(8) & _EVEN_BYTES)
    total: NDArray[np.uint64] = pairs * _ONES >> np.uint64(48)
    return total.view(np.int64)
