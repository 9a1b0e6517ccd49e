"""Opening both ends of the pipeline, and watching what flows between them.

Shared by ``run``, ``verify`` and ``inspect``: recognising an input, unwrapping it when it
is compressed as a whole, dispatching each event to its handler by name, running the
checks that span records, counting, telling progress, and stopping when asked to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from attrs import evolve, field

from ..check import StreamCheck
from ..codec import Codec
from ..errors import (
    CancelledError,
    FieldError,
    MissingPluginError,
    PluginError,
    RecordError,
    StreamError,
    UnrecognisedError,
    UsageError,
)
from ..format import ByteSource, Format, PageMode, RandomAccess, Reader, ReadOptions
from ..handler import Handler, MemoryHandler, RecordHandler
from ..io.source import Hasher, Source, from_read, open_source
from ..manager import HandlerTable, PluginManager
from ..progress import Progress, ProgressCallback, RecordCount, RunReport
from ..record import ImageInfo, Owner, Record
from ..value_class import define
from ..workers import Workers

if TYPE_CHECKING:
    from ..batch import PageBatch
    from ..format import Event

PROGRESS_INTERVAL_S = 0.1
SNIFF_BYTES = 4096
MAGIC_BYTES = 64  # of what lies inside an input, which may come slowly
EMBEDDED_BYTES = 40  # of an input that somebody else reads on: there is no shorter image
WRAPPERS_MAX = 4  # codecs around an input, one in the other
SALVAGED = "salvaged"  # in the details of an image that was saved from damage


def recognise(source: Source, manager: PluginManager) -> tuple[Format, Source]:
    """The format of an input, and the source to read it from: another one when the whole
    input is compressed.

    :raises UnrecognisedError: no format that can be read knows it.
    :raises PluginError: several do.
    """
    head, source, _codecs = unwrap(source, manager)
    found = [format_ for format_ in claims(head, manager) if format_.readable]
    if len(found) > 1:
        names = " and ".join(format_.name for format_ in found)
        raise PluginError(f"formats {names} both claim this input")
    if not found:
        raise unrecognised(head, manager)
    return found[0], source


def unwrap(source: Source, manager: PluginManager) -> tuple[bytes, Source, list[str]]:
    """Take off what an input is compressed with as a whole, layer by layer.

    :returns: the first bytes of what is inside, the source of it, and the codecs' names from
        the outside.
    :raises StreamError: too many layers.
    """
    names: list[str] = []
    if not source.ahead:  # what unpacks it would read ahead
        return source.peek(EMBEDDED_BYTES), source, names
    while True:
        head = source.peek(SNIFF_BYTES)
        codec = next((e.item for e in manager.codecs if _begins(head, e.item)), None)
        if codec is None:
            return head, source, names
        names.append(codec.name)
        if len(names) > WRAPPERS_MAX:
            raise StreamError(
                f"the input is compressed more than {WRAPPERS_MAX} times over: {', '.join(names)}"
            )
        read = codec.open_stream(_read_function(source))
        source = Source(from_read(read), close=source.close)


def claims(head: bytes, manager: PluginManager) -> list[Format]:
    """The formats that recognise an input; those without a magic only if no other does."""
    known = [entry.item for entry in manager.formats]
    found = [format_ for format_ in known if format_.has_magic and format_.sniff(head)]
    return found or [format_ for format_ in known if not format_.has_magic and format_.sniff(head)]


def _begins(head: bytes, codec: Codec) -> bool:
    return bool(codec.magic) and head.startswith(codec.magic)


def unrecognised(head: bytes, manager: PluginManager) -> UnrecognisedError:
    known = ", ".join(e.item.name for e in manager.formats if e.item.readable) or "none"
    by_sight = claims(head, manager)
    if by_sight:
        what = "; ".join(f"{format_.summary} ({format_.name})" for format_ in by_sight)
        return UnrecognisedError(
            f"the input is recognised, and not read: {what}; formats that are read: {known}"
        )
    failed = "".join(f"; plugin {s.name} failed to load: {s.error}" for s in manager.failed)
    begins = f"it begins with {head[:16].hex(' ')}" if head else "it is empty"
    return UnrecognisedError(
        f"the input is of no known format: {begins}; known formats: {known}{failed}"
    )


def _read_function(source: Source) -> Callable[[int], bytes]:
    def read(size_bytes: int) -> bytes:
        piece = source.peek(size_bytes)
        source.skip(len(piece), "compressed input")
        return piece

    return read


@define
class OpenedStream:
    """An input whose headers were read."""

    source: Source
    format: Format
    reader: Reader


def open_stream(
    where: Any,
    manager: PluginManager,
    workers: Workers,
    *,
    pages: Callable[[Format], PageMode],
    hasher: Hasher | None = None,
    base: RandomAccess | None = None,
    leave_rest: bool = False,
) -> OpenedStream:
    """:param where: see :func:`xsave.io.source.open_source`.
    :param pages: what to do with page contents, decided once the format is known.
    :param hasher: is shown every byte of the input.
    :param base: the image that this one was written against.
    :param leave_rest: take no byte behind the image's end.
    :raises UsageError: with ``leave_rest``, images of this format do not say where they end.
    """
    source = open_source(where, hasher=hasher, ahead=not leave_rest)
    try:
        format_, source = recognise(source, manager)
        options = read_options(pages(format_), manager, workers, base)
        if leave_rest:
            options = _inside_of_another(options, format_)
        return OpenedStream(source, format_, format_.reader(source, options))
    except BaseException:
        source.close()
        raise


def _inside_of_another(options: ReadOptions, format_: Format) -> ReadOptions:
    if not format_.nests:
        raise UsageError(f"{format_.name} images do not lie inside of other streams")
    return evolve(options, nested=True)


def read_options(
    pages: PageMode, manager: PluginManager, workers: Workers, base: RandomAccess | None = None
) -> ReadOptions:
    """With which a format may find images of others inside its own."""
    alone = ReadOptions(pages, manager.codecs.items(), workers, base)

    def inside(source: ByteSource, pages: PageMode) -> Reader | None:
        found = [one for one in claims(source.peek(MAGIC_BYTES), manager) if one.nests]
        if len(found) != 1:
            return None
        return found[0].reader(source, evolve(alone, pages=pages, nested=True))

    return evolve(alone, inside=inside)


def is_salvaged(info: ImageInfo) -> bool:
    """Whether parts of it are missing, as it says itself."""
    source = info.details.get("source")
    details = source if isinstance(source, dict) else info.details
    return bool(details.get(SALVAGED))


@define
class Watch:
    """Dispatches events to handlers, and keeps the report.

    :ivar decode: give records to their handlers' ``decode``. Not done for a bare copy of
        structure.
    :ivar remaining: seconds until it is over, where the source can say.
    :ivar is_whole: False for what is known to lack something: rules that span records are
        left alone then, as for what says so of itself.
    """

    manager: PluginManager
    handlers: HandlerTable
    reader: Reader
    report: RunReport
    position: Callable[[], tuple[int, int | None]]
    progress: ProgressCallback | None = None
    cancelled: Callable[[], bool] | None = None
    stage: str = "run"
    tolerate_missing: bool = False
    is_whole: bool = True
    remaining: Callable[[], float | None] = lambda: None
    _checks: list[StreamCheck] = field(factory=list)
    _started: float = field(factory=time.monotonic)
    _told: float = 0.0

    def events(self) -> Iterator[tuple[Event, Any]]:
        """Each event with the state its handler decoded; None for batches, and for records
        that nobody here understands."""
        if self.is_whole and not is_salvaged(self.reader.info):
            info, plugins = self.reader.info, self.handlers.plugins
            self._checks = list(self.manager.make_checks(info, plugins))
        self._tell(last=False)
        try:
            for event in self.reader:
                if self.cancelled is not None and self.cancelled():
                    raise CancelledError("cancelled")
                yield event, self._dispatch(event)
                del event  # nor is it held here while the next one is read
                self._tell(last=False)
            for check in self._checks:
                check.finish()
        finally:
            self.report.remarks = list(getattr(self.reader, "remarks", ()))
            self.report.elapsed_s = time.monotonic() - self._started
            self.report.source_bytes = self.position()[0]
        self._tell(last=True)

    def _dispatch(self, event: Event) -> Any:
        handler = self.handlers.get(event.type)
        count = self._count(event, handler)
        if handler is None:
            count.understood = False
            count.mandatory |= event.type.mandatory
            if event.type.mandatory and not self.tolerate_missing:
                raise self._missing(event)
            return None
        try:
            if isinstance(event, Record):
                return self._see_record(event, handler)
            self._see_pages(event, handler)
        except FieldError as error:
            raise RecordError(record=event.name, offset=event.offset, reason=str(error)) from error
        return None

    def _see_record(self, record: Record, handler: Handler) -> Any:
        if not isinstance(handler, RecordHandler):
            raise FieldError(field="record", expected="pages", got="a record without pages")
        if self.reader.info.guest_type not in handler.guest_types:
            raise FieldError(
                field="guest type",
                expected=" or ".join(sorted(kind.value for kind in handler.guest_types)),
                got=self.reader.info.guest_type.value,
            )
        state = handler.decode(memoryview(record.body))
        for check in self._checks:
            check.see_record(record, state)
        return state

    def _see_pages(self, batch: PageBatch, handler: Handler) -> None:
        if not isinstance(handler, MemoryHandler):
            raise FieldError(field="record", expected="a record without pages", got="pages")
        handler.check(batch)
        for check in self._checks:
            check.see_pages(batch)

    def _count(self, event: Event, handler: Handler | None) -> RecordCount:
        report = self.report
        count = report.records.get(event.name)
        if count is None:
            owner = self.handlers.owner_of(event.type)
            count = report.records[event.name] = RecordCount(
                event.name, owner.plugin if owner else "", event.type.mandatory,
                version=event.type.version,
            )  # fmt: skip
        count.count += 1
        if isinstance(event, Record):
            count.body_bytes += len(event.body)
        else:
            report.nr_batches += 1
            report.nr_pfns += event.nr_pfns
            report.nr_pages += event.nr_pages
        return count

    def _missing(self, event: Event) -> MissingPluginError:
        owner = self.handlers.owner_of(event.type)
        return missing_plugin(event.name, event.type.version, owner, self.manager, self.handlers)

    def _tell(self, *, last: bool) -> None:
        if self.progress is None:
            return
        now = time.monotonic()
        if not last and now - self._told < PROGRESS_INTERVAL_S:
            return
        self._told = now
        done, total = self.position()
        iteration, dirty_bytes_per_s = None, None
        if (save := self.report.save) is not None:
            iteration = len(save.iterations)
            if iteration:
                page_size = self.reader.info.page_size
                dirty_bytes_per_s = save.iterations[-1].dirty_per_s * page_size
        rounds = None if save is None else save.rounds
        self.progress(
            Progress(
                self.stage, done, total, self.report.nr_pages, now - self._started, iteration,
                save is not None and save.paused, dirty_bytes_per_s,
                0 if rounds is None else rounds.count, self.remaining,
            )
        )  # fmt: skip


def missing_plugin(
    record: str, version: int, owner: Owner | None, manager: PluginManager, handlers: HandlerTable
) -> MissingPluginError:
    """Say what is missing, and what to do about it."""
    if owner is None:
        failed = [status.name for status in manager.failed]
        hint = f"; failed to load: {', '.join(failed)} (see xsave plugins)" if failed else ""
        reason = f"no plugin here handles it, and the image does not say whose it is{hint}"
        return MissingPluginError(record=record, plugin="", reason=reason)
    status = manager.status(owner.plugin)
    if status is None:
        reason = f"it belongs to plugin {owner}, which is not installed"
    elif status.error:
        reason = f"it belongs to plugin {owner.plugin}, which failed to load: {status.error}"
    elif owner.plugin not in handlers.plugins:
        chosen = ", ".join(sorted(handlers.plugins))
        reason = f"it belongs to plugin {owner.plugin}, which is not among those chosen ({chosen})"
    else:
        reason = (
            f"its version is {version}, and plugin {owner.plugin} here understands an older one"
        )
    return MissingPluginError(record=record, plugin=owner.plugin, reason=reason)


def used_plugins(counts: Iterable[RecordCount]) -> list[str]:
    """Names of the plugins whose records came by."""
    return sorted({count.plugin for count in counts if count.plugin and count.understood})
