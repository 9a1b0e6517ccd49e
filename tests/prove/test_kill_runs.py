"""Never lost, never twice: a small number of the runs of ``python -m tests.prove``; and that
the runs would see it if it were otherwise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from .__main__ import Series
from .kill_run import spans_of
from .plans import STORIES, WEIGHTS, Scale, draw

NR_RUNS = 24
SEED = 11
SCALE = Scale(there=5 << 20, back=3000, seconds=1.0)


def test_whatever_is_killed_there_is_one_guest_and_never_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = Series(tmp_path, SEED)
    assert series.go(range(NR_RUNS), jobs=3) == []
    assert len(series.outcomes) == NR_RUNS
    assert sum(any(outcome.killed) for outcome in series.outcomes) > NR_RUNS // 3
    assert {outcome.place for outcome in series.outcomes} == {"source", "destination"}
    said = capsys.readouterr().out
    assert f"kill runs: {NR_RUNS} migrations" in said
    assert "never two" in said


def test_a_seed_gives_the_same_plans_again_and_another_one_others() -> None:
    first, again, other = (
        [str(draw(seed, number, SCALE)) for number in range(50)] for seed in (1, 1, 2)
    )
    assert first == again
    assert not set(first) & set(other)


def test_all_that_can_go_wrong_is_drawn() -> None:
    plans = [draw(1, number, SCALE) for number in range(300)]
    assert {plan.story for plan in plans} == set(STORIES) == set(WEIGHTS)
    assert {plan.transport for plan in plans} == {"tcp", "tls"}
    ends = Counter(
        doomed.state for plan in plans for doomed in (plan.source, plan.dest) if doomed is not None
    )
    for state in ("sending", "given", "gone", "receiving", "ready", "owned", "running"):
        assert ends[state] >= 5, state


def test_from_a_history_it_is_seen_when_a_guest_ran() -> None:
    history = [
        (10, "one", "web", "runs"),
        (20, "one", "web", "stands"),
        (21, "one", "web", "ended"),
        (15, "two", "web", "runs"),
    ]
    assert sorted(spans_of(history)) == [(10, 20, "one"), (15, 1 << 63, "two")]
