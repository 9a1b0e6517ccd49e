"""The estimated end of a live save, on made-up guests whose end is known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from attrs import define

from xsave import Decision, Iteration, PrecopyPolicy, PrecopyStats, Ruling
from xsave.pipeline.forecast import Forecast

PAGE, NR_PAGES = 4096, 100_000
PAGES_PER_S, DIRTY_PER_S = 10_000, 2_500
STEP_S = 0.1


@define(eq=False)
class Counting(PrecopyPolicy):
    """Stops after so many iterations, and remembers how often it was asked."""

    name = "counting"
    nr_iterations: int = 3
    asked: int = 0

    def decide(self, stats: PrecopyStats) -> Ruling:
        self.asked += 1
        ends = self.asked >= self.nr_iterations
        return Ruling(Decision.STOP_AND_COPY if ends else Decision.CONTINUE, "counted")

    def configure(self, options: Mapping[str, str]) -> PrecopyPolicy:
        return Counting()


class Endless(Counting):
    def decide(self, stats: PrecopyStats) -> Ruling:
        return Ruling(Decision.CONTINUE, "on and on")


def migrate(policy: Counting) -> list[tuple[float, float | None]]:
    """A guest that dirties pages at one rate goes through the passes of its policy.

    :returns: (time, remaining time as estimated then), up to the end.
    """
    now = 0.0
    forecast = Forecast(policy, NR_PAGES, PAGE, lambda: now)
    done: list[Iteration] = []
    told: list[tuple[float, float | None]] = []
    nr_to_send, share = NR_PAGES, 1.0
    while True:
        forecast.begin(nr_to_send, share)
        began, nr_sent = now, 0
        while nr_sent < nr_to_send:
            sent = min(int(PAGES_PER_S * STEP_S), nr_to_send - nr_sent)
            now += sent / PAGES_PER_S
            nr_sent += sent
            forecast.sent(sent)
            if forecast.wants_look:
                forecast.looked(int(DIRTY_PER_S * (now - began)))
            told.append((now, forecast.remaining_s(done)))
        if not share:
            return told
        nr_dirty = int(DIRTY_PER_S * (now - began))
        forecast.looked(nr_dirty)
        done.append(Iteration(len(done), nr_to_send, nr_to_send, 0, now - began, nr_dirty))
        ruling = policy.decide(PrecopyStats(done, NR_PAGES, PAGE))
        share = 0.0 if ruling.decision is Decision.STOP_AND_COPY else 1.0
        nr_to_send = nr_dirty


@pytest.mark.parametrize("nr_iterations", [1, 2, 4])
def test_the_end_is_foreseen_from_early_on(nr_iterations: int) -> None:
    policy = Counting(nr_iterations)
    told = migrate(policy)
    assert policy.asked == nr_iterations  # only a copy of it was asked about the future
    end = told[-1][0]
    foreseen = [(now, left) for now, left in told if left is not None]
    assert len(foreseen) > 0.9 * len(told)
    for now, left in foreseen:
        assert left == pytest.approx(end - now, abs=0.6)
    assert foreseen[-1][1] == 0


def test_without_a_sample_or_an_end_nothing_is_foretold() -> None:
    now = 0.0
    forecast = Forecast(Counting(), NR_PAGES, PAGE, lambda: now)
    forecast.begin(NR_PAGES, 1.0)
    assert forecast.remaining_s([]) is None
    endless = Forecast(Endless(), NR_PAGES, PAGE, lambda: now)
    endless.begin(NR_PAGES, 1.0)
    now = 1.0
    endless.sent(1000)
    endless.looked(900)
    assert endless.remaining_s([]) is None


def test_of_a_guest_that_is_paused_first_it_is_what_is_left_to_send() -> None:
    now = 0.0
    forecast = Forecast(None, NR_PAGES, PAGE, lambda: now)
    forecast.begin(NR_PAGES * 3, 0.0)  # with holes
    now = 2.0
    forecast.sent(NR_PAGES // 4)
    assert not forecast.wants_look
    assert forecast.remaining_s([]) == pytest.approx(6.0)
