"""The destination's table: what it does with the guest it builds, whatever happens.

The rule: it starts the guest only when it has everything, verified, and was told *yours*; and
once it gave up it never starts it.
"""

from __future__ import annotations

import enum
from typing import Final

from .table import Step, Table


class State(enum.Enum):
    """As the journal has them, but NOTHING, OFFERED, DECLINED and UNSURE, which it never has."""

    NOTHING = "nothing"  # no such migration is known here
    OFFERED = "offered"  # both ends look at each other
    DECLINED = "declined"  # it came to nothing
    RECEIVING = "receiving"  # a guest is being built, paused
    READY = "ready"  # everything is there, verified; it never ran
    OWNED = "owned"  # *yours* was heard: it starts
    RUNNING = "running"
    CLOSED = "closed"  # it runs, and the source knows it
    ABANDONED = "abandoned"  # it never ran and never will; what was built goes
    CLEARED = "cleared"  # that has gone
    UNSURE = "unsure"  # it never ran, but the journal may say that it is to


class Event(enum.Enum):
    BEGIN = "begin"  # the source begins
    WHOLE = "whole"  # the stream has ended, was verified and applied
    YOURS = "yours"  # the source gives it away
    ABANDON = "abandon"  # the source gives up
    ASKED = "asked"  # what became of it, perhaps over a new link
    BYE = "bye"  # the source knows that it runs here
    LOST = "lost"  # the link, for good
    FAILED = "failed"  # something here, or nonsense from there
    NOT_STARTED = "not started"  # the host refused, and it has never run
    STARTED = "started"
    MISSING = "missing"  # it was about to start, or had, and is not to be found, or not heard of
    WENT = "went"  # what was built is no more
    UNWRITTEN = "unwritten"  # the journal could not be written, or perhaps was
    RESTARTED = "restarted"  # from the journal, after the process had ended
    HERE = "here"  # a human knows that it is to run here
    THERE = "there"  # a human knows that it runs there


class Act(enum.Enum):
    JOURNAL = "journal"  # the new state, durably
    CREATE = "create"
    SAY_COMPLETE = "say complete"
    START = "start"
    START_AGAIN = "start again"  # harmless if it runs
    SAY_RUNS = "say runs"
    DESTROY = "destroy"
    SAY_ABANDONED = "say abandoned"
    SAY_UNDECIDED = "say undecided"
    SAY_UNKNOWN = "say unknown"


_OWN: Final = Step[State, Event, Act](State.OWNED, (Act.JOURNAL, Act.START), Event.STARTED)
_OWN_AGAIN: Final = Step[State, Event, Act](State.OWNED, (Act.START_AGAIN,), Event.STARTED)
_ABANDON: Final = Step[State, Event, Act](State.ABANDONED, (Act.JOURNAL, Act.DESTROY), Event.WENT)
_ABANDON_AND_SAY: Final = Step[State, Event, Act](
    State.ABANDONED, (Act.JOURNAL, Act.SAY_ABANDONED, Act.DESTROY), Event.WENT
)
# Nothing is told to anyone before the journal can be written, or was read anew.
_UNSURE: Final = Step[State, Event, Act](State.UNSURE)

_BEFORE: Final = {
    Event.ABANDON: _ABANDON,
    Event.LOST: _ABANDON,
    Event.RESTARTED: _ABANDON,
    Event.THERE: _ABANDON,
    Event.FAILED: _ABANDON_AND_SAY,
}


def _stays(state: State, *events: Event) -> dict[Event, Step[State, Event, Act]]:
    return {event: Step(state) for event in events}


def _says(state: State, act: Act, *events: Event) -> dict[Event, Step[State, Event, Act]]:
    return {event: Step(state, (act,)) for event in events}


