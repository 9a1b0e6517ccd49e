"""The destination's end of migrations: guests come in from other processes.

What may be done with a guest at each moment is said by the table in
:mod:`xsave.handover.destination`, and by nothing here: this file tells it what happens, and
does what it says. docs/migration.md has both.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from attrs import evolve

from ..errors import (
    CancelledError,
    LinkError,
    OtherEndError,
    PeerError,
    TryAgainError,
    UsageError,
    XsaveError,
)
from ..handover.destination import OPEN, TABLE, Act, Event, State
from ..handover.table import Conduct
from ..io.journal import Entry, HeldEntry, Journal
from ..manager import PluginManager
from ..progress import MigrationReport, ProgressCallback, RunReport
from ..workers import Workers
from .breaks import breaks_told
from .ends import DomainAddress, DomainDestination
from .negotiate import choose_protocol, describe_host, examine, with_states
from .recover import destination_conduct, restarted
from .stream import Watch, open_stream, used_plugins
from .talk import (
    Talk,
    answer_hello,
    check_fields,
    counts_as_data,
    error_as_data,
    info_from_data,
    read_hello,
    told_error,
)

if TYPE_CHECKING:
    from ..domain import Domain
    from ..link.link import Link
    from ..negotiation import Fields, GuestOffer
    from ..record import ImageInfo

log = logging.getLogger("xsave.receive")
ANSWER_S = 120.0
BYE_S = 5.0  # how long the source is waited for after the guest runs
STOP_S = 10.0  # within which a guest that is being built is given up


class Receiver:
    """Takes guests, each over a link of its own, several at a time.

    :param into: where they are made.
    :param options: of plugins. :param limit: bytes a second for each, 0 for no limit.
    :param answer_s: how long the other end may take for an answer, or for the next piece of
        its stream.
    :param told: is called with the report of each migration, and its error if it failed; in
        the thread that had it.
    """

    def __init__(
        self,
        into: DomainAddress,
        manager: PluginManager,
        *,
        journal: Journal | None = None,
        plugins: Iterable[str] | None = None,
        options: Mapping[str, str] | None = None,
        limit: int = 0,
        workers: int = 0,
        answer_s: float = ANSWER_S,
        progress: ProgressCallback | None = None,
        told: Callable[[MigrationReport, BaseException | None], None] | None = None,
    ) -> None:
        self.into = into
        self.manager = manager
        self.handlers = manager.handler_table(plugins, options)
        self.journal = journal or Journal()
        self.limit = limit
        self.workers = workers
        self.answer_s = answer_s
        self.progress = progress
        self._told = told
        self._lock = threading.Lock()
        self._arrivals: dict[str, Arrival] = {}

    def recover(self) -> list[Entry]:
        """Finish what processes before this one left open.

        :returns: the entries as they are now.
        """
        return restarted(self.journal, self.manager, "destination")

    def stop(self) -> None:
        """Give up whatever has not been given away yet: for whoever is interrupted."""
        with self._lock:
            arrivals = list(self._arrivals.values())
        for arrival in arrivals:
            arrival.stop()

    def take(self, link: Link) -> bool:
        """One link, to its end; it is closed then. Raises nothing that came from there.

        :returns: whether it was about a guest that was to come.
        """
        talk = Talk(link, self.answer_s)
        try:
            kind, fields = talk.hear("hello", "ask")
            if kind == "ask":
                self._answer(talk, fields)
                return False
            return self._migration(talk, fields)
        except XsaveError as error:
            log.warning("%s: %s", talk.peer, error)
            talk.try_to_say("abandoned", **error_as_data(error))
            return False
        finally:
            link.close()

    # -- a guest that comes -----------------------------------------------------------

    def _migration(self, talk: Talk, fields: Fields) -> bool:
        with check_fields(talk):
            purpose, migration, protocol, offer = read_hello(fields)
        offer = with_states(offer, self.handlers)
        host = describe_host(
            self.manager, self.handlers, self.into.backend, self.into.rest, offer.name
        )
        found = examine(offer, host, self.manager, self.handlers)
        answer_hello(talk, choose_protocol(protocol), host, found)
        if purpose == "preflight":
            return False
        report = MigrationReport(
            migration.hex(), "destination", offer.name, talk.peer, host=host, notices=found.notices
        )
        arrival = Arrival(self, talk, report, offer)
        error: BaseException | None = None
        try:
            self._add(arrival)
            arrival.go(refused=bool(found.refusals))
        except Exception as failed:
            error = failed
            if not isinstance(failed, XsaveError):
                log.exception("migration %s", report.id)
        finally:
            self._remove(arrival)
            arrival.close()
        report.outcome = arrival.conduct.state.value
        report.link = talk.link.counters
        if self._told is not None:
            self._told(report, error)
        return True

    def _add(self, arrival: Arrival) -> None:
        with self._lock:
            if arrival.id in self._arrivals:
                raise UsageError(f"migration {arrival.id} is under way already")
            self._arrivals[arrival.id] = arrival

    def _remove(self, arrival: Arrival) -> None:
        with self._lock:
            if self._arrivals.get(arrival.id) is arrival:
                del self._arrivals[arrival.id]

    # -- what became of one -------------------------------------------------------------

    def _answer(self, talk: Talk, fields: Fields) -> None:
        with check_fields(talk):
            migration = fields.octets("id", 16).hex()
        with self._lock:
            arrival = self._arrivals.get(migration)
        if arrival is not None:
            arrival.asked(talk)
        else:
            self._answer_from_journal(talk, migration)

    def _answer_from_journal(self, talk: Talk, migration: str) -> None:
        try:
            held = self.journal.hold(migration, "destination")
        except TryAgainError:  # another process has it, which decides
            talk.say("undecided")
            return
        with held:
            entry = held.entry
            if entry is None:
                held.remove()
                talk.say("unknown")
                return
            check_identity(entry, talk)
            conduct = destination_conduct(held, self.manager, talk)
            if conduct.state in OPEN:
                conduct.tell(Event.RESTARTED)
            conduct.hear(Event.ASKED)
            if conduct.state is State.RUNNING:
                with suppress(LinkError):
                    talk.hear("bye", timeout_s=BYE_S)
                    conduct.tell(Event.BYE)


def check_identity(entry: Entry, talk: Talk) -> None:
    """:raises XsaveError: who asks has another certificate than who began."""
    if entry.identity and entry.identity != talk.link.identity:
        raise XsaveError(f"migration {entry.id} is another end's: its certificate is not the same")


class Arrival:
    """One guest on its way in.

    :ivar id: of the migration.
    """

    def __init__(
        self, receiver: Receiver, talk: Talk, report: MigrationReport, offer: GuestOffer
    ) -> None:
        self.id = report.id
        self._receiver = receiver
        self._talk = talk
        self._asks: Talk | None = None  # who is answered now, if another
        self._report = report
        self._held: HeldEntry | None = None
        into = receiver.into
        # Known before there is a guest, so that the journal has it whenever this ends.
        rest, locator = into.backend.reserve(into.rest)
        self._entry = Entry(
            id=self.id, role="destination", state=State.OFFERED.value, guest=offer.name,
            backend=into.backend.name, locator=locator, peer=talk.peer,
            identity=talk.link.identity,
        )  # fmt: skip
        self._stack = ExitStack()
        self._building = DomainDestination(
            self._stack, evolve(into, rest=rest), receiver.manager, receiver.handlers,
            receiver.limit,
        )  # fmt: skip
        self._info: ImageInfo | None = None
        self._writer: Any = None
        self._error: BaseException | None = None
        self._counts: Mapping[str, Any] = {}
        self._took: dict[str, float] = {}
        self._lock = threading.RLock()  # the conduct's
        self._stops = threading.Event()
        self._built = threading.Event()  # nobody builds (any more)
        self._built.set()
        self.conduct = Conduct(TABLE, State.OFFERED, {
            Act.JOURNAL: self._write_journal,
            Act.CREATE: self._create,
            Act.SAY_COMPLETE: lambda: self._say("complete", counts=self._counts),
            Act.START: self._start,
            Act.START_AGAIN: self._start,
            Act.SAY_RUNS: lambda: self._say("runs", **self._took),
            Act.DESTROY: self._destroy,
            Act.SAY_ABANDONED: lambda: self._say("abandoned", **error_as_data(self._error)),
            Act.SAY_UNDECIDED: lambda: self._say("undecided"),
            Act.SAY_UNKNOWN: lambda: self._say("unknown"),
        })  # fmt: skip

    # -- the way ---------------------------------------------------------------------

    def go(self, *, refused: bool) -> None:
        """All of it.

        :param refused: this end has said that it cannot take the guest.
        :raises XsaveError: it came to nothing; what was built is gone.
        """
        try:
            self._begin(refused)
            self._go_on_in(State.RECEIVING)
            self._report.run = self._receive()
            self._tell(Event.WHOLE)
            self._go_on_in(State.READY)
            self._hear("yours")
            self._tell(Event.YOURS)
            self._go_on_in(State.RUNNING)
        except BaseException as error:
            reason = self._reason_of(error)
            self._end(reason)
            raise reason from None
        with suppress(LinkError):  # it runs, whatever is heard of the source now
            self._talk.hear("bye", timeout_s=BYE_S)
            self._tell(Event.BYE)

    def _begin(self, refused: bool) -> None:
        fields = self._hear("begin")
        if refused:
            raise PeerError(
                peer=self._talk.peer, what="message", expected="none: it was refused", got="begin"
            )
        with check_fields(self._talk):
            self._info = info_from_data(fields.raw("info"))
        self._tell(Event.BEGIN)

    def _receive(self) -> RunReport:
        """The stream, into the guest."""
        receiver, talk = self._receiver, self._talk
        self._built.clear()
        try:
            with Workers(receiver.workers) as pool:
                from ..format import PageMode

                opened = open_stream(
                    talk.link.source(receiver.answer_s), receiver.manager, pool,
                    pages=lambda _format: PageMode.FULL,
                )  # fmt: skip
                report = RunReport(opened.reader.info, dest_format=self._building.name)
                with breaks_told(talk.link, receiver.progress) as progress:
                    watch = Watch(
                        receiver.manager, receiver.handlers, opened.reader, report,
                        lambda: (opened.source.offset, None), progress, self._stops.is_set,
                        stage="receive",
                    )  # fmt: skip
                    for event, _state in watch.events():
                        self._writer.put(event)
                if not opened.source.at_end():
                    raise PeerError(
                        peer=talk.peer, what="stream", expected="its end", got="more bytes"
                    )
                began = time.monotonic()
                self._writer.finish()
                report.dest_bytes = self._building.taken_bytes()
                report.source_bytes = opened.source.offset
                report.plugins = used_plugins(report.records.values())
                self._report.times["apply_s"] = time.monotonic() - began
                self._counts = counts_as_data(report, opened.source.offset)
                return report
        finally:
            self._built.set()

    def _hear(self, kind: str) -> Fields:
        """That message. :raises OtherEndError: the source gave up instead, and says why."""
        heard, fields = self._talk.hear(kind, "abandon")
        if heard == "abandon":
            raise told_error(self._talk, fields)
        return fields

    def _reason_of(self, error: BaseException) -> BaseException:
        """What the source said before it went, rather than that it went."""
        if isinstance(error, LinkError):
            try:
                _, fields = self._talk.hear("abandon", timeout_s=0)
                return told_error(self._talk, fields)
            except XsaveError:
                return error
        return error

    def _end(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            self.conduct.tell(_event_of(error))

    def _tell(self, event: Event) -> None:
        with self._lock:
            self.conduct.tell(event)

    def _go_on_in(self, state: State) -> None:
        """:raises XsaveError: it went otherwise."""
        if self.conduct.state not in (state, State.CLOSED):
            raise self._error or CancelledError("the source asked, and the guest was given up")

    def stop(self) -> None:
        """From another thread: nothing more comes."""
        self._stops.set()
        self._talk.link.abandon()

    def asked(self, talk: Talk) -> None:
        """The source asks over another link what becomes of it: it has lost this one, so a
        guest that is not all here will never be."""
        check_identity(self._entry, talk)
        if not self._built.is_set():
            self._stops.set()
            self._talk.link.abandon()
            if not self._built.wait(STOP_S):
                talk.say("undecided")
                return
        with self._lock:
            self._asks = talk
            try:
                self.conduct.hear(Event.ASKED)
            finally:
                self._asks = None
            runs = self.conduct.state is State.RUNNING
        if runs:
            with suppress(LinkError):
                talk.hear("bye", timeout_s=BYE_S)
                self._tell(Event.BYE)

    # -- acts ------------------------------------------------------------------------

    def _write_journal(self) -> None:
        began = time.monotonic()
        try:
            if self._held is None:
                self._held = self._receiver.journal.hold(self.id, "destination")
                if self._held.entry is not None:
                    raise UsageError(f"migration {self.id} has been here before")
            self._entry = evolve(self._entry, state=self.conduct.state.value)
            self._held.write(self._entry)
        except XsaveError as error:
            self._error = self._error or error
            raise
        if self.conduct.state is State.OWNED:
            self._took["journal_s"] = time.monotonic() - began

    def _create(self) -> None:
        assert self._info is not None
        try:
            self._writer = self._building.open(self._info)
            domain = self._domain()
            known = self._entry
            self._entry = evolve(known, locator=domain.locator)
            if self._entry != known:
                self._write_journal()
        except XsaveError as error:
            self._error = error
            raise

    def _start(self) -> None:
        self._building.commit()
        began = time.monotonic()
        try:
            self._domain().resume()
        except XsaveError as error:
            self._error = error
            raise
        self._took["start_s"] = time.monotonic() - began
        self._report.times.update(self._took)

    def _destroy(self) -> None:
        self._building.give_up()
        domain = self._building.domain
        if domain is None and self._entry.locator:  # made, perhaps, and nobody heard of it
            domain = self._receiver.into.backend.find(self._entry.locator)
        if domain is not None:
            domain.destroy()

    def _domain(self) -> Domain:
        assert self._building.domain is not None
        return self._building.domain

    def _say(self, kind: str, **fields: Any) -> None:
        (self._asks or self._talk).try_to_say(kind, **fields)

    def close(self) -> None:
        """Let go; the guest stays as the table has it."""
        with self._lock:
            if self.conduct.state in (State.OWNED, State.RUNNING, State.CLOSED, State.UNSURE):
                self._building.commit()
            self._stack.close()
            if self._held is not None:
                self._held.close()


def _event_of(error: BaseException) -> Event:
    if isinstance(error, OtherEndError):
        return Event.ABANDON
    if isinstance(error, LinkError) and not isinstance(error, PeerError):
        return Event.LOST
    return Event.FAILED


class Service:
    """A receiver over all links that come, each in a thread of its own.

    :ivar nr_migrations: that have ended, one way or the other, among ``nr_links``;
        ``has_ended`` tells of each.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._threads: list[threading.Thread] = []
        self.nr_migrations = self.nr_links = 0
        self.has_ended = threading.Condition()

    def start(self, link: Link) -> None:
        thread = threading.Thread(
            target=self._take, args=(link,), name=f"xsave receives from {link.peer}", daemon=True
        )
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _take(self, link: Link) -> None:
        was_migration = self._receiver.take(link)
        with self.has_ended:
            self.nr_migrations += was_migration
            self.nr_links += 1
            self.has_ended.notify_all()

    def join(self) -> None:
        """Wait for those under way."""
        for thread in self._threads:
            thread.join()
