"""Every iteration of these sends 100 MiB in a second, so 2560 dirty pages, 10 MiB, are a
tenth of a second, and 20 ms come on top."""

from __future__ import annotations

import pytest

from tests.plugins.policies.migration import drive, iteration, stats
from xsave import Decision, UsageError
from xsave_plugins.policies.downtime import DowntimePolicy

CONTINUE, STOP, ABORT = Decision.CONTINUE, Decision.STOP_AND_COPY, Decision.ABORT
TENTH = 2560  # pages


def test_it_stops_when_the_pause_would_be_within_the_target() -> None:
    above, within = drive(DowntimePolicy(), [30 * TENTH, 2 * TENTH])
    assert above.decision is CONTINUE
    assert above.reason == (
        "a pause of 3020.0 ms (76800 pages dirty, 300.0 MiB, at 100.0 MiB/s, plus 20.0 ms) "
        "is above the target of 300.0 ms"
    )
    assert within.decision is STOP
    assert within.reason == (
        "a pause of 220.0 ms (5120 pages dirty, 20.0 MiB, at 100.0 MiB/s, plus 20.0 ms) "
        "is within the target of 300.0 ms"
    )


@pytest.mark.parametrize(("target", "decision"), [("121ms", STOP), ("119ms", CONTINUE)])
def test_the_target_is_an_option(target: str, decision: Decision) -> None:
    (ruling,) = drive(DowntimePolicy().configure({"target": target}), [TENTH])
    assert ruling.decision is decision


@pytest.mark.parametrize(("fixed", "decision"), [("199ms", STOP), ("0.201s", CONTINUE)])
def test_what_a_pause_costs_beside_memory_is_part_of_it(fixed: str, decision: Decision) -> None:
    (ruling,) = drive(DowntimePolicy().configure({"fixed": fixed}), [TENTH])
    assert ruling.decision is decision


@pytest.mark.parametrize("target", ["20ms", "5ms", "0s"])
def test_a_target_that_no_pause_can_meet_is_refused(target: str) -> None:
    with pytest.raises(UsageError, match=r"expected more than fixed, the 20\.0 ms that a pause"):
        DowntimePolicy().configure({"target": target})


def test_it_gives_up_when_three_iterations_bring_less_than_a_tenth() -> None:
    rulings = drive(DowntimePolicy(), [10 * TENTH, 9 * TENTH, 10 * TENTH, 9 * TENTH + 300])
    assert [one.decision for one in rulings] == [CONTINUE] * 3 + [STOP]
    assert rulings[-1].reason == (
        "a pause of 931.7 ms (23340 pages dirty, 91.2 MiB, at 100.0 MiB/s, plus 20.0 ms) "
        "is above the target of 300.0 ms; it does not converge: it was 1020.0 ms 3 iterations "
        "ago, and has not fallen by 10 %; the guest dirtied 91.2 MiB/s in the last iteration; "
        "stopping, as told for this case"
    )


def test_slow_progress_is_progress() -> None:
    dirty = [round(100 * TENTH * 0.95**n) for n in range(12)]  # 14 % in three iterations
    assert {one.decision for one in drive(DowntimePolicy(), dirty)} == {CONTINUE}


def test_one_burst_does_not_end_it() -> None:
    rulings = drive(DowntimePolicy(), [50 * TENTH, 40 * TENTH, 30 * TENTH, 44 * TENTH, 20 * TENTH])
    assert {one.decision for one in rulings} == {CONTINUE}


def test_it_aborts_where_it_was_told_to() -> None:
    policy = DowntimePolicy().configure({"give_up": "abort"})
    ruling = drive(policy, [10 * TENTH] * 4)[-1]
    assert ruling.decision is ABORT
    assert ruling.reason.endswith("in the last iteration; aborting, as told for this case")


@pytest.mark.parametrize(("told", "decision"), [("stop", STOP), ("abort", ABORT)])
def test_the_iterations_are_bounded(told: str, decision: Decision) -> None:
    policy = DowntimePolicy().configure({"max": "3", "give_up": told})
    rulings = drive(policy, [50 * TENTH, 25 * TENTH, 12 * TENTH])
    assert [one.decision for one in rulings] == [CONTINUE, CONTINUE, decision]
    assert "; 3 iterations, as many as there may be; the guest dirtied" in rulings[-1].reason


def test_the_last_iteration_allowed_may_meet_the_target() -> None:
    policy = DowntimePolicy().configure({"max": "2", "give_up": "abort"})
    assert drive(policy, [50 * TENTH, TENTH])[-1].decision is STOP


def test_a_clock_that_stands_still_ends_in_giving_up_not_in_an_error() -> None:
    policy = DowntimePolicy()
    done = [iteration(duration_s=0.0, nr_dirty=5) for _ in range(30)]
    rulings = [policy.decide(stats(*done[: n + 1])) for n in range(30)]
    assert [one.decision for one in rulings] == [CONTINUE] * 29 + [STOP]
    assert "at a rate not measured yet) may be above the target" in rulings[0].reason


def test_it_remembers_nothing() -> None:
    policy = DowntimePolicy()
    done = [iteration(nr_dirty=10 * TENTH)] * 4
    alone = policy.decide(stats(*done))
    for n in range(1, 4):
        policy.decide(stats(*done[:n]))
    assert policy.decide(stats(*done)) == alone
