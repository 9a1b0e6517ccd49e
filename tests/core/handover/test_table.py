"""How a table is followed: states before acts, failures answered, nonsense refused."""

from __future__ import annotations

import enum
from collections.abc import Callable

import pytest
from attrs import evolve

from xsave import TryAgainError, XsaveError
from xsave.handover import destination, source
from xsave.handover.table import Conduct, NonsenseError, Step, Table


class State(enum.Enum):
    DOWN = "down"
    UP = "up"
    BROKEN = "broken"


class Event(enum.Enum):
    PUSH = "push"
    DONE = "done"
    FAILED = "failed"


class Act(enum.Enum):
    LIFT = "lift"
    SHINE = "shine"


TABLE: Table[State, Event, Act] = Table(
    State.DOWN,
    Event.FAILED,
    {
        State.DOWN: {
            Event.PUSH: Step(State.UP, (Act.LIFT, Act.SHINE), Event.DONE),
        },
        State.UP: {
            Event.DONE: Step(State.UP),
            Event.FAILED: Step(State.BROKEN),
        },
        State.BROKEN: {},
    },
    {Act.LIFT: Event.FAILED},
)


def conduct(
    lift: Callable[[], None] = lambda: None, shine: Callable[[], None] = lambda: None
) -> Conduct[State, Event, Act]:
    return Conduct(TABLE, State.DOWN, {Act.LIFT: lift, Act.SHINE: shine})


def refuse() -> None:
    raise XsaveError("no")


def test_acts_are_done_in_order_in_the_new_state() -> None:
    told: list[object] = []
    it = conduct(lambda: told.append(it.state), lambda: told.append("shine"))
    it.tell(Event.PUSH)
    assert told == [State.UP, "shine"]
    assert it.state is State.UP


def test_a_failure_that_the_table_knows_is_answered_and_the_rest_left_undone() -> None:
    shone: list[int] = []
    it = conduct(refuse, lambda: shone.append(1))
    it.tell(Event.PUSH)
    assert it.state is State.BROKEN
    assert not shone


def test_what_may_have_been_done_is_no_failure() -> None:
    def cannot_say() -> None:
        raise TryAgainError("nobody answers")

    acts = {Act.LIFT: cannot_say, Act.SHINE: lambda: None}
    failed = Conduct(TABLE, State.DOWN, acts)
    failed.tell(Event.PUSH)
    assert failed.state is State.BROKEN  # where nothing else is said of it
    doubted = Conduct(evolve(TABLE, doubts={Act.LIFT: Event.DONE}), State.DOWN, acts)
    doubted.tell(Event.PUSH)
    assert doubted.state is State.UP


def test_a_failure_without_an_answer_is_raised() -> None:
    it = conduct(shine=refuse)
    with pytest.raises(XsaveError, match="no"):
        it.tell(Event.PUSH)
    assert it.state is State.UP


def test_an_event_without_a_step_is_nonsense_and_changes_nothing() -> None:
    it = conduct()
    with pytest.raises(NonsenseError, match="'failed' makes no sense in 'down'"):
        it.tell(Event.FAILED)
    assert it.state is State.DOWN


@pytest.mark.parametrize("end", [source, destination])
def test_the_tables_are_whole(end: object) -> None:
    """Every state has a row, every act and event has a use, and every state an owner."""
    states = list(end.State)  # type: ignore[attr-defined]
    table = end.TABLE  # type: ignore[attr-defined]
    steps = [step for row in table.steps.values() for step in row.values()]
    assert set(table.steps) == set(states) == set(end.OWNER)  # type: ignore[attr-defined]
    assert {act for step in steps for act in step.acts} == set(end.Act)  # type: ignore[attr-defined]
    used = {event for row in table.steps.values() for event in row}
    assert used == set(end.Event)  # type: ignore[attr-defined]
    assert {step.then for step in steps} - {None} <= used
    assert set(table.failures.values()) <= used
    assert set(states) > end.OPEN  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", [source, destination])
def test_what_may_not_be_undone_is_journaled_first(end: object) -> None:
    for row in end.TABLE.steps.values():  # type: ignore[attr-defined]
        for step in row.values():
            names = [act.value for act in step.acts]
            for act in ("say yours", "start", "say abandoned", "create"):
                if act in names and step.to.value in {"given", "owned", "receiving"}:
                    assert names.index("journal") < names.index(act), step
