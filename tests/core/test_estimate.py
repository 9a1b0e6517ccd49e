"""The estimator by itself, with policies made up here; and the trace files it works from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import Decision, FieldError, PrecopyPolicy, PrecopyStats, Ruling, UsageError, XsaveError
from xsave.estimate import Trace, WorkingSet, estimate, read_trace, trace_as_json

PAGE = 4096
SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "schemas" / "trace.json").read_text(encoding="utf-8")
)


@define(eq=False)
class Scripted(PrecopyPolicy):
    """Says what it was told to say, one after the other, then goes on for ever."""

    name = "scripted"
    script: list[Ruling]
    seen: list[PrecopyStats] = field(factory=list, init=False)

    def decide(self, stats: PrecopyStats) -> Ruling:
        self.seen.append(stats)
        return self.script.pop(0) if self.script else Ruling(Decision.CONTINUE, "on")

    def configure(self, options: Mapping[str, str]) -> PrecopyPolicy:
        return self


GO, STOP = Ruling(Decision.CONTINUE, "go"), Ruling(Decision.STOP_AND_COPY, "stop")
ABORT = Ruling(Decision.ABORT, "abort")
FIFTY = WorkingSet.from_samples([(1.0, 50)])


# The curve.


def test_a_curve_goes_through_its_samples_and_straight_between_them() -> None:
    curve = WorkingSet.from_samples([(4.0, 300), (1.0, 100), (2.0, 200)])
    assert curve.points == ((0, 0), (2, 200), (4, 300))
    assert [curve.pages_within(s) for s in (0, 0.5, 1, 2, 3, 4)] == [0, 50, 100, 200, 250, 300]
    assert curve.measured_s == 4.0


def test_behind_its_last_sample_a_curve_goes_on_as_steep() -> None:
    curve = WorkingSet.from_samples([(1.0, 100), (2.0, 150)])
    assert curve.pages_within(10.0) == 550
    assert WorkingSet.from_samples([(1.0, 7), (2.0, 7)]).pages_within(1e9) == 7


def test_samples_of_about_the_same_length_are_averaged() -> None:
    curve = WorkingSet.from_samples([(1.0, 100), (1.02, 200), (0.98, 300)])
    assert len(curve.points) == 2
    assert curve.points[1] == pytest.approx((1.0, 200.0))


def test_a_sample_that_lies_below_shorter_ones_does_not_bend_the_curve_down() -> None:
    curve = WorkingSet.from_samples([(1.0, 100), (2.0, 60), (4.0, 100)])
    assert curve.points == ((0, 0), (1, 100), (4, 100))
    assert curve.pages_within(2.0) == 100


@pytest.mark.parametrize(
    "samples",
    [[], [(0.0, 1)], [(-1.0, 1)], [(1.0, -1)], [(float("nan"), 1)], [(float("inf"), 1)]],
)
def test_what_no_log_can_have_is_refused(samples: list[tuple[float, float]]) -> None:
    with pytest.raises(UsageError):
        WorkingSet.from_samples(samples)


samples_st = st.lists(
    st.tuples(st.floats(1e-6, 1e9), st.integers(0, 1 << 52)), min_size=1, max_size=12
)


@settings(max_examples=300, deadline=None)
@given(samples=samples_st, times=st.lists(st.floats(0, 2e9), min_size=2, max_size=8))
def test_a_curve_rises_and_ever_more_slowly(
    samples: list[tuple[float, int]], times: list[float]
) -> None:
    curve = WorkingSet.from_samples(samples)
    points = curve.points
    assert points[0] == (0, 0)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(points)]
    assert all(slope >= 0 for slope in slopes)
    assert slopes == sorted(slopes, reverse=True)
    values = [curve.pages_within(seconds) for seconds in sorted(times)]
    for earlier, later in pairwise(values):
        assert earlier <= later * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(pages=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=10))
def test_a_curve_lies_below_no_sample_of_a_length_of_its_own(pages: list[int]) -> None:
    samples = [(2.0**n, nr) for n, nr in enumerate(pages)]
    curve = WorkingSet.from_samples(samples)
    for seconds, nr in samples:
        assert curve.pages_within(seconds) >= nr * (1 - 1e-9)


# The simulation. 100 pages a second go out, 50 are dirtied.


def test_each_iteration_sends_what_was_dirtied_in_the_one_before() -> None:
    policy = Scripted([GO, GO, STOP])
    found = estimate(FIFTY, 1000, PAGE, 100 * PAGE, policy)
    assert [one.number for one in found.iterations] == [0, 1, 2]
    assert [one.nr_sent for one in found.iterations] == [1000, 500, 250]
    assert [one.sent_bytes for one in found.iterations] == [n * PAGE for n in (1000, 500, 250)]
    assert [one.duration_s for one in found.iterations] == [10.0, 5.0, 2.5]
    assert [one.nr_dirty for one in found.iterations] == [500, 250, 125]
    assert found.final is not None
    assert (found.final.number, found.final.nr_sent, found.final.share) == (3, 125, 0.0)
    assert found.downtime_s == 1.25
    assert found.total_s == 18.75
    assert found.sent_bytes == 1875 * PAGE
    assert list(found.rulings) == [GO, GO, STOP]


def test_the_policy_sees_what_it_would_see_in_earnest() -> None:
    policy = Scripted([GO, STOP])
    found = estimate(FIFTY, 1000, PAGE, 100 * PAGE, policy)
    assert [len(stats.iterations) for stats in policy.seen] == [1, 2]
    assert policy.seen[1].last == found.iterations[1]
    assert (policy.seen[0].p2m_size, policy.seen[0].page_size) == (1000, PAGE)


def test_a_guest_left_half_of_its_time_dirties_what_it_does_in_half_of_the_time() -> None:
    slowed = Ruling(Decision.CONTINUE, "slower", share=0.5)
    found = estimate(FIFTY, 1000, PAGE, 100 * PAGE, Scripted([slowed, STOP]))
    assert [one.share for one in found.iterations] == [1.0, 0.5]
    assert [one.nr_dirty for one in found.iterations] == [500, 125]


def test_no_more_than_all_is_dirty() -> None:
    found = estimate(FIFTY, 1000, PAGE, PAGE, Scripted([STOP]))
    assert found.iterations[0].nr_dirty == 1000


def test_a_policy_that_gives_up_leaves_no_downtime() -> None:
    found = estimate(FIFTY, 1000, PAGE, 100 * PAGE, Scripted([GO, ABORT]), pause_s=1.0)
    assert found.aborted and found.final is None and found.downtime_s is None
    assert found.total_s == 15.0
    assert str(found) == "simulated: 2 iterations, 15.0 s in all, then given up"


def test_what_a_pause_costs_beside_memory_is_added() -> None:
    found = estimate(FIFTY, 1000, PAGE, 100 * PAGE, Scripted([STOP]), pause_s=0.02)
    assert found.downtime_s == pytest.approx(5.02)
    assert found.total_s == pytest.approx(15.02)


def test_an_estimate_says_that_it_is_simulated_and_how_far_it_goes_beyond_the_samples() -> None:
    curve = WorkingSet.from_samples([(1.0, 50), (6.0, 300)])
    found = estimate(curve, 1000, PAGE, 100 * PAGE, Scripted([GO, STOP]))
    assert found.simulated is True
    assert found.nr_beyond == 1
    assert str(found) == "simulated: 2 iterations, 17.5 s in all, downtime 2500.0 ms"


def test_a_policy_without_an_end_is_an_error() -> None:
    with pytest.raises(XsaveError, match="policy scripted does not end pre-copy within 1000"):
        estimate(FIFTY, 1000, PAGE, 100 * PAGE, Scripted([]))


@pytest.mark.parametrize(
    ("nr_pages", "page_size", "bytes_per_s", "pause_s"),
    [(0, PAGE, 1e6, 0.0), (1 << 53, PAGE, 1e6, 0.0), (1, 0, 1e6, 0.0), (1, PAGE, 0.0, 0.0),
     (1, PAGE, float("nan"), 0.0), (1, PAGE, float("inf"), 0.0), (1, PAGE, 1e6, -1.0),
     (1, PAGE, 1e6, float("nan"))],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(
    nr_pages: int, page_size: int, bytes_per_s: float, pause_s: float
) -> None:
    with pytest.raises(UsageError):
        estimate(FIFTY, nr_pages, page_size, bytes_per_s, Scripted([STOP]), pause_s=pause_s)


# Trace files.

TRACE = Trace(1000, ((0.5, 20), (1.0, 30)), about="a guest at rest")


def test_a_trace_comes_back_from_its_json_which_fits_the_schema() -> None:
    found = trace_as_json(TRACE)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert read_trace(json.dumps(found)) == TRACE
    assert read_trace(json.dumps(found).encode()) == TRACE
    assert TRACE.curve().points == ((0, 0), (0.5, 20), (1.0, 30))


def test_what_may_be_left_out_of_a_trace_has_its_default() -> None:
    found = read_trace(
        '{"schema": "xsave/trace/1", "nr_pages": 9, "samples": [{"duration_s": 1, "nr_dirty": 9}]}'
    )
    assert found == Trace(9, ((1.0, 9),), 4096, "")


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert read_trace(json.dumps({**trace_as_json(TRACE), "nr_pages": 1000.0})) == TRACE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "xsave/trace/2"}, "schema: expected 'xsave/trace/1', got 'xsave/trace/2'"),
        ({"nr_pages": 0}, "nr_pages: expected a whole number from 1 to 4503599627370496, got 0"),
        ({"nr_pages": True}, "nr_pages: expected a whole number .* got True"),
        ({"page_size": "4K"}, "page_size: expected a whole number .* got '4K'"),
        ({"about": 3}, "about: expected text, got 3"),
        ({"samples": []}, "samples: expected a list with something in it, got a list of 0"),
        ({"samples": [3]}, r"samples\[0\]: expected an object, got 3"),
        ({"samples": [{"duration_s": 1}]}, r"samples\[0\]: expected a member nr_dirty, got an obj"),
        ({"samples": [{"duration_s": 0, "nr_dirty": 1}]},
         r"samples\[0\]\.duration_s: expected seconds from 1e-06 to 1e\+09, got 0"),
        ({"samples": [{"duration_s": float("nan"), "nr_dirty": 1}]},
         r"samples\[0\]\.duration_s: .* got nan"),
        ({"samples": [{"duration_s": 1, "nr_dirty": 1001}]},
         r"samples\[0\]\.nr_dirty: expected a whole number from 0 to 1000, got 1001"),
        ({"more": 1}, "trace: expected no member but .*, got 'more'"),
    ],
)  # fmt: skip
def test_a_wrong_trace_says_which_member_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError, match=f"^{message}"):
        read_trace(json.dumps({**trace_as_json(TRACE), **change}))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", b"\xff\xfe\xfd", "[" * 100000, '{"a":' * 900, "1" * 5000]
)
def test_what_is_no_trace_at_all_is_refused(text: str | bytes) -> None:
    with pytest.raises(FieldError, match=r"^trace: expected"):
        read_trace(text)


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 2000),
        st.floats(allow_nan=False),
        st.text(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["duration_s", "nr_dirty", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)
samples_json = st.lists(
    st.fixed_dictionaries({"duration_s": st.floats(0, 2e9) | json_values,
                           "nr_dirty": st.integers(0, 1000) | json_values}), max_size=2
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    change=st.dictionaries(
        st.sampled_from(["schema", "nr_pages", "page_size", "about", "samples", "x"]),
        json_values | samples_json,
        max_size=2,
    ),
    gone=st.sets(
        st.sampled_from(["schema", "nr_pages", "page_size", "about", "samples"]), max_size=1
    ),
)
def test_what_is_read_is_what_the_schema_allows(change: dict[str, Any], gone: set[str]) -> None:
    found = {**trace_as_json(TRACE), **change}
    found = {name: value for name, value in found.items() if name not in gone}
    fits = jsonschema.Draft202012Validator(SCHEMA).is_valid(found)
    try:
        trace = read_trace(json.dumps(found))
    except FieldError as error:
        # the one thing that the schema cannot say
        assert not fits or f"whole number from 0 to {found['nr_pages']:.0f}" in error.expected
    else:
        assert fits
        estimate(trace.curve(), trace.nr_pages, trace.page_size, 1e6, Scripted([STOP]))
