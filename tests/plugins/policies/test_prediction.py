from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.policies.migration import MIB, PAGE, iteration
from xsave import Iteration
from xsave_plugins.policies.prediction import estimate_bandwidth, predict


def bandwidth(*iterations: Iteration) -> float:
    found = estimate_bandwidth(iterations, PAGE)
    assert found is not None
    return found


def test_one_iteration_says_its_own_rate() -> None:
    assert bandwidth(iteration()) == pytest.approx(100 * MIB)


def test_the_last_iteration_counts_most() -> None:
    fast, slow = iteration(duration_s=0.5), iteration(duration_s=2.0)
    # times for 100 MiB: (2 * 2.0 + 0.5) / 3 and (2 * 0.5 + 2.0) / 3
    assert bandwidth(fast, slow) == pytest.approx(100 * MIB / 1.5)
    assert bandwidth(slow, fast) == pytest.approx(100 * MIB / 1.0)


def test_a_long_time_ago_hardly_counts() -> None:
    slow, fast = iteration(duration_s=100.0), iteration()
    assert bandwidth(slow, *[fast] * 20) == pytest.approx(100 * MIB, rel=1e-3)


def test_an_iteration_of_a_few_pages_hardly_counts() -> None:
    """They filled a buffer, in no time."""
    assert bandwidth(iteration(), iteration(nr_pages=1, duration_s=1e-7)) == pytest.approx(
        100 * MIB, rel=0.01
    )


def test_compression_does_not_make_the_bandwidth_smaller() -> None:
    """Pauses are for guest memory, so that is what is counted."""
    packed = Iteration(0, 25600, 25600, 1 * MIB, 1.0, 0)
    assert bandwidth(packed) == pytest.approx(100 * MIB)


@pytest.mark.parametrize("nothing", [iteration(nr_pages=0), iteration(duration_s=0.0)])
def test_without_a_measurement_the_pause_is_unknown_unless_nothing_is_dirty(
    nothing: Iteration,
) -> None:
    assert estimate_bandwidth([nothing], PAGE) is None
    clean = predict([nothing], PAGE, 0.02)
    assert clean.pause_s == 0.02
    assert str(clean) == "a pause of 20.0 ms (no page dirty)"
    dirty = predict([Iteration(0, 1, nothing.nr_pages, 0, nothing.duration_s, 1)], PAGE, 0.02)
    assert math.isinf(dirty.pause_s)
    assert str(dirty).startswith("a pause of unknown length (1 page dirty, 0.00391 MiB")


def test_the_pause_is_the_dirty_memory_at_the_bandwidth_and_what_it_costs_beside() -> None:
    found = predict([iteration(nr_dirty=2560)], PAGE, 0.02)
    assert found.pause_s == pytest.approx(0.12)
    assert str(found) == (
        "a pause of 120.0 ms (2560 pages dirty, 10.0 MiB, at 100.0 MiB/s, plus 20.0 ms)"
    )


some_iterations = st.lists(
    st.builds(iteration, st.integers(0, 1 << 30), st.floats(0, 1e6), st.integers(0, 1 << 30)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(iterations=some_iterations)
def test_a_bandwidth_lies_between_the_slowest_and_the_fastest(iterations: list[Iteration]) -> None:
    found = estimate_bandwidth(iterations, PAGE)
    rates = [one.pages_per_s * PAGE for one in iterations if one.nr_pages and one.duration_s > 0]
    if found is None:
        assert not [rate for rate in rates if math.isfinite(rate)]
    else:
        assert min(rates) * 0.999 <= found <= max(rates) * 1.001
    assert predict(iterations, PAGE, 0.02).pause_s >= 0.02
