"""The model of both ends: what holds in every state that can be reached, and that the walk
notices when a table is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from attrs import evolve

from xsave.handover import destination, source
from xsave.handover.__main__ import main
from xsave.handover.model import Walk, walk
from xsave.handover.table import Step, Table

S, D = source, destination


@pytest.fixture(scope="module", params=[False, True], ids=["faults", "calamities"])
def walked(request: pytest.FixtureRequest) -> Walk:
    return walk(calamities=request.param)


def test_the_guest_is_never_twice_never_lost_and_always_recoverable(walked: Walk) -> None:
    assert walked.violation is None


def test_everything_that_can_fail_fails_in_it(walked: Walk) -> None:
    for kind in (
        "a message is lost", "a message arrives, and stays to arrive again",
        "a message arrives, now or later than others", "an end is killed",
        "an end starts again", "an end finds the link cut", "an end fails or hears nonsense",
        "an act or the journal fails",
    ):  # fmt: skip
        assert walked.nr_moves[kind] > 1000, kind
    assert walked.nr_moves["nobody knows whether an act was done"] > 10
    assert walked.nr_states > 5000


def test_every_step_of_both_tables_is_taken() -> None:
    """A step that nothing leads to would be untried: those are a human's and a broken
    journal's, which the second walk has."""
    taken: set[tuple[Any, Any]] = set()

    class Watched(dict[Any, Any]):
        def __init__(self, state: Any, row: Mapping[Any, Any]) -> None:
            super().__init__(row)
            self._state = state

        def get(self, event: Any, default: Any = None) -> Any:
            taken.add((self._state, event))
            return super().get(event, default)

    def watched(table: Table[Any, Any, Any]) -> Table[Any, Any, Any]:
        steps = {state: Watched(state, row) for state, row in table.steps.items()}
        return evolve(table, steps=steps)

    walk(watched(S.TABLE), watched(D.TABLE), calamities=True)
    steps = {
        (state, event)
        for table in (S.TABLE, D.TABLE)
        for state, row in table.steps.items()  # type: ignore[attr-defined]
        for event in row
    }
    assert steps - taken == set()


def changed(table: Table[Any, Any, Any], state: Any, **steps: Step[Any, Any, Any]) -> Any:
    """That table with other steps in one state, by names of events."""
    row = dict(table.steps[state])
    events = type(next(iter(row)))
    row.update({events[name]: step for name, step in steps.items()})
    return evolve(table, steps={**table.steps, state: row})


def without(table: Table[Any, Any, Any], state: Any, event: Any, act: Any) -> Any:
    step = table.steps[state][event]
    acts = tuple(one for one in step.acts if one is not act)
    assert acts != step.acts
    return changed(table, state, **{event.name: Step(step.to, acts, step.then)})


def turned(table: Table[Any, Any, Any], state: Any, event: Any) -> Any:
    """That step with its acts in the other order."""
    step = table.steps[state][event]
    return changed(table, state, **{event.name: Step(step.to, step.acts[::-1], step.then)})


