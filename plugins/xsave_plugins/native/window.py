"""The pages stored last, kept by writer and reader alike, so that a page that comes again
is named instead of stored.

Every page stored in an image has a number, from 0 up. A batch may name pages that were
stored among the last ``size`` ones before it, so a reader on a pipe needs no more memory
than that. Whether two pages are equal is proved by comparing them: guests choose the
contents of their pages, so a hash alone would be an attack's way in.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from xsave import Pages


class Window:
    """:param size: in pages."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._parts: deque[tuple[int, Pages]] = deque()  # number of the first page, pages
        self._next = 0

    def add(self, base: int, stored: Pages) -> None:
        """Pages ``base`` and up were stored. Forgets what is out of reach from now on."""
        self._next = base + len(stored)
        if len(stored):
            self._parts.append((base, stored))
        oldest = self._next - self.size
        while self._parts and self._parts[0][0] + len(self._parts[0][1]) <= oldest:
            self._parts.popleft()

    def fill(self, numbers: NDArray[np.int64], rows: NDArray[np.int64], out: Pages) -> None:
        """Copy the pages of these numbers into these rows of ``out``.

        :raises KeyError: a page is not kept; with its number.
        """
        left = len(numbers)
        # One step for each batch remembered, not for each page. Newest first: in real
        # guests nearly every duplicate is within the last thousand pages.
        for base, stored in reversed(self._parts):
            if not left:
                return
            here = np.flatnonzero((numbers >= base) & (numbers < base + len(stored)))
            if len(here):
                out[rows[here]] = stored[numbers[here] - base]
                left -= len(here)
        if left:
            raise KeyError(int(numbers.min()))

    def equal(
        self, numbers: NDArray[np.int64], pages: Pages, rows: NDArray[np.intp]
    ) -> NDArray[np.bool_]:
        """(k,) bool: whether each of these rows of ``pages`` equals the page stored under
        its number, byte by byte; False where that is no longer kept."""
        found = np.zeros(len(numbers), np.bool_)
        words = pages.view(np.uint64)
        left = len(numbers)
        for base, stored in reversed(self._parts):
            if not left:
                break
            here = np.flatnonzero((numbers >= base) & (numbers < base + len(stored)))
            if len(here):
                kept = stored.view(np.uint64)[numbers[here] - base]
                found[here] = (kept == words[rows[here]]).all(axis=1)
                left -= len(here)
        return found


class Fingerprints:
    """Candidates for equality: a table from a page's fingerprint to its number.

    Direct-mapped and overwritten, so its size is fixed; a collision costs a duplicate that
    is not found, never a wrong one.
    """

    def __init__(self, window: int) -> None:
        size = 1 << max(4 * window - 1, 1).bit_length()
        self._mask = np.uint64(size - 1)
        self._prints = np.zeros(size, np.uint64)
        self._numbers = np.full(size, -1, np.int64)

    def find(self, prints: NDArray[np.uint64], oldest: int) -> NDArray[np.int64]:
        """(k,) i64: a candidate's number, -1 where there is none from ``oldest`` on."""
        slots = prints & self._mask
        numbers = self._numbers[slots]
        return np.where((self._prints[slots] == prints) & (numbers >= oldest), numbers, -1)

    def add(self, prints: NDArray[np.uint64], base: int) -> None:
        slots = prints & self._mask
        self._prints[slots] = prints
        self._numbers[slots] = base + np.arange(len(prints))


_WEIGHTS = ((0, 0x9E3779B97F4A7C15), (173, 0xC2B2AE3D27D4EB4F), (346, 0x165667B19E3779F9))
_ROWS = 64  # 256 KiB: the second reduction finds them in the processor's cache, which makes
# both together a quarter cheaper than over whole batches


def survey(pages: Pages) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Look once at every byte of a batch.

    :returns: (m,) bool, which pages are all zero; (m,) u64, a fingerprint of each page,
        equal for equal pages.

    A sum runs at 24 GB/s of processor time where a hash called for each page reaches 14;
    some words are weighed in so that pages with the same words in another order differ.
    """
    words = pages.view(np.uint64)
    any_bit = np.empty(len(words), np.uint64)
    prints = np.empty(len(words), np.uint64)
    for row in range(0, len(words), _ROWS):
        part = slice(row, row + _ROWS)
        np.bitwise_or.reduce(words[part], axis=1, out=any_bit[part])
        np.add.reduce(words[part], axis=1, out=prints[part])
    for column, weight in _WEIGHTS:
        prints += words[:, column] * np.uint64(weight)
    return any_bit == 0, prints ^ (prints >> np.uint64(29))
