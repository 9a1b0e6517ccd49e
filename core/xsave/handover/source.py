"""The source's table: what it does with its guest, whatever happens.

The rule: it resumes its guest only if the destination provably did not start it and never
will. That is so before it said *yours*, and when the destination says that it gave up.
"""

from __future__ import annotations

import enum
from typing import Final

from .table import Step, Table


class State(enum.Enum):
    """As the journal has them, but OFFERED, STOPPED and UNTOUCHED, which it never has."""

    OFFERED = "offered"  # both ends look at each other; the guest is not touched
    UNTOUCHED = "untouched"  # it came to nothing
    SENDING = "sending"  # the guest runs, its memory goes out
    STOPPED = "stopped"  # it is paused, the rest goes out
    GIVEN = "given"  # *yours* was said, or is about to be: ask, do not act
    KEPT = "kept"  # it runs here
    GONE = "gone"  # it runs there, and is no more here


class Event(enum.Enum):
    AGREED = "agreed"  # the destination takes it
    REFUSED = "refused"
    LAST_PASS = "last pass"  # the guest is to stand still
    COMPLETE = "complete"  # the destination has everything, verified
    RUNS = "runs"  # it runs there
    ABANDONED = "abandoned"  # it never ran there, and never will
    UNDECIDED = "undecided"  # the destination cannot say now
    UNKNOWN = "unknown"  # the destination knows of no such migration
    LOST = "lost"  # the link, for good
    FAILED = "failed"  # something here, or nonsense from there
    UNWRITTEN = "unwritten"  # the journal could not be written, or perhaps was
    RESTARTED = "restarted"  # from the journal, after the process had ended
    HERE = "here"  # a human knows that it is to run here
    THERE = "there"  # a human knows that it runs there


class Act(enum.Enum):
    JOURNAL = "journal"  # the new state, durably
    SAY_BEGIN = "say begin"
    PAUSE = "pause"
    SAY_YOURS = "say yours"
    ASK = "ask"  # what became of it, over a new link
    RESUME = "resume"
    DESTROY = "destroy"
    SAY_ABANDON = "say abandon"
    SAY_BYE = "say bye"


_UNTOUCHED: Final = Step[State, Event, Act](State.UNTOUCHED)
_KEEP: Final = Step[State, Event, Act](State.KEPT, (Act.RESUME, Act.JOURNAL))
_KEEP_AND_SAY: Final = Step[State, Event, Act](
    State.KEPT, (Act.SAY_ABANDON, Act.RESUME, Act.JOURNAL)
)
_GO: Final = Step[State, Event, Act](State.GONE, (Act.DESTROY, Act.JOURNAL, Act.SAY_BYE))
_ASK: Final = Step[State, Event, Act](State.GIVEN, (Act.ASK,))

# Whatever ends it before *yours* was said; the guest may run or stand still.
_BEFORE: Final = {
    Event.ABANDONED: _KEEP,
    Event.LOST: _KEEP,
    Event.FAILED: _KEEP_AND_SAY,
}


def _stays(state: State, *events: Event) -> dict[Event, Step[State, Event, Act]]:
    return {event: Step(state) for event in events}


TABLE: Final = Table[State, Event, Act](
    State.OFFERED,
    Event.FAILED,
    {
        State.OFFERED: {
            Event.AGREED: Step(State.SENDING, (Act.JOURNAL, Act.SAY_BEGIN)),
            Event.REFUSED: _UNTOUCHED,
            Event.ABANDONED: _UNTOUCHED,
            Event.LOST: _UNTOUCHED,
            Event.FAILED: _UNTOUCHED,
        },
        State.UNTOUCHED: _stays(
            State.UNTOUCHED, Event.AGREED, Event.REFUSED, Event.ABANDONED, Event.LOST,
            Event.FAILED,
        ),
        State.SENDING: {
            **_BEFORE,
            Event.RESTARTED: _KEEP,
            Event.HERE: _KEEP,
            **_stays(State.SENDING, Event.AGREED),
            Event.UNWRITTEN: _UNTOUCHED,
            Event.LAST_PASS: Step(State.STOPPED, (Act.PAUSE,)),
        },
        State.STOPPED: {
            **_BEFORE,
            **_stays(State.STOPPED, Event.AGREED),
            Event.COMPLETE: Step(State.GIVEN, (Act.JOURNAL, Act.SAY_YOURS)),
        },
        State.GIVEN: {
            Event.RUNS: _GO,
            Event.ABANDONED: _KEEP,
            Event.UNDECIDED: _ASK,
            Event.UNKNOWN: _ASK,
            Event.LOST: _ASK,
            Event.FAILED: _ASK,
            Event.RESTARTED: _ASK,
            Event.UNWRITTEN: _KEEP_AND_SAY,
            Event.HERE: _KEEP,
            Event.THERE: _GO,
            **_stays(State.GIVEN, Event.AGREED, Event.COMPLETE),
        },
        State.KEPT: _stays(
            State.KEPT, Event.AGREED, Event.COMPLETE, Event.ABANDONED, Event.UNDECIDED,
            Event.UNKNOWN, Event.LOST, Event.FAILED, Event.UNWRITTEN, Event.RESTARTED,
        ),
        State.GONE: _stays(
            State.GONE, Event.AGREED, Event.COMPLETE, Event.RUNS, Event.UNDECIDED,
            Event.UNKNOWN, Event.LOST, Event.FAILED, Event.UNWRITTEN, Event.RESTARTED,
        ),
    },
    {Act.JOURNAL: Event.UNWRITTEN, Act.PAUSE: Event.FAILED},
)  # fmt: skip

# Who may let the guest run. Only in GIVEN the source does not know.
OWNER: Final = {
    State.OFFERED: "source",
    State.UNTOUCHED: "source",
    State.SENDING: "source",
    State.STOPPED: "source",
    State.GIVEN: "the destination, once it knows; the source asks",
    State.KEPT: "source",
    State.GONE: "destination",
}
OPEN: Final = frozenset({State.SENDING, State.GIVEN})
