"""Every way in which a handover can go, walked: messages lost, delayed, doubled, cut; processes
killed and started again, or not; journals that cannot be written; hosts that vanish.

The world is two ends, each as its table says, and the messages on the way. A message that was
sent may arrive at any later time, any number of times, in any order, or never: that is worse
than any link. An end may be killed between any two acts. Nothing is bounded and nothing is
drawn: all states that can be reached are visited.

Shown of each state: the guest never runs twice, not even one after the other; it exists; and
from there, with no further fault, there is a way to one running guest and two ends that know it.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import field

from ..value_class import define, frozen
from . import destination, source
from .table import Step, Table

S, D = source, destination


class Guest(enum.Enum):
    NONE = "none"
    BUILT = "being built"
    WHOLE = "whole, never ran"
    PAUSED = "paused"
    RUNS = "runs"


# Messages, each a bit: what an end's acts put on the way, and what they are when they arrive.
TO_DEST: Final[Mapping[str, D.Event]] = {
    "begin": D.Event.BEGIN, "stream": D.Event.WHOLE, "yours": D.Event.YOURS,
    "abandon": D.Event.ABANDON, "ask": D.Event.ASKED, "bye": D.Event.BYE,
}  # fmt: skip
TO_SOURCE: Final[Mapping[str, S.Event]] = {
    "agreed": S.Event.AGREED, "refused": S.Event.REFUSED, "complete": S.Event.COMPLETE,
    "runs": S.Event.RUNS, "abandoned": S.Event.ABANDONED, "undecided": S.Event.UNDECIDED,
    "unknown": S.Event.UNKNOWN,
}  # fmt: skip
_SAYS: Final = {
    S.Act.SAY_BEGIN: "begin", S.Act.SAY_YOURS: "yours", S.Act.SAY_ABANDON: "abandon",
    S.Act.ASK: "ask", S.Act.SAY_BYE: "bye", D.Act.SAY_COMPLETE: "complete",
    D.Act.SAY_RUNS: "runs", D.Act.SAY_ABANDONED: "abandoned",
    D.Act.SAY_UNDECIDED: "undecided", D.Act.SAY_UNKNOWN: "unknown",
}  # fmt: skip
# What acts do to a guest, where they succeed.
_MAKES: Final = {
    S.Act.PAUSE: Guest.PAUSED, S.Act.RESUME: Guest.RUNS, S.Act.DESTROY: Guest.NONE,
    D.Act.CREATE: Guest.BUILT, D.Act.START: Guest.RUNS, D.Act.START_AGAIN: Guest.RUNS,
    D.Act.DESTROY: Guest.NONE,
}  # fmt: skip
_STARTS: Final = frozenset({D.Act.START, D.Act.START_AGAIN})


@frozen
class End:
    """One end as it is now.

    :ivar state: None when its process does not run.
    :ivar disk: what its journal says, None for nothing.
    :ivar todo: acts that are still to be done, and what is told after them.
    """

    state: Any
    disk: Any
    guest: Guest
    todo: tuple[Any, ...] = ()
    then: Any = None

    def __str__(self) -> str:
        process = "dead" if self.state is None else self.state.value
        disk = "-" if self.disk is None else self.disk.value
        doing = f", about to {self.todo[0].value}" if self.todo else ""
        return f"{process} (journal {disk}, guest {self.guest.value}{doing})"


@frozen
class Move:
    """:ivar fault: whether it is one: never needed on a way out.
    :ivar says: name of a message that goes on the way, "" for none.
    """

    label: str
    end: End
    says: str = ""
    fault: bool = False
    human: bool = False
    starts: bool = False


@frozen
class World:
    """:ivar to_dest, to_source: bits of the messages on the way.
    :ivar ran_there: the guest ran at the destination once.
    :ivar lost: what vanished for good: "", "journal" (the destination's), "destination" or
        "source" (a host with all that was on it).
    """

    source: End
    dest: End
    to_dest: int
    to_source: int
    ran_there: bool = False
    lost: str = ""

    def __str__(self) -> str:
        on_the_way = [
            *_names(self.to_dest, TO_DEST),
            *_names(self.to_source, TO_SOURCE),
        ]
        return (
            f"source {self.source}; destination {self.dest}; "
            f"on the way: {', '.join(on_the_way) or 'nothing'}"
        )


def _names(bits: int, messages: Mapping[str, Any]) -> list[str]:
    return [name for number, name in enumerate(messages) if bits >> number & 1]


def _bit(name: str, messages: Mapping[str, Any]) -> int:
    return 1 << list(messages).index(name) if name else 0


@define
class Rules:
    """How one end moves by itself: found once for each of its states.

    :ivar work: events that its own work may bring: state to events.
    """

    table: Table[Any, Any, Any]
    events: Any
    journal_act: Any
    journaled: frozenset[Any]
    open: frozenset[Any]
    work: dict[Any, tuple[Any, ...]]
    restarts_without_journal: Any = None
    _moves: dict[End, tuple[Move, ...]] = field(factory=dict)
    _bits: dict[Any, int] = field(factory=dict)

    def moves(self, end: End) -> tuple[Move, ...]:
        if (found := self._moves.get(end)) is None:
            found = self._moves[end] = tuple(self._find(end))
        return found

    def listens(self, end: End, messages: Mapping[str, Any]) -> int:
        """Bits of the messages that can have an effect in a state it may yet come to."""
        key = end.state, end.disk
        if (bits := self._bits.get(key)) is None:
            states = self._reachable(key)
            bits = self._bits[key] = sum(
                _bit(name, messages)
                for name, event in messages.items()
                if any(self._has_effect(state, event) for state in states)
            )
        return bits

    def _reachable(self, states: tuple[Any, ...]) -> set[Any]:
        seen: set[Any] = set()
        waiting = [self.restarts_without_journal, *states]
        while waiting:
            state = waiting.pop()
            if state is not None and state not in seen:
                seen.add(state)
                waiting += [step.to for step in self.table.steps[state].values()]
        return seen

    def _has_effect(self, state: Any, event: Any) -> bool:
        step = self.table.find(state, event) or self.table.find(state, self.table.nonsense)
        return step is not None and step != Step(state)

    def told(self, end: End, event: Any) -> End:
        """After an event; nonsense is told as a failure."""
        step = self.table.find(end.state, event) or self.table.find(end.state, self.table.nonsense)
        return end if step is None else self._step(end, step)

    def _step(self, end: End, step: Step[Any, Any, Any]) -> End:
        if not step.acts and step.then is not None:
            return self.told(End(step.to, end.disk, end.guest), step.then)
        return End(step.to, end.disk, end.guest, step.acts, step.then)

    def _find(self, end: End) -> Iterator[Move]:
        if end.state is None:
            yield from self._dead(end)
            return
        dead = End(None, end.disk, end.guest)
        if end.todo:
            yield from self._act(end)
            yield Move("is killed", dead, fault=True)
            return
        # Its process ends: by itself when there is nothing more to do, or by a signal.
        yield Move("ends", dead)
        for event in (self.events.LOST, self.events.FAILED):
            if self.table.find(end.state, event) is not None:
                yield Move(event.value, self.told(end, event), fault=event is self.events.FAILED)
        for event in self.work.get(end.state, ()):
            yield Move(event.value, self.told(end, event))

    def _dead(self, end: End) -> Iterator[Move]:
        if end.disk is None:
            if self.restarts_without_journal is not None:
                yield Move("starts", End(self.restarts_without_journal, None, end.guest))
            return
        awake = End(end.disk, end.disk, end.guest)
        yield Move("starts again", self.told(awake, self.events.RESTARTED))
        for event in (self.events.HERE, self.events.THERE):
            if self.table.find(end.disk, event) is not None:
                yield Move(event.value, self.told(awake, event), human=True)

    def _act(self, end: End) -> Iterator[Move]:
        act = end.todo[0]
        label = f"{act.value}"
        if act is self.journal_act:
            disk = end.state if end.state in self.journaled else end.disk
            written = End(end.state, disk, end.guest, end.todo, end.then)
            yield Move(label, self._done(written))
            # It could not be written, or cannot be known to have been.
            for left in (end, written):
                yield Move(f"{label} fails", self._failed(left, act), fault=True)
        elif act in _SAYS:
            yield Move(label, self._done(end), says=_SAYS[act])
        else:
            yield from self._act_on_guest(end, act)

    def _act_on_guest(self, end: End, act: Any) -> Iterator[Move]:
        made = _MAKES[act]
        if act in _STARTS and end.guest is Guest.NONE:
            yield Move(f"{act.value} fails", self._failed(end, act))
            return
        if act is S.Act.RESUME and end.guest is Guest.NONE:
            yield Move(f"{act.value} fails", self._failed(end, act))
            return
        after = End(end.state, end.disk, made, end.todo, end.then)
        yield Move(act.value, self._done(after), starts=act in _STARTS)
        yield Move(f"{act.value} fails", self._failed(end, act), fault=True)
        if (answer := self.table.doubts.get(act)) is not None:
            for left, starts in ((after, True), (end, False)):
                told = self.told(End(left.state, left.disk, left.guest), answer)
                yield Move(f"{act.value} in doubt", told, fault=True, starts=starts)

    def _done(self, end: End) -> End:
        rest = end.todo[1:]
        left = End(end.state, end.disk, end.guest, rest, end.then if rest else None)
        return left if rest or end.then is None else self.told(left, end.then)

    def _failed(self, end: End, act: Any) -> End:
        left = End(end.state, end.disk, end.guest)
        answer = self.table.failures.get(act)
        return left if answer is None else self.told(left, answer)


def _source_rules(table: Table[Any, Any, Any]) -> Rules:
    return Rules(
        table, S.Event, S.Act.JOURNAL,
        frozenset(S.State) - {S.State.OFFERED, S.State.STOPPED, S.State.UNTOUCHED},
        S.OPEN, {S.State.SENDING: (S.Event.LAST_PASS,)},
    )  # fmt: skip


def _dest_rules(table: Table[Any, Any, Any]) -> Rules:
    return Rules(
        table, D.Event, D.Act.JOURNAL,
        frozenset(D.State)
        - {D.State.NOTHING, D.State.OFFERED, D.State.DECLINED, D.State.UNSURE},
        D.OPEN, {}, D.State.NOTHING,
    )  # fmt: skip


@frozen
class Violation:
    """:ivar way: what happened, from the start; the last state is the wrong one."""

    what: str
    way: Sequence[str]

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {step}" for step in self.way)])


@frozen
class Walk:
    """What was walked.

    :ivar nr_moves: from all states, by kind.
    """

    nr_states: int
    nr_moves: Mapping[str, int]
    violation: Violation | None


def walk(
    source_table: Table[Any, Any, Any] = source.TABLE,
    dest_table: Table[Any, Any, Any] = destination.TABLE,
    *,
    calamities: bool = False,
) -> Walk:
    """Visit all states that can be reached.

    :param calamities: the destination's journal or a whole host may vanish, once; and humans
        who know decide. Without it no human is needed.
    """
    return _Walker(source_table, dest_table, calamities).run()


class _Walker:
    def __init__(
        self, source_table: Table[Any, Any, Any], dest_table: Table[Any, Any, Any],
        calamities: bool,
    ) -> None:  # fmt: skip
        self._source = _source_rules(source_table)
        self._dest = _dest_rules(dest_table)
        self._calamities = calamities
        self._numbers: dict[World, int] = {}
        self._worlds: list[World] = []
        self._from: list[tuple[int, str]] = []  # by which move each was first reached
        self._helpful: list[list[int]] = []  # for each state, those with a move into it
        self._smooth: list[tuple[int, int]] = []  # moves where nothing goes wrong at all

    def run(self) -> Walk:
        for answer in ("agreed", "refused", "abandoned"):
            self._number(_start(answer), -1, "")
        at, kinds = 0, Counter[str]()
        while at < len(self._worlds):
            world = self._worlds[at]
            if (wrong := _wrong(world)) is not None:
                return Walk(len(self._worlds), kinds, self._violation(wrong, at))
            for label, after, fault in self._moves(world):
                kinds[_kind(label)] += 1
                to = self._number(after, at, label)
                if not fault:
                    self._helpful[to].append(at)
                if _is_smooth(label, fault):
                    self._smooth.append((at, to))
            at += 1
        return Walk(len(self._worlds), kinds, self._find_stuck() or self._find_useless())

    def _number(self, world: World, came_from: int, label: str) -> int:
        world = self._without_inert(world)
        if (number := self._numbers.get(world)) is None:
            number = self._numbers[world] = len(self._worlds)
            self._worlds.append(world)
            self._from.append((came_from, label))
            self._helpful.append([])
        return number

    def _without_inert(self, w: World) -> World:
        """Without messages that can never again have an effect, whoever gets them."""
        to_dest = w.to_dest & self._dest.listens(w.dest, TO_DEST)
        to_source = w.to_source & self._source.listens(w.source, TO_SOURCE)
        if (to_dest, to_source) == (w.to_dest, w.to_source):
            return w
        return World(w.source, w.dest, to_dest, to_source, w.ran_there, w.lost)

    def _moves(self, world: World) -> Iterator[tuple[str, World, bool]]:
        w = world
        for move in self._source.moves(w.source) if w.lost != "source" else ():
            if move.human and not (self._calamities and _true_at_source(w, move.label)):
                continue
            to_dest = w.to_dest | _bit(move.says, TO_DEST)
            yield (
                f"source: {move.label}",
                World(move.end, w.dest, to_dest, w.to_source, w.ran_there, w.lost),
                move.fault,
            )
        if w.source.state is S.State.STOPPED and not w.source.todo:
            sent = w.to_dest | _bit("stream", TO_DEST)
            yield (
                "source: sends the rest",
                World(w.source, w.dest, sent, w.to_source, w.ran_there, w.lost),
                False,
            )
        for move in self._dest.moves(w.dest) if w.lost != "destination" else ():
            if move.human and not (self._calamities and _true_at_dest(w, move.label)):
                continue
            to_source = w.to_source | _bit(move.says, TO_SOURCE)
            ran = w.ran_there or move.starts
            yield (
                f"destination: {move.label}",
                World(w.source, move.end, w.to_dest, to_source, ran, w.lost),
                move.fault,
            )
        yield from self._messages(w)
        if self._calamities and not w.lost:
            yield from _calamities(w)

    def _messages(self, w: World) -> Iterator[tuple[str, World, bool]]:
        for name, event in TO_DEST.items():
            bit = _bit(name, TO_DEST)
            if not w.to_dest & bit:
                continue
            rest = w.to_dest & ~bit
            yield (
                f"{name} is lost",
                World(w.source, w.dest, rest, w.to_source, w.ran_there, w.lost),
                True,
            )
            if w.dest.state is None or w.dest.todo or w.lost == "destination":
                continue
            whole = event is D.Event.WHOLE
            told = D.Event.FAILED if whole and w.dest.guest is not Guest.BUILT else event
            after = self._dest.told(w.dest, told)
            if told is D.Event.WHOLE and after.state is D.State.READY and after.todo:
                after = End(after.state, after.disk, Guest.WHOLE, after.todo, after.then)
            for left, how in ((rest, "arrives"), (w.to_dest, "arrives, and may again")):
                yield (
                    f"{name} {how}",
                    World(w.source, after, left, w.to_source, w.ran_there, w.lost),
                    False,
                )
        for name, heard in TO_SOURCE.items():
            bit = _bit(name, TO_SOURCE)
            if not w.to_source & bit:
                continue
            rest = w.to_source & ~bit
            yield (
                f"{name} is lost",
                World(w.source, w.dest, w.to_dest, rest, w.ran_there, w.lost),
                True,
            )
            if w.source.state is None or w.source.todo or w.lost == "source":
                continue
            after = self._source.told(w.source, heard)
            for left, how in ((rest, "arrives"), (w.to_source, "arrives, and may again")):
                yield (
                    f"{name} {how}",
                    World(after, w.dest, w.to_dest, left, w.ran_there, w.lost),
                    False,
                )

    def _find_stuck(self) -> Violation | None:
        """A state from which no move but faults leads to a good end."""
        good = [number for number, world in enumerate(self._worlds) if self._is_good(world)]
        seen = bytearray(len(self._worlds))
        for number in good:
            seen[number] = 1
        waiting = good
        while waiting:
            for before in self._helpful[waiting.pop()]:
                if not seen[before]:
                    seen[before] = 1
                    waiting.append(before)
        for number, world in enumerate(self._worlds):
            if not seen[number] and not _beyond_help(world):
                return self._violation("there is no way to one running guest", number)
        return None

    def _find_useless(self) -> Violation | None:
        """Where nothing goes wrong, the guest arrives: tables that never hand it over would
        keep every promise beside that."""
        seen, grown = {0}, True
        while grown:
            found = {to for at, to in self._smooth if at in seen} - seen
            grown = bool(found)
            seen |= found
        if any(self._worlds[number].source.disk is S.State.GONE for number in seen):
            return None
        return Violation("even where nothing goes wrong the guest does not arrive", ())

    def _is_good(self, w: World) -> bool:
        """One guest runs, and no journal that is left has anything open."""
        runs_here = w.source.guest is Guest.RUNS
        runs_there = w.dest.guest is Guest.RUNS
        if runs_here == runs_there or w.source.disk in self._source.open:
            return False
        if w.dest.disk in self._dest.open:
            return False
        if runs_there:
            return w.source.guest is Guest.NONE
        # Of a journal that vanished nobody can know that something was being built.
        return w.dest.guest is Guest.NONE or w.lost == "journal"

    def _violation(self, what: str, number: int) -> Violation:
        way = []
        while number >= 0:
            before, label = self._from[number]
            way.append(f"{label or 'start'}: {self._worlds[number]}")
            number = before
        return Violation(what, way[::-1])


def _start(answer: str) -> World:
    """Both ends have said hello, and the destination's answer is on the way: that it takes
    the guest, that it cannot, or that something failed there."""
    return World(
        End(S.State.OFFERED, None, Guest.RUNS), End(D.State.OFFERED, None, Guest.NONE),
        0, _bit(answer, TO_SOURCE),
    )  # fmt: skip


def _is_smooth(label: str, fault: bool) -> bool:
    return not fault and not label.endswith((" lost", " ends", " starts", "starts again", "again"))


def _kind(label: str) -> str:
    """Of a move, for counting."""
    for ending, kind in (
        ("is killed", "an end is killed"), (" ends", "an end stops"),
        ("starts again", "an end starts again"), (": starts", "an end starts again"),
        ("may again", "a message arrives, and stays to arrive again"),
        ("arrives", "a message arrives, now or later than others"),
        ("is lost", "a message is lost"), (": lost", "an end finds the link cut"),
        (" in doubt", "nobody knows whether an act was done"),
        (" fails", "an act or the journal fails"), (": failed", "an end fails or hears nonsense"),
        ("vanishes", "a journal or a host vanishes"),
        (": here", "a human decides"), (": there", "a human decides"),
    ):  # fmt: skip
        if label.endswith(ending):
            return kind
    return "an end does its next act"


def _wrong(w: World) -> str | None:
    if w.source.guest is Guest.RUNS and w.ran_there:
        return "the guest runs at the source, and it ran at the destination"
    if w.dest.guest is Guest.RUNS and w.source.guest is Guest.RUNS:
        return "two guests run"
    if w.source.guest is Guest.NONE and not w.ran_there and w.lost != "source":
        return "the guest is no more at the source, and never ran at the destination"
    if w.dest.todo and w.dest.todo[0] in _STARTS and w.dest.guest is Guest.BUILT:
        return "the destination starts what is not whole"
    return None


def _beyond_help(w: World) -> bool:
    """A host vanished that had the one guest: there is nothing left to run."""
    if w.lost == "source":
        keeps = {D.State.READY, D.State.OWNED, D.State.RUNNING, D.State.CLOSED}
        whole = w.dest.guest in {Guest.WHOLE, Guest.RUNS}
        return not (whole and w.dest.state is None and w.dest.disk in keeps)
    return w.lost == "destination" and w.ran_there


def _calamities(w: World) -> Iterator[tuple[str, World, bool]]:
    gone = End(None, None, Guest.NONE)
    if w.dest.state is None and w.dest.disk is not None:
        yield (
            "the destination's journal vanishes",
            World(
                w.source,
                End(None, None, w.dest.guest),
                w.to_dest,
                w.to_source,
                w.ran_there,
                "journal",
            ),
            True,
        )
    yield (
        "the destination's host vanishes",
        World(w.source, gone, w.to_dest, w.to_source, w.ran_there, "destination"),
        True,
    )
    yield (
        "the source's host vanishes",
        World(gone, w.dest, w.to_dest, w.to_source, w.ran_there, "source"),
        True,
    )


def _true_at_source(w: World, said: str) -> bool:
    """Whether a human who knows would say so there."""
    if said == S.Event.THERE.value:
        return w.dest.guest is Guest.RUNS
    over = {None, D.State.NOTHING, D.State.DECLINED, D.State.ABANDONED, D.State.CLEARED}
    return not w.ran_there and w.dest.state in over and w.dest.disk is not D.State.OWNED


def _true_at_dest(w: World, said: str) -> bool:
    if said == D.Event.HERE.value:
        return w.source.guest is Guest.NONE and w.dest.guest in {Guest.WHOLE, Guest.RUNS}
    return w.source.guest is not Guest.NONE and not w.ran_there
