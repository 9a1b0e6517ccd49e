"""How long the guest would stand still if it were paused now."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xsave import Iteration, frozen

from . import words

# What an iteration that sends less than this takes is mostly something else than sending
# (looking at the dirty log, filling a socket's buffer), so it counts for less.
TRUSTED_BYTES = 1 << 20


@frozen
class Prediction:
    """:ivar nr_dirty: pfns that the last pass would send, at most this many pages.
    :ivar bytes_per_s: of guest memory, not of the stream: what compresses well goes out
        faster; None where nothing has been measured.
    :ivar memory_s: for the dirty pages; infinite while the bandwidth is not known.
    :ivar fixed_s: for all else.
    """

    nr_dirty: int
    dirty_bytes: int
    bytes_per_s: float | None
    memory_s: float
    fixed_s: float

    @property
    def pause_s(self) -> float:
        return self.memory_s + self.fixed_s

    def __str__(self) -> str:
        dirty = f"{words.pages(self.nr_dirty)} dirty, {words.mib(self.dirty_bytes)}"
        if self.bytes_per_s is None:
            if self.nr_dirty:
                return f"a pause of unknown length ({dirty}, at a rate not measured yet)"
            return f"a pause of {words.ms(self.pause_s)} (no page dirty)"
        return (
            f"a pause of {words.ms(self.pause_s)} ({dirty}, at "
            f"{words.mib_per_s(self.bytes_per_s)}, plus {words.ms(self.fixed_s)})"
        )


def predict(iterations: Sequence[Iteration], page_size: int, fixed_s: float) -> Prediction:
    """For a pause right after the last of these iterations.

    :param fixed_s: what a pause costs beside memory.
    """
    nr_dirty = iterations[-1].nr_dirty
    dirty_bytes = nr_dirty * page_size
    bytes_per_s = estimate_bandwidth(iterations, page_size)
    if not nr_dirty:
        memory_s = 0.0
    elif bytes_per_s is None:
        memory_s = math.inf
    else:
        memory_s = dirty_bytes / bytes_per_s
    return Prediction(nr_dirty, dirty_bytes, bytes_per_s, memory_s, fixed_s)


def estimate_bandwidth(iterations: Sequence[Iteration], page_size: int) -> float | None:
    """Bytes of guest memory per second, from all iterations: each counts half of the one
    after it, and proportionally less below :data:`TRUSTED_BYTES`.

    What is averaged is the time for a byte, since times are what a pause is made of: one
    slow iteration is not outweighed by one that only filled a buffer.

    :returns: None where no iteration sent a page in a time that could be measured.
    """
    weights = weighted_s = 0.0
    weight = 1.0
    for one in reversed(iterations):
        sent_bytes = one.nr_pages * page_size
        if sent_bytes and one.duration_s > 0:
            trust = weight * min(1.0, sent_bytes / TRUSTED_BYTES)
            weights += trust
            weighted_s += trust * one.duration_s / sent_bytes
        weight /= 2
    # the second can only be 0 where durations are so small that they vanish
    return weights / weighted_s if weighted_s > 0 else None
