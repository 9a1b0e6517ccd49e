"""Machine frames of a PV guest's pfns: back from what an image has of them.

The guest keeps a map of its own, and its pages travel like others: with the saving host's
frames in them. X86_PV_P2M_FRAMES says which pages those are (libxc stream revision 3;
docs/formats/pv.md). A core file of Xen's own has pairs instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .slots import BATCH_SLOTS, PAGE
from .xen_core import NO_FRAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Pages

    from .slots import PageSlots

PV_INFO, P2M_FRAMES = "xen.pv.info", "xen.pv.p2m_frames"
_RANGE_BYTES = 8  # start_pfn u32, end_pfn u32
_PRESENT = np.uint64(1)
_FRAME_SHIFT = np.uint64(12)
_FRAME_MASK = np.uint64(((1 << 40) - 1) << 12)
_NONE = np.uint64(NO_FRAME)
# the guest marks entries that are no frames of its own by their highest bits
_FRAME_LIMITS = {8: 1 << 40, 4: 1 << 30}


class MachineFrames:
    def __init__(self) -> None:
        self._width = 8
        self._map_pfns = np.zeros(0, np.uint64)
        self._pairs: list[NDArray[np.uint64]] = []
        self._frames = np.zeros(0, np.uint64)  # by pfn, once they are asked for

    @property
    def is_known(self) -> bool:
        """Whether there are any, after :meth:`of`."""
        return len(self._frames) > 0

    def see_record(self, name: str, body: bytes) -> bool:
        """Whether it is one of those that matter here."""
        if name == PV_INFO:
            self._width = body[0]
        elif name == P2M_FRAMES:
            start = int.from_bytes(body[:4], "little") * self._width // PAGE
            listed = np.frombuffer(body[_RANGE_BYTES:], "<u8")
            self._map_pfns = np.concatenate((self._map_pfns[:start], listed)).astype(np.uint64)
        else:
            return False
        return True

    def see_pairs(self, body: bytes) -> None:
        """:param body: pfn u64, frame u64, and so on."""
        self._pairs.append(np.frombuffer(body, "<u8").reshape(-1, 2).astype(np.uint64))

    def of(self, pfns: NDArray[np.int64], slots: PageSlots) -> NDArray[np.uint64] | None:
        """(n,), all ones where there is none.

        :param pfns: ascending: all that have a page, slot by slot.
        :returns: None if nothing was seen that says so.
        """
        if self._pairs:
            self._from_pairs(pfns)
        elif len(self._map_pfns):
            self._from_map(pfns, slots)
        return self.turn(pfns) if self.is_known else None

    def _from_pairs(self, pfns: NDArray[np.int64]) -> None:
        self._frames = np.full(int(pfns[-1]) + 1 if len(pfns) else 1, _NONE)
        for pairs in self._pairs:
            within = pairs[pairs[:, 0] < len(self._frames)]
            self._frames[within[:, 0].astype(np.int64)] = within[:, 1]

    def _from_map(self, pfns: NDArray[np.int64], slots: PageSlots) -> None:
        word = np.dtype(f"<u{self._width}")
        per_page = PAGE // self._width
        self._frames = np.full(len(self._map_pfns) * per_page, _NONE)
        at = np.searchsorted(pfns, self._map_pfns.astype(np.int64))
        at[at == len(pfns)] = 0
        there = np.flatnonzero(pfns[at] == self._map_pfns) if len(pfns) else at[:0]
        by_page = self._frames.reshape(-1, per_page)
        for start in range(0, len(there), BATCH_SLOTS):
            which = there[start : start + BATCH_SLOTS]
            by_page[which] = slots.get(at[which]).view(word)
        self._frames[self._frames >= _FRAME_LIMITS[self._width]] = _NONE

    def turn(self, pfns: NDArray[np.int64]) -> NDArray[np.uint64]:
        found = np.full(len(pfns), _NONE)
        within = np.flatnonzero((pfns >= 0) & (pfns < len(self._frames)))
        found[within] = self._frames[pfns[within]]
        return found

    def frame_of(self, pfn: int) -> int:
        return int(self.turn(np.array([min(pfn, 1 << 62)], np.int64))[0])

    def turn_tables(self, pages: Pages) -> None:
        """Machine frames for the pfns in all entries that are present, in place."""
        words = pages.view(np.uint64).reshape(-1)
        at = np.flatnonzero(words & _PRESENT)
        frames = self.turn(((words[at] & _FRAME_MASK) >> _FRAME_SHIFT).astype(np.int64))
        words[at] = words[at] & ~_FRAME_MASK | frames << _FRAME_SHIFT & _FRAME_MASK
