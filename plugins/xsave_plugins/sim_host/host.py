"""A simulated host: machine memory and the guests in it."""

from __future__ import annotations

import zlib
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from xsave import XsaveError

from .abilities import NOTHING, Lacks
from .clock import Lock
from .machine_memory import FRAME_BYTES, MachineMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries

    from .fingerprint import Fingerprint
    from .guest import Guest
    from .machine_memory import Frames

NO_FRAME = (1 << 64) - 1
DEFAULT_MEMORY = 64 << 30  # bytes; only what is written to costs anything

# Frames are handed out from extents of 64 MiB, shuffled: no pfn order is left in the mfns,
# and a guest that ends still leaves long runs behind.
EXTENT_FRAMES = 16384
HISTORY_MAX = 10_000


class Host:
    """A *frame* is an index into this host's memory, from 0; its mfn is larger by a base
    that each host has its own of. That is above all pfns of all guests that fit, so that a
    pfn where an mfn belongs, or an mfn of another host, is always found out.

    :ivar guests: by name.
    :ivar left, arrived: fingerprints of guests with ``prove=yes``, when they ended here and
        before they first ran here.
    :ivar history: of such guests, when each ``runs`` (told before it does), ``stands`` and
        ``ended`` (told after): nanoseconds of the monotonic clock, id, name, what; the last ones.
    """

    def __init__(self, name: str, memory: int = DEFAULT_MEMORY, lacks: Lacks = NOTHING) -> None:
        self.name = name
        self.lacks = lacks
        self.nr_frames = memory // FRAME_BYTES
        number = zlib.crc32(name.encode())
        self.base_mfn = (1 << 26) + ((number & 0xFFF) << 24)
        self.memory = MachineMemory(self.nr_frames)
        self.guests: dict[str, Guest] = {}
        self.left: dict[str, Fingerprint] = {}
        self.arrived: dict[str, Fingerprint] = {}
        self.history: deque[tuple[int, str, str, str]] = deque(maxlen=HISTORY_MAX)
        self.lock = Lock()
        # Zeroes everywhere: the kernel gives memory for what is used of them.
        self._owners = np.zeros(self.nr_frames, np.uint32)  # domid, 0 for none
        self._pfns = np.zeros(self.nr_frames, np.uint32)
        self._rng = np.random.default_rng(number)
        self._pool: Frames = np.zeros(0, np.int64)
        self._freed: list[Frames] = []
        self._unscrubbed: list[Frames] = []  # of these, those that may hold something yet
        self._high = 0  # frames below were handed out once
        self._nr_free = self.nr_frames
        self._last_domid = 0

    @property
    def nr_free(self) -> int:
        """Frames that no guest has."""
        return self._nr_free

    def next_domid(self) -> int:
        with self.lock:
            self._last_domid += 1
            return self._last_domid

    def allocate(self, domid: int, pfns: Entries) -> Frames:
        """A frame, all zeroes, for each pfn.

        :raises XsaveError: there are not so many.
        """
        with self.lock:
            count = len(pfns)
            if count > self._nr_free:
                raise XsaveError(
                    f"host {self.name} has not enough memory: {count} pages are wanted, "
                    f"{self._nr_free} of {self.nr_frames} are free"
                )
            self._nr_free -= count
            frames = self._take(count)
            self._owners[frames] = domid
            self._pfns[frames] = pfns
            return frames

    def free(self, frames: Frames) -> None:
        """They are nobody's from now on. What they hold goes when somebody has time for it
        (:meth:`scrub`), at the latest before they are handed out again: as with Xen, so that a
        guest that moves does not stand still meanwhile."""
        with self.lock:
            self._owners[frames] = 0
            self._freed.append(frames)
            self._unscrubbed.append(frames)
            self._nr_free += len(frames)

    def scrub(self) -> None:
        """Give back the memory of frames that are nobody's."""
        with self.lock:
            if self._unscrubbed:
                self.memory.forget(np.concatenate(self._unscrubbed))
                self._unscrubbed.clear()

    def mfns(self, frames: Frames) -> Entries:
        """(n,) u64; all ones for a frame below 0."""
        mfns = (frames + self.base_mfn).astype(np.uint64)
        mfns[frames < 0] = NO_FRAME
        return mfns

    def frames(self, mfns: Entries) -> Frames:
        """(n,) i64; -1 where this host has no such memory."""
        frames = mfns - np.uint64(self.base_mfn)  # smaller ones wrap to very large ones
        return np.where(frames < self.nr_frames, frames, NO_FRAME).astype(np.int64)

    def pfns_of(self, domid: int, frames: Frames) -> NDArray[np.int64]:
        """(n,) i64; -1 for a frame that is not that guest's, or none."""
        within = np.maximum(frames, 0)
        own = (frames >= 0) & (self._owners[within] == domid)
        return np.where(own, self._pfns[within].astype(np.int64), -1)

    def _take(self, count: int) -> Frames:
        parts: list[Frames] = []
        while count:
            if not len(self._pool):
                self._pool = self._rng.permutation(self._next_extent())
            parts.append(self._pool[:count])
            self._pool = self._pool[count:]
            count -= len(parts[-1])
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _next_extent(self) -> Frames:
        if self._freed:
            self.scrub()
            freed, self._freed = np.concatenate(self._freed), []
            return freed
        first, self._high = self._high, min(self._high + EXTENT_FRAMES, self.nr_frames)
        return np.arange(first, self._high, dtype=np.int64)
