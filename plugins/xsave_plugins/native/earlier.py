"""A batch being written, against the base: what is as it was, and what differs little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xsave import Entries, Pages

from .delta_table import Bits
from .shelf import difference

if TYPE_CHECKING:
    from .base import Base


class Earlier:
    """:param pfns: (m,) u64 of pages with contents; :param pages: (m, 4096) u8.

    :ivar same: (m,) bool, which are byte for byte those of the base.
    """

    def __init__(self, base: Base, pfns: Entries, pages: Pages) -> None:
        self._before = np.empty_like(pages)
        self._found = base.read(pfns, self._before)
        self.same = self._found & _equal(pages, self._before)

    def differences(self, rows: NDArray[np.intp], stored: Pages) -> tuple[Bits, Pages]:
        """:param rows: (s,) of the batch that are ``stored``, (s, 4096) u8.

        :returns: (s,) bool, those better stored as differences; (s, 4096) u8, the body.
        """
        based = np.zeros(len(rows), np.bool_)
        likely = np.flatnonzero(self._found[rows])
        if not len(likely):
            return based, stored
        changed, small = difference(stored[likely], self._before[rows[likely]])
        if not len(small):
            return based, stored
        based[likely[small]] = True
        body = stored.copy()
        body[likely[small]] = changed
        return based, body


_ROWS = 64  # at a time, so that what is compared stays in the processor's cache


def _equal(pages: Pages, before: Pages) -> Bits:
    """(m,) bool. Rows of ``before`` that were not filled may give either."""
    words, old = pages.view(np.uint64), before.view(np.uint64)
    same = np.empty(len(words), np.bool_)
    for row in range(0, len(words), _ROWS):
        part = slice(row, row + _ROWS)
        np.equal(words[part], old[part]).all(axis=1, out=same[part])
    return same
