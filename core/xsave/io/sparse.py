"""A regular file that is written in few, large steps, and has holes where zeroes would lie.

Nearly half of a guest's memory is zero. A hole reads as zeroes too, and takes neither room on
the disk nor the kernel's time. A stretch of zeroes becomes a hole where it is long, and fills
blocks of the file; what is shorter is written like everything else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .allocation import Allocation
from .writing import write_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

BLOCK_BYTES = 4096
HOLE_BLOCKS = 16  # in a row; to write a few costs less than another call
HOLE_BYTES = HOLE_BLOCKS * BLOCK_BYTES
LONG_RUN = b"\1" * HOLE_BLOCKS
# What is smaller is not worth the call that makes room for it.
ALLOCATED_BYTES = 64 << 10


class SparseFile:
    """:param fd: of a file that is empty, and that nobody else writes to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._allocation = Allocation(fd)
        self._reach = 0  # nothing was put from here on

    def put(self, parts: Sequence[memoryview], offset: int) -> None:
        """All of the parts, one after the other; what was there before is gone.

        :raises OSError: the system's; how much was put is not known then.
        """
        reach = self._reach
        size_bytes = sum(map(len, parts))
        if size_bytes:  # known before anything is written, in case that fails
            self._reach = max(reach, offset + size_bytes)
        waiting: list[memoryview] = []  # follow on each other up to where we are
        at = offset
        for part in parts:
            done = 0
            for start, stop in zero_stretches(part, at):
                self._write([*waiting, part[done:start]], at + start)
                waiting.clear()
                if at + start < reach:
                    self._clear(at + start, at + stop)
                done = stop
            waiting.append(part[done:])
            at += len(part)
        self._write(waiting, at)

    def _write(self, parts: Sequence[memoryview], end: int) -> None:
        """:param end: where in the file the last part ends."""
        filled = [part for part in parts if part]
        start = end - sum(map(len, filled))
        if end - start >= ALLOCATED_BYTES:
            self._allocation.make_room(start, end)
        write_all(self._fd, filled, start)

    def _clear(self, start: int, stop: int) -> None:
        """Zeroes where something else may lie."""
        if self._allocation.punch_hole(start, stop):
            return
        zeroes = memoryview(bytes(HOLE_BYTES))
        for at in range(start, stop, HOLE_BYTES):
            write_all(self._fd, [zeroes[: stop - at]], at)

    def finish(self) -> None:
        """The file is as long as what was put, even if there is a hole at its end."""
        if os.fstat(self._fd).st_size < self._reach:
            os.ftruncate(self._fd, self._reach)


def zero_stretches(part: memoryview, offset: int) -> Iterator[tuple[int, int]]:
    """Where in a part long enough stretches of zeroes begin and end, in whole blocks of the file.

    :param offset: of the part, in the file.
    """
    first = -offset % BLOCK_BYTES
    nr_blocks = (len(part) - first) // BLOCK_BYTES
    if nr_blocks < HOLE_BLOCKS:
        return
    import numpy as np

    words = np.frombuffer(part, np.uint64, nr_blocks * BLOCK_BYTES // 8, first)
    blocks = words.reshape(nr_blocks, BLOCK_BYTES // 8)
    # Most blocks that are not zero do not begin with a zero: only others are looked at whole.
    for begin, end in _long_runs(blocks[:, 0] == 0):
        is_zero = np.bitwise_or.reduce(blocks[begin:end], axis=1) == 0
        for start, stop in _long_runs(is_zero):
            yield first + (begin + start) * BLOCK_BYTES, first + (begin + stop) * BLOCK_BYTES


def _long_runs(chosen: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Looked for as bytes, which takes a tenth of the time that arrays take."""
    flags = chosen.tobytes()
    start = flags.find(LONG_RUN)
    while start >= 0:
        stop = flags.find(b"\0", start)
        stop = len(flags) if stop < 0 else stop
        yield start, stop
        start = flags.find(LONG_RUN, stop)
