"""The memory of a simulated machine: one shared anonymous mapping, made of frames.

Nothing is paid for a frame before something other than zeroes is written to it: reading
a hole of a shared mapping would fill it, so what was never written is not read.
"""

from __future__ import annotations

import mmap
import sys
from typing import TYPE_CHECKING

import numpy as np

from xsave import runs, zero_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Pages

    Frames = NDArray[np.int64]

FRAME_BYTES = 4096
# Larger than the machine it is simulated on: nothing is set aside for it. Python only has
# the name from 3.12 on; the number is that of Linux on x86 and Arm.
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class MachineMemory:
    """:ivar bytes: (nr_frames, 4096) u8; :ivar words: the same as (nr_frames, 512) u64.
    :ivar touched: (nr_frames,) bool, frames that may hold anything but zeroes. Whoever
        writes to ``bytes`` or ``words`` sets it first: :meth:`touch`.
    """

    def __init__(self, nr_frames: int) -> None:
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        # and one frame more, which nobody has and stays zero: it stands in for holes
        self._mapping = mmap.mmap(-1, (nr_frames + 1) * FRAME_BYTES, flags=flags)
        self._with_zero: Pages = np.frombuffer(self._mapping, np.uint8).reshape(-1, FRAME_BYTES)
        self.bytes: Pages = self._with_zero[:-1]
        self.words = self.bytes.view(np.uint64)
        self.touched = np.zeros(nr_frames, np.bool_)

    def touch(self, frames: Frames) -> None:
        self.touched[frames] = True

    def read(self, frames: Frames, out: Pages) -> None:
        """:param out: (n, 4096) u8."""
        frames = np.where(self.touched[frames], frames, len(self.bytes))
        # without a mode, take() goes through a buffer of its own
        np.take(self._with_zero, frames, axis=0, out=out, mode="clip")

    def write(self, frames: Frames, pages: Pages) -> None:
        """The last one wins where a frame is given twice."""
        # Marked before it is asked: a page of zeroes after another one for the same frame
        # has to be written.
        self.touched[frames[~zero_rows(pages)]] = True
        needed = self.touched[frames]
        if needed.all():
            self.bytes[frames] = pages
        else:
            self.bytes[frames[needed]] = pages[needed]

    def forget(self, frames: Frames) -> None:
        """Give the memory of these frames back; they read as zeroes again."""
        # In runs of all frames, holes among them: a call for each run of frames that were
        # written took 0.3 s for a guest of 256 MiB, in which every third page is zero.
        for start, length in zip(*runs(np.sort(frames)), strict=True):
            if self.touched[start : start + length].any():
                self._punch(int(start), int(length))
        self.touched[frames] = False

    def _punch(self, start: int, nr_frames: int) -> None:
        remove = getattr(mmap, "MADV_REMOVE", None)
        if remove is None:
            self.bytes[start : start + nr_frames] = 0
            return
        self._mapping.madvise(remove, start * FRAME_BYTES, nr_frames * FRAME_BYTES)
