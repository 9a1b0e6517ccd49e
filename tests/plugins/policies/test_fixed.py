from __future__ import annotations

import pytest

from tests.plugins.policies.migration import drive, iteration, stats
from xsave import Decision
from xsave_plugins.policies.fixed import FixedPolicy

CONTINUE, STOP = Decision.CONTINUE, Decision.STOP_AND_COPY


def test_it_stops_after_five_iterations_however_much_is_dirty() -> None:
    rulings = drive(FixedPolicy(), [9000] * 5)
    assert [ruling.decision for ruling in rulings] == [CONTINUE] * 4 + [STOP]
    assert rulings[-1].reason == (
        "5 iterations, as many as there may be, with 9000 pages dirty (35.2 MiB); "
        "the last took 1000.0 ms at 100.0 MiB/s"
    )


@pytest.mark.parametrize(("nr_dirty", "decision"), [(50, CONTINUE), (49, STOP), (0, STOP)])
def test_fewer_than_fifty_dirty_pages_end_it(nr_dirty: int, decision: Decision) -> None:
    (ruling,) = drive(FixedPolicy(), [nr_dirty])
    assert ruling.decision is decision


def test_the_reasons_have_the_numbers() -> None:
    going, stopping = drive(FixedPolicy(), [256, 49])
    assert going.reason == (
        "256 pages dirty (1.0 MiB) after iteration 1 of 5; the last took 1000.0 ms at 100.0 MiB/s"
    )
    assert stopping.reason == (
        "49 pages dirty (0.191 MiB), fewer than 50, after 2 iterations; "
        "the last took 1000.0 ms at 100.0 MiB/s"
    )


def test_the_options_move_both_limits() -> None:
    policy = FixedPolicy().configure({"iterations": "2", "dirty": "0"})
    assert [one.decision for one in drive(policy, [0, 0])] == [CONTINUE, STOP]
    policy = FixedPolicy().configure({"dirty": "1000"})
    assert [one.decision for one in drive(policy, [1000, 999])] == [CONTINUE, STOP]


def test_the_guest_is_never_slowed() -> None:
    assert {one.share for one in drive(FixedPolicy(), [9000] * 5)} == {1.0}


def test_an_iteration_too_short_for_the_clock_is_no_error() -> None:
    ruling = FixedPolicy().decide(stats(iteration(nr_pages=3, duration_s=0.0, nr_dirty=70)))
    assert ruling.decision is CONTINUE
    assert "0.0 ms at 0.0 MiB/s" in ruling.reason