TABLE: Final = Table[State, Event, Act](
    State.OFFERED,
    Event.FAILED,
    {
        State.NOTHING: _says(State.NOTHING, Act.SAY_UNKNOWN, Event.ASKED),
        State.OFFERED: {
            Event.BEGIN: Step(State.RECEIVING, (Act.JOURNAL, Act.CREATE)),
            **{
                event: Step[State, Event, Act](State.DECLINED)
                for event in (Event.ABANDON, Event.LOST, Event.FAILED)
            },
        },
        State.DECLINED: _stays(State.DECLINED, Event.ABANDON, Event.LOST, Event.FAILED),
        State.RECEIVING: {
            **_BEFORE,
            **_stays(State.RECEIVING, Event.BEGIN),
            Event.UNWRITTEN: Step(State.DECLINED, (Act.SAY_ABANDONED,)),
            Event.WHOLE: Step(State.READY, (Act.JOURNAL, Act.SAY_COMPLETE)),
        },
        State.READY: {
            **_BEFORE,
            **_stays(State.READY, Event.BEGIN),
            Event.UNWRITTEN: _UNSURE,
            Event.ASKED: _ABANDON_AND_SAY,
            Event.YOURS: _OWN,
            Event.HERE: _OWN,
        },
        State.OWNED: {
            **_stays(State.OWNED, Event.BEGIN, Event.YOURS, Event.ABANDON, Event.LOST,
                     Event.FAILED, Event.MISSING),
            Event.UNWRITTEN: _UNSURE,
            **_says(State.OWNED, Act.SAY_UNDECIDED, Event.ASKED),
            Event.STARTED: Step(State.RUNNING, (Act.SAY_RUNS, Act.JOURNAL)),
            Event.NOT_STARTED: _ABANDON_AND_SAY,
            Event.RESTARTED: _OWN_AGAIN,
            Event.HERE: _OWN_AGAIN,
            Event.THERE: _ABANDON,
        },
        State.RUNNING: {
            **_stays(State.RUNNING, Event.BEGIN, Event.ABANDON, Event.LOST, Event.FAILED,
                     Event.UNWRITTEN, Event.RESTARTED),
            **_says(State.RUNNING, Act.SAY_RUNS, Event.ASKED, Event.YOURS),
            Event.BYE: Step(State.CLOSED, (Act.JOURNAL,)),
        },
        State.CLOSED: {
            **_stays(State.CLOSED, Event.BEGIN, Event.ABANDON, Event.BYE, Event.LOST,
                     Event.FAILED, Event.UNWRITTEN, Event.RESTARTED),
            **_says(State.CLOSED, Act.SAY_RUNS, Event.ASKED, Event.YOURS),
        },
        State.ABANDONED: {
            **_stays(State.ABANDONED, Event.BEGIN, Event.ABANDON, Event.LOST, Event.FAILED),
            **_says(State.ABANDONED, Act.SAY_ABANDONED, Event.ASKED, Event.YOURS),
            Event.UNWRITTEN: _UNSURE,
            Event.RESTARTED: Step(State.ABANDONED, (Act.DESTROY,), Event.WENT),
            Event.WENT: Step(State.CLEARED, (Act.JOURNAL,)),
        },
        State.UNSURE: {
            **_stays(State.UNSURE, Event.BEGIN),
            Event.FAILED: _ABANDON_AND_SAY,
            Event.ABANDON: _ABANDON,
            Event.LOST: _ABANDON,
            Event.ASKED: _ABANDON_AND_SAY,
            Event.YOURS: _ABANDON_AND_SAY,
        },
        State.CLEARED: {
            **_stays(State.CLEARED, Event.BEGIN, Event.ABANDON, Event.LOST, Event.FAILED,
                     Event.UNWRITTEN, Event.RESTARTED),
            **_says(State.CLEARED, Act.SAY_ABANDONED, Event.ASKED, Event.YOURS),
        },
    },
    {
        Act.JOURNAL: Event.UNWRITTEN,
        Act.CREATE: Event.FAILED,
        Act.START: Event.NOT_STARTED,
        Act.START_AGAIN: Event.MISSING,
    },
    {Act.START: Event.MISSING},
)  # fmt: skip

OWNER: Final = {
    State.NOTHING: "source",
    State.OFFERED: "source",
    State.DECLINED: "source",
    State.RECEIVING: "source",
    State.READY: "source, until it says *yours*",
    State.OWNED: "destination",
    State.RUNNING: "destination",
    State.CLOSED: "destination",
    State.ABANDONED: "source",
    State.CLEARED: "source",
    State.UNSURE: "source, as soon as the journal says so",
}
OPEN: Final = frozenset({State.RECEIVING, State.READY, State.OWNED, State.ABANDONED})
