"""Every iteration of these sends 100 MiB in a second: see test_downtime.py."""

from __future__ import annotations

import pytest

from tests.plugins.policies.migration import drive
from xsave import Decision
from xsave_plugins.policies.slowing import SlowingPolicy

CONTINUE, STOP, ABORT = Decision.CONTINUE, Decision.STOP_AND_COPY, Decision.ABORT
TENTH = 2560  # pages


def test_a_guest_that_converges_is_left_alone() -> None:
    rulings = drive(SlowingPolicy(), [64 * TENTH, 32 * TENTH, 16 * TENTH, 8 * TENTH, 2 * TENTH])
    assert [one.decision for one in rulings] == [CONTINUE] * 4 + [STOP]
    assert {one.share for one in rulings} == {1.0}


def test_the_guest_is_slowed_by_one_step_when_it_does_not_converge() -> None:
    rulings = drive(SlowingPolicy(), [10 * TENTH] * 4)
    assert [one.share for one in rulings] == [1.0, 1.0, 1.0, 0.8]
    assert rulings[-1].decision is CONTINUE
    assert rulings[-1].reason == (
        "a pause of 1020.0 ms (25600 pages dirty, 100.0 MiB, at 100.0 MiB/s, plus 20.0 ms) "
        "is above the target of 300.0 ms; it does not converge: it was 1020.0 ms 3 iterations "
        "ago, and has not fallen by 10 %; so the guest is slowed, from 100 % to 80 % of its time"
    )


def test_each_step_has_three_iterations_to_show_what_it_brings_and_the_last_one_ends_it() -> None:
    rulings = drive(SlowingPolicy(), [10 * TENTH] * 16)
    assert [one.share for one in rulings[:-1]] == (
        [1.0] * 3 + [0.8] * 3 + [0.6] * 3 + [0.4] * 3 + [0.2] * 3
    )
    assert [one.decision for one in rulings] == [CONTINUE] * 15 + [STOP]
    assert "the guest is left 20 % of its time already, the least there may be" in (
        rulings[-1].reason
    )
    assert "; the guest is left 40 % of its time" in rulings[10].reason


@pytest.mark.parametrize(
    ("least", "shares"),
    [("0.7", [1.0, 0.8, 0.7]), ("0.6", [1.0, 0.8, 0.6]), ("0.01", [1, 0.8, 0.6, 0.4, 0.2, 0.01])],
)
def test_the_least_share_is_an_option(least: str, shares: list[float]) -> None:
    policy = SlowingPolicy().configure({"min": least, "give_up": "abort"})
    rulings = drive(policy, [10 * TENTH] * (3 * len(shares) + 1))
    assert [one.share for one in rulings[:-1:3]] == shares
    assert rulings[-1].decision is ABORT


def test_with_a_least_share_of_all_the_time_it_is_the_downtime_policy() -> None:
    rulings = drive(SlowingPolicy().configure({"min": "1"}), [10 * TENTH] * 4)
    assert [one.decision for one in rulings] == [CONTINUE] * 3 + [STOP]


def test_the_guest_stays_slowed_while_that_brings_something() -> None:
    dirty = [round(100 * TENTH * 0.9**n) for n in range(12)]
    rulings = drive(SlowingPolicy(), [100 * TENTH] * 3 + dirty)
    assert [one.share for one in rulings[3:]] == [0.8] * 12


def test_the_guest_gets_time_back_when_there_is_room() -> None:
    rulings = drive(SlowingPolicy(), [100 * TENTH] * 7 + [30 * TENTH, 10 * TENTH])
    # 30 % an iteration at 60 % of the time would be 40 % at 80 %, and that 50 % at all of it
    assert [one.share for one in rulings[6:]] == [0.6, 0.8, 1.0]
    assert rulings[7].reason.endswith(
        "is above the target of 300.0 ms; the part of memory fell to 30 % in one iteration, so "
        "the guest gets time back, from 60 % to 80 % of its time"
    )


def test_a_fall_that_would_not_last_at_the_larger_share_is_no_room() -> None:
    rulings = drive(SlowingPolicy(), [100 * TENTH] * 7 + [40 * TENTH])
    assert rulings[-1].share == 0.6


def test_a_guest_that_cannot_be_slowed_ends_it_as_told() -> None:
    rulings = drive(SlowingPolicy(), [10 * TENTH] * 5, shares=[1.0] * 5)
    assert [one.decision for one in rulings] == [CONTINUE] * 4 + [STOP]
    assert (
        "the guest was to be left 80 % of its time, but cannot be slowed here; the guest dirtied "
        "100.0 MiB/s in the last iteration; stopping, as told for this case"
    ) in rulings[-1].reason


def test_a_guest_that_cannot_be_slowed_may_still_come_to_meet_the_target() -> None:
    dirty = [10 * TENTH] * 4 + [8 * TENTH, 4 * TENTH, TENTH]
    rulings = drive(SlowingPolicy(), dirty, shares=[1.0] * 7)
    assert [one.decision for one in rulings] == [CONTINUE] * 6 + [STOP]
    assert "cannot be slowed here" in rulings[4].reason


def test_the_iterations_are_bounded_while_it_is_slowed() -> None:
    rulings = drive(SlowingPolicy().configure({"max": "6"}), [10 * TENTH] * 6)
    assert [one.share for one in rulings[:-1]] == [1.0] * 3 + [0.8] * 2
    assert rulings[-1].decision is STOP


def test_one_object_is_for_one_migration() -> None:
    offered = SlowingPolicy()
    drive(offered.configure({}), [10 * TENTH] * 4)
    assert drive(offered.configure({}), [10 * TENTH])[0].share == 1.0
