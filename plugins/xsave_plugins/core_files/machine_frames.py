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
        self._pfns = np.zeros(0, np.int64)  # all that have a page, ascending, and their frames,
        self._frames = np.zeros(0, np.uint64)  # once they are asked for

    @property
    def is_known(self) -> bool:
        """Whether anything was seen that says which they are."""
        return bool(self._pairs) or len(self._map_pfns) > 0

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
        if not self.is_known:
            return None
        self._pfns = pfns
        self._frames = np.full(len(pfns), _NONE)
        if self._pairs:
            for pairs in self._pairs:
                at, there = self._find(pairs[:, 0].astype(np.int64))
                self._frames[at[there]] = pairs[there, 1]
        else:
            for start in range(0, len(pfns), BATCH_SLOTS):
                self._read_map(start, slots)
        return self._frames

    def _read_map(self, start: int, slots: PageSlots) -> None:
        """Frames of the pfns in a batch of slots, out of the pages of the map that have them."""
        pfns = self._pfns[start : start + BATCH_SLOTS]
        which, entry = np.divmod(pfns, PAGE // self._width)
        known = np.flatnonzero(which < len(self._map_pfns))
        its_pages = self._map_pfns[which[known]].astype(np.int64)
        at, there = self._find(its_pages)
        known, at = known[there], at[there]
        needed, row = np.unique(at, return_inverse=True)
        words = slots.get(needed).view(np.dtype(f"<u{self._width}"))
        frames = words[row, entry[known]].astype(np.uint64)
        frames[frames >= _FRAME_LIMITS[self._width]] = _NONE
        self._frames[start + known] = frames

    def _find(self, pfns: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Places among all pfns, and which of them are there."""
        if not len(self._pfns):
            return np.zeros(len(pfns), np.intp), np.zeros(len(pfns), np.bool_)
        at = np.minimum(np.searchsorted(self._pfns, pfns), len(self._pfns) - 1)
        return at, self._pfns[at] == pfns

    def turn(self, pfns: NDArray[np.int64]) -> NDArray[np.uint64]:
        """(k,) their frames, all ones where there is none."""
        frames = np.full(len(pfns), _NONE)
        at, there = self._find(pfns)
        frames[there] = self._frames[at[there]]
        return frames

    def frame_of(self, pfn: int) -> int:
        return int(self.turn(np.array([min(pfn, 1 << 62)], np.int64))[0])

    def turn_tables(self, pages: Pages) -> None:
        """Machine frames for the pfns in all entries that are present, in place."""
        words = pages.view(np.uint64).reshape(-1)
        at = np.flatnonzero(words & _PRESENT)
        frames = self.turn(((words[at] & _FRAME_MASK) >> _FRAME_SHIFT).astype(np.int64))
        words[at] = words[at] & ~_FRAME_MASK | frames << _FRAME_SHIFT & _FRAME_MASK
