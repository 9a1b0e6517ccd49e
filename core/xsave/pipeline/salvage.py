"""From a damaged or cut image, everything that is provably whole; and a list of what is not.

A format whose pieces have sums of their own is read on behind damage (``Format.salvage``). Of
any other what comes before the damage is all: its framing says where things begin, and that
is lost with the first wrong byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field

from ..errors import FieldError, StreamError
from ..format import Loss, PageMode, Reader, ReadOptions, SalvageReader, WriteOptions
from ..handler import Handler, MemoryHandler, RecordHandler
from ..io.sink import open_sink
from ..io.source import FileImage, Source, open_source
from ..manager import HandlerTable, PluginManager, build_manager
from ..progress import ProgressCallback, RunReport
from ..record import ImageInfo, Record
from ..value_class import define
from ..workers import Workers
from .base import open_base
from .run import DEFAULT_FORMAT, about_us
from .stream import SALVAGED, Watch, recognise, used_plugins

if TYPE_CHECKING:
    from ..format import Event

LOSSES_MAX = 4096  # listed


@define
class SalvageReport(RunReport):
    """What was saved, and what is lost.

    :ivar losses: in the order of the image; :ivar nr_losses: all of them, listed or not.
    :ivar nr_lost_pages: pages that are known to be lost; there may be more where a loss is
        not exact.
    """

    losses: list[Loss] = field(factory=list)
    nr_losses: int = 0
    nr_lost_pages: int = 0

    @property
    def partial(self) -> bool:
        return self.nr_losses > 0

    def add(self, loss: Loss) -> None:
        self.nr_losses += 1
        if len(self.losses) < LOSSES_MAX:
            self.losses.append(loss)
        if loss.is_exact:
            self.nr_lost_pages += sum(last - first + 1 for first, last in loss.pfns)


def salvage(
    source: Any,
    dest: Any,
    *,
    codec: str | None = None,
    plugins: Iterable[str] | None = None,
    base: str | Path | None = None,
    manager: PluginManager | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> SalvageReport:
    """Write a native image of what is whole in a damaged one.

    The image says of itself what it is, and cannot become a guest: it is for looking at. Pages
    that are lost are BROKEN in it.

    :param source: an image; only of a file can more be had than what comes before the damage.
    :param dest: where the native image goes; codec, plugins, base: as for :func:`xsave.run`.
    :raises StreamError: not even the headers are whole.
    """
    manager = manager or build_manager()
    handlers = manager.handler_table(plugins)
    choice = manager.choose_codec(codec) if codec is not None else None
    with ExitStack() as stack:
        pool = stack.enter_context(Workers())
        reader, position = _open(stack, source, base, manager, pool)
        report = SalvageReport(reader.info, dest_format=DEFAULT_FORMAT)
        report.codec = "" if choice is None else str(choice)
        kept = _Kept(reader, handlers, report)
        watch = Watch(
            manager, handlers, kept, report, position, progress, cancelled, stage="salvage",
            tolerate_missing=True, is_whole=False,
        )  # fmt: skip
        sink = stack.enter_context(open_sink(dest))
        options = WriteOptions(
            codec=choice, codecs=manager.codecs.items(), workers=pool,
            identify=handlers.identify, about=about_us(),
        )  # fmt: skip
        writer = manager.formats.find(DEFAULT_FORMAT).writer(sink, kept.info, options)
        for event, _state in watch.events():
            writer.put(event)
        writer.finish()
        sink.commit()
        report.dest_bytes = sink.offset
        report.plugins = used_plugins(report.records.values())
    return report


def _open(
    stack: ExitStack, where: Any, base: str | Path | None, manager: PluginManager, pool: Workers
) -> tuple[Reader | SalvageReader, Callable[[], tuple[int, int | None]]]:
    earlier = open_base(stack, base)
    source = open_source(where)
    stack.callback(source.close)
    format_, unwrapped = recognise(source, manager)
    options = ReadOptions(PageMode.FULL, manager.codecs.items(), pool, earlier)
    if unwrapped is source and _is_file(where):
        image = stack.enter_context(FileImage(Path(where)))
        found = format_.salvage(image, options)
        if found is not None:
            return found, lambda: (image.size_bytes, image.size_bytes)
    stack.callback(unwrapped.close)
    reader = _UntilDamage(format_.reader(unwrapped, options), unwrapped)
    return reader, lambda: (unwrapped.offset, unwrapped.size_bytes)


def _is_file(where: Any) -> bool:
    return isinstance(where, str | PathLike) and where != "-" and Path(where).is_file()


def _marked(info: ImageInfo) -> ImageInfo:
    """An image keeps under "source" what its first source said about itself: there the mark
    is found again, however often it is copied."""
    details = dict(info.details)
    source = details.get("source")
    if isinstance(source, dict):
        details["source"] = {**source, SALVAGED: True}
    else:
        details[SALVAGED] = True
    return evolve(info, details=details, base="")


class _UntilDamage:
    """A :class:`xsave.SalvageReader` of what comes before the first wrong byte."""

    def __init__(self, reader: Reader, source: Source) -> None:
        self.info: ImageInfo = reader.info
        self._reader = reader
        self._source = source

    def __iter__(self) -> Iterator[Event | Loss]:
        events, end = iter(self._reader), 0
        while True:
            try:
                event = next(events)
            except StopIteration:
                return
            except StreamError as error:
                size = self._source.size_bytes
                rest = 0 if size is None else max(size - end, 0)
                yield Loss("everything from here on", end, rest, str(error), is_exact=False)
                return
            yield event
            end = self._source.offset


class _Kept:
    """A :class:`xsave.Reader` of the events that their handlers do not refuse."""

    def __init__(
        self, reader: Reader | SalvageReader, handlers: HandlerTable, report: SalvageReport
    ) -> None:
        self.info: ImageInfo = _marked(reader.info)
        self._reader = reader
        self._handlers = handlers
        self._report = report

    def __iter__(self) -> Iterator[Event]:
        for event in self._reader:
            if isinstance(event, Loss):
                self._report.add(event)
                continue
            try:
                self._check(event, self._handlers.get(event.type))
            except FieldError as error:
                self._report.add(Loss(event.name, event.offset, 0, str(error)))
                continue
            yield event

    def _check(self, event: Event, handler: Handler | None) -> None:
        """:raises FieldError: it is whole, but wrong."""
        if handler is None:
            return
        if isinstance(event, Record):
            if self.info.guest_type not in handler.guest_types:
                raise FieldError(
                    field="guest type", expected="a guest that can have it",
                    got=self.info.guest_type.value,
                )  # fmt: skip
            if isinstance(handler, RecordHandler):
                handler.decode(memoryview(event.body))
        elif isinstance(handler, MemoryHandler):
            handler.check(event)
