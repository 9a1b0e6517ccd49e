"""A batch being written, against the base: what is as it was, and what differs little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xsave import Entries, Pages

from .delta_table import Bits
from .finder import stretches
from .shelf import CACHED_ROWS, PAGE_WORDS, SHRINKS, add_bytes, worth_storing

if TYPE_CHECKING:
    from .base import Base


class Earlier:
    """:param pfns: (m,) u64 of pages with contents; :param pages: (m, 4096) u8.

    :ivar same: (m,) bool, which are byte for byte those of the base, and not zero.
    :ivar zero: (m,) bool, which are known to be zero, as they were.
    """

    def __init__(self, base: Base, pfns: Entries, pages: Pages) -> None:
        looked = base.look(pfns)
        self._before = looked.pages
        self._nr_changed = _count_changed(pages, looked.pages, looked.found)
        self.same = looked.found & (self._nr_changed == 0)
        self.zero = _still_zero(pages, looked.zero)
        # more changed words than this are worth it for no page
        self._near = looked.found & (self._nr_changed * SHRINKS <= PAGE_WORDS)

    def differences(self, rows: NDArray[np.intp], stored: Pages) -> tuple[Bits, Pages]:
        """:param rows: (s,) of the batch that are ``stored``, (s, 4096) u8.

        :returns: (s,) bool, those better stored as differences; (s, 4096) u8, the body.
        """
        based = self._near[rows]
        if not based.any():
            return based, stored
        based &= worth_storing(self._nr_changed[rows], stored.view(np.uint64))
        body = np.empty_like(stored)
        words, changed = stored.view(np.uint64), body.view(np.uint64)
        for row in range(0, len(rows), CACHED_ROWS):
            part = slice(row, row + CACHED_ROWS)
            np.take(self._before, rows[part], axis=0, out=body[part], mode="clip")
            np.bitwise_xor(words[part], changed[part], out=changed[part])
        if not based.all():
            body[~based] = stored[~based]
        return based, body


def _count_changed(pages: Pages, before: Pages, found: Bits) -> NDArray[np.int64]:
    """(m,) i64: words that differ; anything in rows that were not found."""
    words, old = pages.view(np.uint64), before.view(np.uint64)
    counts = np.zeros(len(words), np.uint64)
    flags = np.empty((CACHED_ROWS, words.shape[1]), np.bool_)
    for whole in stretches(np.flatnonzero(found)):
        for row in range(whole.start, whole.stop, CACHED_ROWS):
            part = slice(row, min(row + CACHED_ROWS, whole.stop))
            differ = np.not_equal(words[part], old[part], out=flags[: part.stop - row])
            np.add.reduce(differ.view(np.uint64), axis=1, out=counts[part])
    return add_bytes(counts)


def _still_zero(pages: Pages, zero: Bits) -> Bits:
    """(m,) bool: which of these pages are zero; False in the other rows."""
    any_bit = np.ones(len(pages), np.uint64)
    words = pages.view(np.uint64)
    for part in stretches(np.flatnonzero(zero)):
        np.bitwise_or.reduce(words[part], axis=1, out=any_bit[part])
    still: Bits = zero & (any_bit == 0)
    return still
