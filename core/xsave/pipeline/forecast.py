"""When a live save will be over: estimated while it goes on, from what was seen so far.

How fast the guest dirties pages is known from the dirty log, at the end of each pass and at
looks in between, ever later; how fast memory goes out, from the passes. The rest is the
estimator's, with a copy of the policy as it is by now.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from ..errors import XsaveError
from ..estimate import SHORTEST_S, WorkingSet, remaining_s
from ..policy import Iteration, PrecopyPolicy

FIRST_LOOK_S = 0.05  # into a pass; each further look at twice the time of the one before
AGAIN_S = 0.5  # so old an estimate is made anew; in between it runs down


class Forecast:
    """:param policy: copied, since it may remember; None for a guest that is paused first.
    :param nr_pages: with contents, of the guest.
    """

    def __init__(
        self, policy: PrecopyPolicy | None, nr_pages: int, page_size: int,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._policy = policy
        self._nr_pages = max(1, nr_pages)
        self._page_size = page_size
        self._clock = clock
        self._samples: list[tuple[float, float]] = []
        self._nr_to_send = self._nr_sent = 0
        self._share = 1.0
        self._began = self._next_look_s = 0.0
        self._made_at: float | None = None
        self._made: float | None = None

    def begin(self, nr_to_send: int, share: float) -> None:
        """A pass begins. :param share: of its time that the guest is left; 0 when paused."""
        self._nr_to_send = min(nr_to_send, self._nr_pages)
        self._nr_sent = 0
        self._share = share
        self._began = self._clock()
        self._next_look_s = FIRST_LOOK_S
        self._made_at = None

    def sent(self, nr_pages: int) -> None:
        self._nr_sent += nr_pages

    @property
    def wants_look(self) -> bool:
        """Whether the dirty log would tell something new now."""
        return self._share > 0 and self._clock() - self._began >= self._next_look_s

    def looked(self, nr_dirty: int) -> None:
        passed_s = self._clock() - self._began
        self._next_look_s = 2 * max(passed_s, FIRST_LOOK_S)
        if passed_s * self._share >= SHORTEST_S:
            self._samples.append((passed_s * self._share, float(nr_dirty)))
        self._made_at = None

    def remaining_s(self, done: Sequence[Iteration]) -> float | None:
        """:param done: iterations that have ended. :returns: None while nothing is known."""
        now = self._clock()
        if self._made_at is None or now - self._made_at > AGAIN_S:
            self._made_at, self._made = now, self._estimate(done, now)
        return None if self._made is None else max(0.0, self._made - (now - self._made_at))

    def _estimate(self, done: Sequence[Iteration], now: float) -> float | None:
        nr_left = max(0, self._nr_to_send - self._nr_sent)
        bytes_per_s = self._bytes_per_s(done, now)
        if bytes_per_s is None:
            return None
        if not self._share or self._policy is None:  # the last pass
            return nr_left * self._page_size / bytes_per_s
        if not self._samples:
            return None
        try:
            return remaining_s(
                done, self._nr_to_send, nr_left, self._share,
                WorkingSet.from_samples(self._samples), self._nr_pages, self._page_size,
                bytes_per_s, copy.deepcopy(self._policy),
            )  # fmt: skip
        except (XsaveError, TypeError):  # no end in sight; or a policy that cannot be copied
            return None

    def _bytes_per_s(self, done: Sequence[Iteration], now: float) -> float | None:
        """Of this pass, as soon as it has sent something worth measuring; else of the largest
        of those before."""
        passed_s = now - self._began
        if passed_s >= FIRST_LOOK_S and self._nr_sent:
            return self._nr_sent * self._page_size / passed_s
        largest = max(done, key=lambda one: one.nr_pages, default=None)
        if largest is None or not largest.pages_per_s:
            return None
        return largest.pages_per_s * self._page_size
