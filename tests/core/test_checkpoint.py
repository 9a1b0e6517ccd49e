"""When checkpoints end, and what is told of very many."""

from __future__ import annotations

import math

import pytest

from xsave import Checkpoints, UsageError
from xsave.progress import ROUNDS_KEPT, DowntimeReport, Round, RoundsReport


def test_a_count_says_which_one_is_the_last() -> None:
    assert [Checkpoints(count=3).is_last(number) for number in range(3)] == [False, False, True]
    assert not Checkpoints().is_last(1 << 40)


def test_so_does_whoever_is_asked() -> None:
    asked: list[bool] = [False, True]
    checkpoints = Checkpoints(count=9, ended=asked.pop)
    assert checkpoints.is_last(0)
    assert not checkpoints.is_last(0)


@pytest.mark.parametrize("period_s", [-0.1, 3601.0, math.nan, math.inf])
def test_a_period_that_nobody_could_mean_is_refused(period_s: float) -> None:
    with pytest.raises(UsageError, match="0 to 3600 s between checkpoints"):
        Checkpoints(period_s)


def test_fewer_than_one_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 checkpoint"):
        Checkpoints(count=-1)


def test_of_very_many_rounds_the_first_and_the_last_are_kept_and_all_are_counted() -> None:
    report = RoundsReport()
    for number in range(1000):
        pause = 2.0 if number == 500 else 0.5
        report.add(Round(number, 0.2, 3, 10, DowntimeReport(pause_s=pause)))
    assert len(report.shown) == 2 * ROUNDS_KEPT
    numbers = [one.number for one in report.shown]
    assert numbers == [*range(ROUNDS_KEPT), *range(1000 - ROUNDS_KEPT, 1000)]
    assert (report.count, report.nr_pages, report.sent_bytes) == (1000, 3000, 10000)
    assert report.pause_s == pytest.approx(999 * 0.5 + 2.0)
    assert report.longest_s == 2.0


def test_the_newest_pause_counts_as_long_as_it_goes_on() -> None:
    report = RoundsReport()
    downtime = DowntimeReport(pause_s=0.5)
    report.add(Round(0, 0.0, 3, 10, downtime))
    downtime.finish_s = 1.0
    assert report.pause_s == report.longest_s == 1.5
