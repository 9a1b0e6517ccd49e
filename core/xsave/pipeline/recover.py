"""Migrations that a process left open: what the journal says is finished, or found out.

The tables are those of both ends; a guest is found again by what its backend calls it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import evolve

from ..errors import EXIT_FAILED, TryAgainError, UsageError, XsaveError
from ..handover import destination, source
from ..handover.table import Conduct
from ..io.journal import Entry, HeldEntry, Journal
from ..manager import PluginManager
from .save import put_back
from .talk import Talk

if TYPE_CHECKING:
    from ..domain import Domain
    from ..link.options import LinkOptions

OPEN = {
    "source": frozenset(state.value for state in source.OPEN),
    "destination": frozenset(state.value for state in destination.OPEN),
}


def is_open(entry: Entry) -> bool:
    return entry.state in OPEN[entry.role]


def open_entries(journal: Journal) -> list[Entry]:
    """Those that need somebody."""
    return [entry for entry in journal.entries() if is_open(entry)]


class Human(enum.Enum):
    """What somebody who knows may say: where the guest is to run."""

    HERE = "here"
    THERE = "there"


def restarted(journal: Journal, manager: PluginManager, role: str) -> list[Entry]:
    """Finish all open entries of this role that can be finished without asking.

    :returns: those that were looked at, as they are now; their remarks say what is left.
    """
    found = []
    for entry in open_entries(journal):
        if entry.role != role:
            continue
        try:
            held = journal.hold(entry.id, role)
        except TryAgainError:  # somebody does it now
            continue
        with held:
            if held.entry is not None and is_open(held.entry):
                found.append(restart(held, manager))
    journal.prune(OPEN)
    return found


def restart(held: HeldEntry, manager: PluginManager) -> Entry:
    """One entry after its process has ended. What cannot be done is remarked, not raised.

    :returns: it as it is now.
    """
    assert held.entry is not None
    entry = held.entry
    try:
        if entry.role == "destination":
            destination_conduct(held, manager, None).tell(destination.Event.RESTARTED)
        else:
            _source_conduct(held, manager, None).tell(source.Event.RESTARTED)
    except XsaveError as error:
        return evolve(held.entry or entry, remark=str(error))
    return held.entry or entry


def told_by_human(held: HeldEntry, manager: PluginManager, human: Human) -> Entry:
    """Somebody knows where the guest is to run, and says so at this end.

    :raises UsageError: that cannot be so, as far as this end knows.
    :raises XsaveError: it could not be done.
    """
    assert held.entry is not None
    entry = held.entry
    held.remark = f"somebody said: {human.value}"
    table: Any
    event: Any
    if entry.role == "destination":
        state: Any = destination.State(entry.state)
        table, event = destination.TABLE, destination.Event(human.value)
        conduct: Any = destination_conduct(held, manager, None)
    else:
        state = source.State(entry.state)
        table, event = source.TABLE, source.Event(human.value)
        conduct = _source_conduct(held, manager, None, by_human=True)
    if not is_open(entry) or table.find(state, event) is None:
        raise UsageError(
            f"migration {entry.id} is {entry.state} at the {entry.role}: --{human.value} makes "
            "no sense there"
        )
    conduct.tell(event)
    return held.entry


def resolve(
    held: HeldEntry, manager: PluginManager, address: str, answer_s: float,
    options: LinkOptions | None = None,
) -> Entry:  # fmt: skip
    """One open entry: finish it, if need be after asking the other end.

    :param address: of the other end, of a source.
    :raises XsaveError: it stays open; the message says why.
    """
    entry = restart(held, manager)
    if not is_open(entry) or entry.role != "source":
        if is_open(entry) and entry.remark:
            raise XsaveError(entry.remark)
        return entry
    if entry.state != source.State.GIVEN.value:
        raise XsaveError(entry.remark)
    if not address:
        raise XsaveError("it is not known how the other end is reached: say so with --at")
    from .migrate import ask, connector

    link = connector(address, manager, options)()
    try:
        talk = Talk(link, answer_s)
        if entry.identity and link.identity != entry.identity:
            raise XsaveError(f"{link.peer} is another end than {entry.peer} was")
        event = ask(talk, entry.id)
        if event in (source.Event.UNKNOWN, source.Event.UNDECIDED):
            raise XsaveError(f"{link.peer} says: {event.value}")
        return told_by_other_end(held, manager, talk, event)
    finally:
        link.close()


def what_now(entry: Entry) -> str:
    """What somebody can do about an open one."""
    if entry.role == "destination":
        return (
            "start xsave receive with this journal again, or xsave resolve finishes it; "
            "--here starts a guest that is whole, if the source is gone for good"
        )
    if entry.state == source.State.GIVEN.value:
        return (
            "the guest is paused here; start xsave receive there with its journal and resolve "
            "again, or say --here or --there if you know where it runs"
        )
    return "the guest runs on here when it is resolved"


def told_by_other_end(
    held: HeldEntry, manager: PluginManager, talk: Talk | None, event: source.Event
) -> Entry:
    """The other end has answered the source. :raises XsaveError: an act failed."""
    assert held.entry is not None
    _source_conduct(held, manager, talk).tell(event)
    return held.entry


def _source_conduct(
    held: HeldEntry, manager: PluginManager, talk: Talk | None, *, by_human: bool = False
) -> Conduct[source.State, source.Event, source.Act]:
    assert held.entry is not None
    entry, act = held.entry, source.Act
    conduct: Conduct[source.State, source.Event, source.Act]

    def say(kind: str) -> Callable[[], None]:
        return lambda: None if talk is None else talk.try_to_say(kind)

    def resume() -> None:
        domain = find_guest(entry, manager)
        if domain is None:
            if by_human and not entry.locator:
                return  # whoever knows has it
            raise XsaveError(f"guest {entry.guest} is not there any more")
        with_domain(domain, lambda: put_back(domain, manager, manager.handler_table()))

    def destroy() -> None:
        domain = find_guest(entry, manager)
        if domain is not None:
            with_domain(domain, domain.destroy)

    conduct = Conduct(source.TABLE, source.State(entry.state), {
        act.JOURNAL: lambda: held.change(conduct.state.value),
        act.RESUME: resume,
        act.DESTROY: destroy,
        act.ASK: lambda: None,  # whoever told it does that
        act.SAY_BYE: say("bye"),
        act.SAY_ABANDON: lambda: None,
        act.SAY_YOURS: lambda: None,
        act.SAY_BEGIN: lambda: None,
        act.PAUSE: lambda: None,
    })  # fmt: skip
    return conduct


def destination_conduct(
    held: HeldEntry, manager: PluginManager, talk: Talk | None
) -> Conduct[destination.State, destination.Event, destination.Act]:
    """For a guest whose process has ended.

    :param talk: with whoever asked, None if nobody did.
    """
    assert held.entry is not None
    entry, act = held.entry, destination.Act
    conduct: Conduct[destination.State, destination.Event, destination.Act]

    def say(kind: str, **fields: Any) -> Callable[[], None]:
        return lambda: None if talk is None else talk.try_to_say(kind, **fields)

    def start() -> None:
        domain = find_guest(entry, manager)
        if domain is None:
            raise XsaveError(f"guest {entry.guest} was to start, and is not there any more")
        with_domain(domain, domain.resume)

    def destroy() -> None:
        domain = find_guest(entry, manager)
        if domain is not None:
            with_domain(domain, domain.destroy)

    conduct = Conduct(destination.TABLE, destination.State(entry.state), {
        act.JOURNAL: lambda: held.change(conduct.state.value),
        act.CREATE: lambda: None,
        act.SAY_COMPLETE: lambda: None,
        act.START: start,
        act.START_AGAIN: start,
        act.SAY_RUNS: say("runs"),
        act.DESTROY: destroy,
        act.SAY_ABANDONED: say("abandoned", reason="it was given up here", code=EXIT_FAILED),
        act.SAY_UNDECIDED: say("undecided"),
        act.SAY_UNKNOWN: say("unknown"),
    })  # fmt: skip
    return conduct


def find_guest(entry: Entry, manager: PluginManager) -> Domain | None:
    """This very one, None if it is no more.

    :raises XsaveError: its backend cannot find it, or cannot say.
    """
    if not entry.locator:
        return None
    backend = manager.backends.find(entry.backend)
    return backend.find(entry.locator)


def with_domain(domain: Domain, act: Callable[[], None]) -> None:
    try:
        act()
    finally:
        domain.close()
