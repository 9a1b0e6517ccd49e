"""What simulated guests do with their memory, repeatable from a seed.

All a workload remembers stands in the guest's state page; random numbers are a function of
the seed and of how many pages were written so far. So a guest goes on where it was,
wherever it wakes up.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from xsave import XsaveError

from .contents import Contents, mix, numbers
from .state_page import STATE_PFN, StatePage, Word

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries

    from .guest import Guest

PAGE_BYTES = 4096
WORDS_WRITTEN = 16  # of the 512 of a page that is written to
HOT_SHARE, HOT_WRITES = 10, 90  # percent of the pages, and of the writes that go there
BALLOON_SHARE = 8  # one write in so many moves the balloon instead

_RUN = np.arange(WORDS_WRITTEN)


class Workload:
    """Called with the guest's lock held."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._contents: Contents | None = None

    def run(self, slice_ns: int) -> None:
        guest = self._guest
        if (state := guest.state) is None:
            return
        guest.row(STATE_PFN)
        state[Word.COUNTER] += 1
        state[Word.RUN_NS] += slice_ns
        for facet in guest.facets.values():
            if (run_facet := getattr(facet, "run", None)) is not None:
                run_facet(slice_ns)
        if (workload := state.workload) == "idle":
            return
        credit = state[Word.CREDIT] + int(state[Word.RATE] * guest.share) * slice_ns
        count, state[Word.CREDIT] = divmod(credit, PAGE_BYTES * 10**9)
        if count:
            getattr(self, f"_{workload}")(state, count)
            state[Word.POSITION] += count
        if guest.kernel is not None:
            guest.kernel.churn()

    def settle(self) -> None:
        if self._guest.kernel is not None:
            self._guest.kernel.settle()

    def _sequential(self, state: StatePage, count: int) -> None:
        """Sweeps over its memory, again and again."""
        position = np.arange(count, dtype=np.uint64) + np.uint64(state[Word.POSITION])
        self._scribble(state, position % np.uint64(state[Word.NR_PFNS]))

    def _random(self, state: StatePage, count: int) -> None:
        """A tenth of the pages gets nine tenths of the writes."""
        drawn = numbers(state[Word.SEED], state[Word.POSITION], count)
        nr_pfns = state[Word.NR_PFNS]
        nr_hot = max(1, nr_pfns * HOT_SHARE // 100)
        nr_cold = max(1, nr_pfns - nr_hot)
        which = drawn >> np.uint64(8)
        cold = np.minimum(nr_hot + which % np.uint64(nr_cold), nr_pfns - 1).astype(np.uint64)
        is_hot = drawn % np.uint64(100) < HOT_WRITES
        self._scribble(state, np.where(is_hot, which % np.uint64(nr_hot), cold))

    def _hungry(self, state: StatePage, count: int) -> None:
        """Fills pages it never touched, while there are any; then it sweeps."""
        first, end = state[Word.NR_PFNS], state[Word.NR_ORDINARY]
        fresh = min(count, end - first)
        if fresh:
            self._fill(state, first, fresh)
            state[Word.NR_PFNS] = first + fresh
        if count > fresh:
            self._sequential(state, count - fresh)

    def _ballooning(self, state: StatePage, count: int) -> None:
        """Writes at random, while its balloon grows and shrinks."""
        guest = self._guest
        moved = max(1, count // BALLOON_SHARE)
        out, size = state[Word.BALLOON_OUT], state[Word.BALLOON_SIZE]
        first = state[Word.BALLOON_PFN]
        assert guest.kernel is not None
        if state[Word.BALLOON_GROWS]:
            moved = min(moved, size - out)
            guest.kernel.give_up(_pfns(first + out, moved))
            out += moved
        else:
            moved = min(moved, out)
            with contextlib.suppress(XsaveError):  # the host has not enough: another time
                guest.kernel.take_back(_pfns(first + out - moved, moved))
                out -= moved
                self._fill(state, first + out - state[Word.FIRST_PFN], moved)
        state[Word.BALLOON_OUT] = out
        if out in (0, size):
            state[Word.BALLOON_GROWS] = int(out == 0)
        self._random(state, count)

    def _fill(self, state: StatePage, first: int, count: int) -> None:
        """New contents for whole pages, counted from the first that it writes to."""
        guest = self._guest
        if self._contents is None or self._contents.seed != state[Word.SEED]:
            self._contents = Contents.of(state[Word.SEED])
        keys = numbers(state[Word.SEED] ^ 1, state[Word.POSITION], count)
        pages = np.empty((count, 512), np.uint64)
        self._contents.make(keys, pages)
        guest.write(_pfns(state[Word.FIRST_PFN] + first, count), pages.view(np.uint8))

    def _scribble(self, state: StatePage, indices: NDArray[np.uint64]) -> None:
        """Change a few words of each of these pages, counted from the first that it
        writes to."""
        frames = self._guest.rows(indices + np.uint64(state[Word.FIRST_PFN]))
        drawn = numbers(state[Word.SEED] ^ 2, state[Word.POSITION], len(frames))
        columns = (drawn % np.uint64(512 - WORDS_WRITTEN)).astype(np.intp)[:, None] + _RUN
        values = mix(drawn[:, None] + _RUN.astype(np.uint64))
        self._guest.host.memory.words[frames[:, None], columns] = values


def _pfns(first: int, count: int) -> Entries:
    return np.arange(first, first + count, dtype=np.uint64)
