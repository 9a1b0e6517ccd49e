"""The policies in simulated migrations: hand-computed ones, and what always holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import Decision
from xsave.estimate import Estimate, WorkingSet, estimate
from xsave_plugins.policies.downtime import DowntimePolicy
from xsave_plugins.policies.fixed import FixedPolicy
from xsave_plugins.policies.slowing import SlowingPolicy

PAGE = 4096
HUNDRED = 100 * PAGE  # bytes/s: 100 pages a second


def linear(pages_per_s: float) -> WorkingSet:
    return WorkingSet.from_samples([(1.0, pages_per_s)])


def simulate_fixed(
    curve: WorkingSet, nr_pages: int = 1000, bytes_per_s: float = HUNDRED, **options: str
) -> Estimate:
    return estimate(curve, nr_pages, PAGE, bytes_per_s, FixedPolicy().configure(options))


class TestFixed:
    def test_a_guest_that_dirties_half_as_fast_as_is_sent(self) -> None:
        found = simulate_fixed(linear(50))
        assert [one.nr_sent for one in found.iterations] == [1000, 500, 250, 125, 62]
        assert [one.nr_dirty for one in found.iterations] == [500, 250, 125, 62, 31]
        assert [one.duration_s for one in found.iterations] == [10, 5, 2.5, 1.25, 0.62]
        assert found.final is not None and found.final.nr_sent == 31
        assert found.downtime_s == pytest.approx(0.31)
        assert found.total_s == pytest.approx(19.68)
        assert "fewer than 50" in found.rulings[-1].reason

    def test_a_guest_with_a_small_working_set_stops_early(self) -> None:
        found = simulate_fixed(WorkingSet.from_samples([(1.0, 40), (20.0, 40)]))
        assert [one.nr_dirty for one in found.iterations] == [40]
        assert found.downtime_s == pytest.approx(0.4)

    def test_a_guest_with_a_hot_working_set_is_sent_five_times(self) -> None:
        # 200 pages in the first second, and no others after it
        found = simulate_fixed(WorkingSet.from_samples([(1.0, 200), (20.0, 200)]))
        assert [one.nr_sent for one in found.iterations] == [1000, 200, 200, 200, 200]
        assert found.downtime_s == 2.0

    def test_a_guest_faster_than_the_network_is_paused_with_all_of_it_dirty(self) -> None:
        found = simulate_fixed(linear(300))
        assert [one.nr_dirty for one in found.iterations] == [1000] * 5
        assert found.downtime_s == 10.0
        assert found.total_s == 60.0

    def test_a_guest_between_two_points_of_its_curve(self) -> None:
        # 100 pages in 1 s, 300 in 11 s: 280 in 10 s, 136 in 2.8 s, 107 in 1.36 s
        curve = WorkingSet.from_samples([(1.0, 100), (11.0, 300)])
        found = simulate_fixed(curve, iterations="3")
        assert [one.nr_dirty for one in found.iterations] == [280, 136, 107]


class TestDowntime:
    def test_it_converges_to_a_pause_within_the_target(self) -> None:
        policy = DowntimePolicy().configure({"target": "520ms"})
        found = estimate(linear(50), 1000, PAGE, HUNDRED, policy, pause_s=0.02)
        assert [one.nr_dirty for one in found.iterations] == [500, 250, 125, 62, 31]
        assert found.downtime_s == pytest.approx(0.33)

    @pytest.mark.parametrize(("told", "aborted"), [("stop", False), ("abort", True)])
    def test_a_hot_guest_is_given_up_as_told(self, told: str, aborted: bool) -> None:
        policy = DowntimePolicy().configure({"give_up": told})
        found = estimate(linear(200), 1000, PAGE, HUNDRED, policy)
        assert found.aborted is aborted
        assert len(found.iterations) == 4
        assert found.downtime_s == (None if aborted else 10.0)


class TestSlowing:
    def test_it_makes_a_guest_converge_that_does_not_by_itself(self) -> None:
        curve = linear(140)
        given_up = estimate(curve, 1000, PAGE, HUNDRED, DowntimePolicy())
        met = estimate(curve, 1000, PAGE, HUNDRED, SlowingPolicy())
        assert given_up.downtime_s == 10.0
        assert met.downtime_s is not None and met.downtime_s <= 0.28
        assert {one.share for one in met.iterations} == {1.0, 0.8, 0.6}
        assert met.rulings[-1].reason.endswith("is within the target of 300.0 ms")

    def test_a_working_set_that_is_hot_at_any_speed_is_given_up_at_the_least_share(self) -> None:
        curve = WorkingSet.from_samples([(0.001, 500), (20.0, 500)])
        found = estimate(curve, 1000, PAGE, HUNDRED, SlowingPolicy())
        assert found.iterations[-1].share == 0.2
        assert "the least there may be" in found.rulings[-1].reason


curves = st.lists(
    st.tuples(st.floats(1e-4, 1e3), st.integers(0, 10**6)), min_size=1, max_size=8
).map(WorkingSet.from_samples)
sizes = st.integers(1, 10**6)
rates = st.floats(1e4, 1e11)


@settings(max_examples=150, deadline=None)
@given(curve=curves, nr_pages=sizes, rate=rates, faster=st.floats(1.01, 100))
def test_more_bandwidth_never_lengthens_the_pause_after_the_same_number_of_iterations(
    curve: WorkingSet, nr_pages: int, rate: float, faster: float
) -> None:
    slow = simulate_fixed(curve, nr_pages, rate, dirty="0")
    fast = simulate_fixed(curve, nr_pages, rate * faster, dirty="0")
    assert slow.downtime_s is not None and fast.downtime_s is not None
    assert fast.downtime_s <= slow.downtime_s
    assert fast.total_s <= slow.total_s


@settings(max_examples=100, deadline=None)
@given(nr_pages=sizes, rate=rates, policy=st.sampled_from([FixedPolicy, SlowingPolicy]))
def test_an_idle_guest_is_sent_once_and_costs_no_pause(
    nr_pages: int, rate: float, policy: type[FixedPolicy] | type[SlowingPolicy]
) -> None:
    found = estimate(linear(0), nr_pages, PAGE, rate, policy())
    assert (len(found.iterations), found.downtime_s) == (1, 0.0)


@settings(max_examples=150, deadline=None)
@given(curve=curves, nr_pages=sizes, rate=rates, slowing=st.booleans())
def test_a_pause_said_to_be_within_the_target_is_within_it(
    curve: WorkingSet, nr_pages: int, rate: float, slowing: bool
) -> None:
    policy = (SlowingPolicy if slowing else DowntimePolicy)().configure({"give_up": "abort"})
    found = estimate(curve, nr_pages, PAGE, rate, policy, pause_s=0.02)
    assert len(found.iterations) == len(found.rulings) <= 30
    for ruling in found.rulings:
        assert " ms" in ruling.reason and " MiB" in ruling.reason
        assert 0.2 <= ruling.share <= 1
    if found.downtime_s is None:
        assert found.rulings[-1].decision is Decision.ABORT
        assert "aborting" in found.rulings[-1].reason
    else:
        assert found.downtime_s <= 0.3 * (1 + 1e-9)
        assert "within the target" in found.rulings[-1].reason


@settings(max_examples=150, deadline=None)
@given(curve=curves, nr_pages=sizes, rate=rates)
def test_a_shorter_target_never_takes_fewer_iterations_where_it_converges(
    curve: WorkingSet, nr_pages: int, rate: float
) -> None:
    def run(target: str) -> Estimate:
        policy = DowntimePolicy().configure({"target": target, "give_up": "abort"})
        return estimate(curve, nr_pages, PAGE, rate, policy)

    short, long = run("50ms"), run("500ms")
    if not short.aborted:
        assert not long.aborted
        assert len(long.iterations) <= len(short.iterations)
