"""A batch being written, against the base: what is as it was, and what differs little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xsave import Entries, Pages

from .delta_table import Bits
from .shelf import count_set, worth_storing

if TYPE_CHECKING:
    from .base import Base


class Earlier:
    """:param pfns: (m,) u64 of pages with contents; :param pages: (m, 4096) u8.

    :ivar same: (m,) bool, which are byte for byte those of the base.
    """

    def __init__(self, base: Base, pfns: Entries, pages: Pages) -> None:
        self._found, self._before = base.look(pfns)
        self._nr_changed = _count_changed(pages, self._before)
        self.same = self._found & (self._nr_changed == 0)

    def differences(self, rows: NDArray[np.intp], stored: Pages) -> tuple[Bits, Pages]:
        """:param rows: (s,) of the batch that are ``stored``, (s, 4096) u8.

        :returns: (s,) bool, those better stored as differences; (s, 4096) u8, the body.
        """
        based = np.zeros(len(rows), np.bool_)
        likely = np.flatnonzero(self._found[rows])
        words = stored.view(np.uint64)[likely]
        small = likely[worth_storing(self._nr_changed[rows[likely]], words)]
        if not len(small):
            return based, stored
        based[small] = True
        body = stored.copy()
        body[small] ^= self._before[rows[small]]
        return based, body


_ROWS = 64  # at a time, so that what is compared stays in the processor's cache


def _count_changed(pages: Pages, before: Pages) -> NDArray[np.int64]:
    """(m,) i64: words that differ. Rows of ``before`` that were not filled give anything."""
    words, old = pages.view(np.uint64), before.view(np.uint64)
    counts = np.empty(len(words), np.int64)
    flags = np.empty((_ROWS, words.shape[1]), np.bool_)
    for row in range(0, len(words), _ROWS):
        part = slice(row, row + _ROWS)
        differ = np.not_equal(words[part], old[part], out=flags[: len(words[part])])
        counts[part] = count_set(differ)
    return counts