KEEP: Step[Any, Any, Any] = Step(S.State.KEPT, (S.Act.RESUME, S.Act.JOURNAL))
MUTATIONS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "the source resumes when the link is lost after it gave the guest away": lambda: (
        changed(S.TABLE, S.State.GIVEN, LOST=KEEP), D.TABLE,
    ),
    "the source resumes when it is started again after it gave the guest away": lambda: (
        changed(S.TABLE, S.State.GIVEN, RESTARTED=KEEP), D.TABLE,
    ),
    "the source takes an unknown migration for one that never began": lambda: (
        changed(S.TABLE, S.State.GIVEN, UNKNOWN=KEEP), D.TABLE,
    ),
    "the source says yours without a journal": lambda: (
        without(S.TABLE, S.State.STOPPED, S.Event.COMPLETE, S.Act.JOURNAL), D.TABLE,
    ),
    "the source says yours before its journal": lambda: (
        turned(S.TABLE, S.State.STOPPED, S.Event.COMPLETE), D.TABLE,
    ),
    "the source destroys its guest when it gives it away": lambda: (
        changed(S.TABLE, S.State.STOPPED, COMPLETE=Step(
            S.State.GIVEN, (S.Act.JOURNAL, S.Act.SAY_YOURS, S.Act.DESTROY))), D.TABLE,
    ),
    "the source keeps what runs there": lambda: (
        without(S.TABLE, S.State.GIVEN, S.Event.RUNS, S.Act.DESTROY), D.TABLE,
    ),
    "the source does not resume what was given up": lambda: (
        without(S.TABLE, S.State.GIVEN, S.Event.ABANDONED, S.Act.RESUME), D.TABLE,
    ),
    "the source never gives the guest away": lambda: (
        changed(S.TABLE, S.State.STOPPED, COMPLETE=Step(S.State.STOPPED)), D.TABLE,
    ),
    "the destination starts without being told": lambda: (
        S.TABLE, changed(D.TABLE, D.State.READY, LOST=Step(
            D.State.OWNED, (D.Act.JOURNAL, D.Act.START), D.Event.STARTED)),
    ),
    "the destination starts when it is started again": lambda: (
        S.TABLE, changed(D.TABLE, D.State.READY, RESTARTED=Step(
            D.State.OWNED, (D.Act.JOURNAL, D.Act.START), D.Event.STARTED)),
    ),
    "the destination starts without a journal": lambda: (
        S.TABLE, without(D.TABLE, D.State.READY, D.Event.YOURS, D.Act.JOURNAL),
    ),
    "the destination starts before its journal": lambda: (
        S.TABLE, turned(D.TABLE, D.State.READY, D.Event.YOURS),
    ),
    "the destination forgets that the guest was given to it": lambda: (
        S.TABLE, changed(D.TABLE, D.State.OWNED, RESTARTED=Step(
            D.State.ABANDONED, (D.Act.JOURNAL, D.Act.DESTROY), D.Event.WENT)),
    ),
    "the destination says runs before it does": lambda: (
        S.TABLE, changed(D.TABLE, D.State.OWNED, ASKED=Step(D.State.OWNED, (D.Act.SAY_RUNS,))),
    ),
    "the destination says abandoned and does not mean it": lambda: (
        S.TABLE, changed(D.TABLE, D.State.READY, ASKED=Step(
            D.State.READY, (D.Act.SAY_ABANDONED,))),
    ),
    "the destination says abandoned though its journal may say otherwise": lambda: (
        S.TABLE, changed(D.TABLE, D.State.ABANDONED, UNWRITTEN=Step(
            D.State.ABANDONED, (D.Act.SAY_ABANDONED, D.Act.DESTROY))),
    ),
    "the destination gives up what it may have started": lambda: (
        S.TABLE, evolve(D.TABLE, doubts={D.Act.START: D.Event.NOT_STARTED}),
    ),
    "the destination leaves what it gave up": lambda: (
        S.TABLE, without(D.TABLE, D.State.ABANDONED, D.Event.RESTARTED, D.Act.DESTROY),
    ),
    "the destination says complete of what is not whole": lambda: (
        S.TABLE, changed(D.TABLE, D.State.OFFERED, BEGIN=Step(
            D.State.READY, (D.Act.JOURNAL, D.Act.CREATE, D.Act.SAY_COMPLETE))),
    ),
    "nobody can start a guest whose source has burnt": lambda: (
        S.TABLE, changed(D.TABLE, D.State.READY, HERE=Step(D.State.READY)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_table_is_found_out(name: str) -> None:
    tables = MUTATIONS[name]()
    found = walk(*tables).violation or walk(*tables, calamities=True).violation
    assert found is not None


def test_what_is_wrong_is_told_as_a_way_from_the_start() -> None:
    found = walk(changed(S.TABLE, S.State.GIVEN, LOST=KEEP), D.TABLE).violation
    assert found is not None
    lines = str(found).splitlines()
    assert lines[0] in {
        "two guests run",
        "the guest runs at the source, and it ran at the destination",
    }
    assert lines[1].startswith("  start: source offered")
    assert any("source: lost" in line for line in lines)


def test_the_command_prints_what_was_walked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    text = capsys.readouterr().out
    assert text.count(" states, ") == 2
    assert "WRONG" not in text
