"""The source's end of a migration: a guest that runs goes to another process, or stays.

What may be done with the guest at each moment is said by the table in
:mod:`xsave.handover.source`, and by nothing here: this file tells it what happens, and does
what it says. docs/migration.md has both.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from attrs import evolve

from ..codec import CodecChoice
from ..errors import (
    LinkError,
    OtherEndError,
    PeerError,
    RefusedError,
    SilentPeerError,
    UndecidedError,
    UnknownNameError,
    UsageError,
    XsaveError,
)
from ..format import WriteOptions
from ..handler import RecordHandler
from ..handover.source import TABLE, Act, Event, State
from ..handover.table import Conduct
from ..io.journal import Entry, HeldEntry, Journal
from ..io.sink import Pace
from ..manager import HandlerTable, PluginManager, build_manager
from ..progress import MigrationReport, ProgressCallback, RunReport
from ..record import Record
from ..workers import Workers
from .breaks import breaks_told
from .ends import DomainAddress, domain_address
from .negotiate import Examination, examine, offer_domain, stays_behind
from .run import DEFAULT_POLICY, about_us
from .save import DomainReader
from .stream import Watch, used_plugins
from .talk import (
    ID_BYTES,
    Talk,
    check_fields,
    counts_as_data,
    differing_counts,
    error_as_data,
    info_as_data,
    read_answer,
    say_hello,
    told_error,
)

if TYPE_CHECKING:
    from ..domain import Domain
    from ..format import Event as StreamEvent
    from ..format import Reader
    from ..link.link import Link, LinkCounters
    from ..link.options import LinkOptions
    from ..negotiation import Fields
    from ..record import ImageInfo
    from ..transport import Transport

    Connect = Callable[[], Link]

log = logging.getLogger("xsave.migrate")
FORMAT = "native"  # of the stream: checked piece by piece, and sealed
ANSWER_S = 120.0  # how long the other end may take for an answer
ASK_S = 60.0  # how long it is asked what became of a guest that was given away
ASK_AGAIN_S = 0.5
# What the other end may say, as events.
SAID = {
    "complete": Event.COMPLETE,
    "runs": Event.RUNS,
    "abandoned": Event.ABANDONED,
    "undecided": Event.UNDECIDED,
    "unknown": Event.UNKNOWN,
}


def migrate(
    source: str,
    dest: str | Connect,
    *,
    codec: str | None = None,
    checksum: str = "",
    plugins: Iterable[str] | None = None,
    options: Mapping[str, str] | None = None,
    live: bool = True,
    policy: str = DEFAULT_POLICY,
    limit: int = 0,
    workers: int = 0,
    link_options: LinkOptions | None = None,
    answer_s: float = ANSWER_S,
    ask_s: float = ASK_S,
    journal: Journal | None = None,
    manager: PluginManager | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> MigrationReport:
    """Move a guest to another process, which receives (:func:`xsave.pipeline.receive`).

    :param source: address of a domain.
    :param dest: address of a transport (``tls:HOST:PORT``), or a function that makes a link.
    :param codec, checksum, plugins, options, live, policy, limit, workers: as for
        :func:`xsave.run`.
    :param link_options: patience, windows, number of connections.
    :param answer_s: how long the other end may take for an answer.
    :param ask_s: how long it is asked again what became of the guest, if the link is lost
        after it was given away.
    :param journal: by default in the state folder.
    :raises RefusedError: the destination cannot take it; the guest was not touched.
    :raises UndecidedError: it was given away, and nobody answers; it is left paused.
    :raises XsaveError: anything else; the guest runs on here.
    """
    manager = manager or build_manager()
    handlers = manager.handler_table(plugins, options)
    choice = manager.choose_codec(codec) if codec is not None else None
    ruling = manager.choose_policy(policy) if live else None
    origin = _domain_address(source, manager)
    connect = dest if callable(dest) else connector(dest, manager, link_options)
    with ExitStack() as stack:
        pool = stack.enter_context(Workers(workers))
        domain = origin.backend.open(origin.rest)
        stack.callback(domain.close)
        if domain.is_at_rest():
            raise UsageError(
                f"{source} does not run: if a migration of it is open, see xsave resolve; "
                "otherwise let it run before it is moved"
            )
        way = Departure(
            origin, domain, connect, dest if isinstance(dest, str) else "", journal or Journal(),
            manager, handlers, answer_s, ask_s,
        )  # fmt: skip
        stack.callback(way.close)
        write = WriteOptions(
            codec=choice, codecs=manager.codecs.items(), workers=pool,
            identify=handlers.identify, checksum=checksum, about=about_us(),
        )  # fmt: skip
        reader = DomainReader(domain, manager, handlers, ruling, way.sent_bytes)
        return way.go(reader, write, choice, limit, progress, cancelled)


def find_transport(address: str, manager: PluginManager) -> tuple[Transport, str]:
    """:returns: it, and the address without its scheme.
    :raises UnknownNameError: no transport has such addresses.
    """
    scheme, colon, rest = address.partition(":")
    entry = manager.transports.get(scheme) if colon else None
    if entry is None:
        known = [f"{name}:" for name in manager.transports.names()]
        raise UnknownNameError(kind="transport", name=scheme, known=known)
    return entry.item, rest


def connector(address: str, manager: PluginManager, options: LinkOptions | None = None) -> Connect:
    """What makes a new link with who listens at an address.

    :raises UnknownNameError: no transport has such addresses.
    """
    transport, rest = find_transport(address, manager)

    def connect() -> Link:
        from ..link.connect import connect as connect_link

        return connect_link(transport, rest, options)

    return connect


def _domain_address(source: str, manager: PluginManager) -> DomainAddress:
    found = domain_address(source, manager)
    if found is None:
        raise UsageError(
            f"{source} is no domain: only a guest that exists can be migrated "
            "(xsave run takes images)"
        )
    return found


class Departure:
    """One guest on its way out.

    :ivar id: of the migration, 32 hexadecimal digits.
    """

    def __init__(
        self, origin: DomainAddress, domain: Domain, connect: Connect, address: str,
        journal: Journal, manager: PluginManager, handlers: HandlerTable, answer_s: float,
        ask_s: float,
    ) -> None:  # fmt: skip
        self.id = secrets.token_bytes(ID_BYTES).hex()
        self._domain = domain
        self._connect = connect
        self._manager = manager
        self._handlers = handlers
        self._answer_s = answer_s
        self._ask_s = ask_s
        self._journal = journal
        self._held: HeldEntry | None = None
        self._entry = Entry(
            id=self.id, role="source", state=State.OFFERED.value, guest=domain.info.name,
            backend=origin.backend.name, locator=domain.locator, address=address,
        )  # fmt: skip
        self._reader: DomainReader | None = None
        self._talk: Talk | None = None
        self._ask = False
        self._counters: LinkCounters | None = None  # of the link that had the stream
        self._error: BaseException | None = None
        self._begin: Mapping[str, Any] = {}
        self._times: dict[str, float] = {}
        self.conduct = Conduct(TABLE, State.OFFERED, {
            Act.JOURNAL: self._write_journal,
            Act.SAY_BEGIN: lambda: self._say("begin", **self._begin),
            Act.PAUSE: domain.pause,
            Act.SAY_YOURS: lambda: self._say("yours"),
            Act.ASK: self._ask_again,
            Act.RESUME: lambda: self._release("resume"),
            Act.DESTROY: lambda: self._release("destroy"),
            Act.SAY_ABANDON: lambda: self._say("abandon", **error_as_data(self._error)),
            Act.SAY_BYE: lambda: self._say("bye"),
        })  # fmt: skip

    # -- the way ---------------------------------------------------------------------

    def go(
        self, reader: DomainReader, write: WriteOptions, choice: CodecChoice | None, limit: int,
        progress: ProgressCallback | None, cancelled: Callable[[], bool] | None,
    ) -> MigrationReport:  # fmt: skip
        """All of it. :raises XsaveError: as :func:`migrate`."""
        self._reader = reader
        reader.pause_guest = lambda: self.conduct.tell(Event.LAST_PASS)
        report = MigrationReport(self.id, "source", self._entry.guest)
        try:
            found = self._agree(reader.info, report, choice)
            report.run = self._send(reader, write, found, limit, progress, cancelled)
            if choice is not None:
                report.run.codec = str(choice)
            self._hand_over(report)
        except BaseException as error:
            self._end(error, report)
        self._account(report)
        return report

    def _agree(
        self, info: ImageInfo, report: MigrationReport, choice: CodecChoice | None
    ) -> Examination:
        offer = offer_domain(
            self._domain, self._manager, self._handlers, format_=FORMAT,
            codec=choice.codec.name if choice is not None else "",
        )  # fmt: skip
        link = self._connect()
        self._talk = talk = Talk(link, self._answer_s)
        report.peer = talk.peer
        self._entry = evolve(self._entry, peer=talk.peer, identity=link.identity)
        say_hello(talk, "migrate", bytes.fromhex(self.id), offer)
        _, fields = self._hear("hello")
        with check_fields(talk):
            _protocol, host, theirs = read_answer(fields)
        found = examine(offer, host, self._manager, self._handlers).joined(theirs)
        report.host, report.notices = host, found.notices
        if found.refusals:
            self.conduct.tell(Event.REFUSED)
            raise RefusedError(where=host.host or talk.peer, refusals=found.refusals)
        self._begin = {"info": info_as_data(info)}
        self.conduct.tell(Event.AGREED)
        if self.conduct.state is not State.SENDING:
            raise self._error or XsaveError("the journal cannot be written")
        return found

    def _send(
        self, reader: DomainReader, write: WriteOptions, found: Examination, limit: int,
        progress: ProgressCallback | None, cancelled: Callable[[], bool] | None,
    ) -> RunReport:  # fmt: skip
        talk = self._in_talk()
        kept: Reader = reader
        if found.without:
            kept = _Without(reader, found.without, self._handlers)
        format_ = self._manager.formats.find(FORMAT)
        report = RunReport(reader.info, dest_format=talk.peer)
        report.save = reader.report
        sink = talk.link.sink
        pace = Pace(limit) if limit else None
        writer = format_.writer(sink, reader.info, write)
        passed = sink.offset
        with breaks_told(talk.link, progress) as told:
            watch = Watch(
                self._manager, self._handlers, kept, report, lambda: (self.sent_bytes(), None),
                told, cancelled, stage="migrate",
            )  # fmt: skip
            for event, _state in watch.events():
                writer.put(event)
                if pace is not None:
                    pace.passed(sink.offset - passed)
                    passed = sink.offset
                self._listen()
        writer.finish()
        report.dest_bytes = sink.offset
        sink.finish()
        report.plugins = used_plugins(report.records.values())
        bodies = sum(count.body_bytes for count in report.records.values())
        report.source_bytes = report.nr_pages * reader.info.page_size + bodies
        return report

    def _hand_over(self, report: MigrationReport) -> None:
        """Everything is on its way: from here on the guest stands still."""
        assert self._reader is not None and report.run is not None
        counts = counts_as_data(report.run, report.run.dest_bytes)
        talk = self._in_talk()
        _, fields = self._hear("complete")
        with check_fields(talk):
            differs = differing_counts(counts, fields.raw("counts"))
        if differs:
            raise PeerError(
                peer=talk.peer, what="count of what came", expected="what was sent", got=differs
            )
        self._reader.lap_finish()
        self.conduct.tell(Event.COMPLETE)
        if self.conduct.state is not State.GIVEN:
            raise self._error or XsaveError("the journal cannot be written")
        self._times["journal_s"] = self._reader.lap_commit()
        _, fields = self._hear("runs")
        self._reader.lap_commit()
        with check_fields(talk):
            self._times["there_journal_s"] = fields.seconds("journal_s")
            self._times["there_start_s"] = fields.seconds("start_s")
        self.conduct.tell(Event.RUNS)

    # -- when it does not go its way -------------------------------------------------

    def _end(self, error: BaseException, report: MigrationReport) -> None:
        """Tell the table, and see what it makes of it.

        :raises: the error, unless the guest turns out to run there all the same.
        """
        error = self._error = self._reason_of(error)
        try:
            self.conduct.tell(_event_of(error))
        except XsaveError as another:
            raise XsaveError(
                f"{error}; and the guest could not be let run on here: {another}; "
                f"xsave resolve {self.id} tries again"
            ) from error
        if self.conduct.state is State.GIVEN:
            self._find_out(error)
        if self.conduct.state is State.GONE:
            report.notices = (*report.notices, _asked_notice(error))
            return
        raise error

    def _reason_of(self, error: BaseException) -> BaseException:
        """What the other end said before it went, rather than that it went."""
        if isinstance(error, LinkError) and self.conduct.state is not State.GIVEN:
            try:
                self._listen()
            except OtherEndError as told:
                return told
            except XsaveError:
                return error
        return error

    def _find_out(self, why: BaseException) -> None:
        """It was given away, and is not known to run: ask, and leave it paused meanwhile."""
        patience_s = self._ask_s if isinstance(why, Exception) else 0.0
        deadline = time.monotonic() + patience_s
        reason = str(why) or type(why).__name__
        while self.conduct.state is State.GIVEN and self._ask:
            self._ask = False
            try:
                talk = Talk(self._connect(), self._answer_s)
                self._leave(talk)
                event = ask(talk, self.id)
            except (XsaveError, OSError) as error:
                reason, event = str(error), Event.LOST
            if event in (Event.UNKNOWN, Event.UNDECIDED):
                reason = f"the other end says: {event.value}"
            if event is Event.UNKNOWN or time.monotonic() >= deadline:
                break
            if event in (Event.LOST, Event.UNDECIDED):
                time.sleep(ASK_AGAIN_S)
            self.conduct.tell(event)
        if self.conduct.state is State.GIVEN:
            self._release("pause")
            raise UndecidedError(migration=self.id, reason=reason) from why

    # -- acts ------------------------------------------------------------------------

    def _write_journal(self) -> None:
        try:
            if self._held is None:
                self._held = self._journal.hold(self.id, "source")
            self._held.write(evolve(self._entry, state=self.conduct.state.value))
        except XsaveError as error:
            self._error = error
            raise

    def _ask_again(self) -> None:
        self._ask = True

    def _release(self, what: str) -> None:
        assert self._reader is not None
        self._reader.release(what)

    def _say(self, kind: str, **fields: Any) -> None:
        if self._talk is not None:
            self._talk.try_to_say(kind, **fields)

    # -- the other end ---------------------------------------------------------------

    def sent_bytes(self) -> int:
        return 0 if self._talk is None else self._talk.link.sink.offset

    def _in_talk(self) -> Talk:
        assert self._talk is not None
        return self._talk

    def _hear(self, kind: str) -> tuple[str, Fields]:
        """That message, or what the other end says instead.

        :raises OtherEndError: it gave up, and says why.
        """
        talk = self._in_talk()
        heard, fields = talk.hear(kind, "abandoned")
        if heard == "abandoned":
            raise told_error(talk, fields)
        return heard, fields

    def _listen(self) -> None:
        """:raises OtherEndError: the other end has given up meanwhile."""
        with suppress(SilentPeerError):
            _, fields = self._in_talk().hear("abandoned", timeout_s=0)
            raise told_error(self._in_talk(), fields)

    def _leave(self, talk: Talk) -> None:
        """Go on over another link."""
        if self._talk is not None:
            self._counters = self._talk.link.counters
            self._talk.link.abandon()
        self._talk = talk

    def _account(self, report: MigrationReport) -> None:
        report.times, report.outcome = dict(self._times), self.conduct.state.value
        if self._counters is None and self._talk is not None:
            self._counters = self._talk.link.counters
        report.link = self._counters

    def close(self) -> None:
        """Let go of the link and of the journal; the guest stays as the table has it."""
        if self._talk is not None:
            self._talk.link.close()
        if self._held is not None:
            self._held.close()


def _event_of(error: BaseException) -> Event:
    if isinstance(error, OtherEndError):
        return Event.ABANDONED
    if isinstance(error, RefusedError):
        return Event.REFUSED
    if isinstance(error, LinkError) and not isinstance(error, PeerError):
        return Event.LOST
    return Event.FAILED


def _asked_notice(error: BaseException) -> Any:
    from ..negotiation import Notice

    return Notice("asked", f"the guest runs there, as was found out by asking: {error}")


def ask(talk: Talk, migration: str) -> Event:
    """What became of a guest that was given away.

    :param talk: over a new link.
    :raises XsaveError: nobody answers, or nonsense.
    """
    talk.say("ask", id=bytes.fromhex(migration))
    heard, _ = talk.hear("runs", "abandoned", "undecided", "unknown")
    return SAID[heard]


class _Without:
    """A reader without the records that stay behind."""

    def __init__(
        self, reader: Reader, without: Mapping[str, frozenset[Any]], handlers: HandlerTable
    ) -> None:
        self.info = reader.info
        self._reader = reader
        self._without = without
        self._handlers = handlers

    def __iter__(self) -> Iterator[StreamEvent]:
        for event in self._reader:
            if event.name in self._without and isinstance(event, Record):
                handler = self._handlers.get(event.type)
                key = None
                if isinstance(handler, RecordHandler):
                    key = handler.key(handler.decode(memoryview(event.body)))
                if stays_behind(self._without, event.name, key):
                    continue
            yield event
