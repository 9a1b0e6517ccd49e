"""The pipeline itself: a source yields records, a destination takes them.

``xsave run`` is this function; ``convert`` is a name for it.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from .. import __version__
from ..checkpoint import Checkpoints
from ..errors import (
    BrokenOffError,
    CancelledError,
    UnknownNameError,
    UsageError,
    XsaveError,
)
from ..format import Format, PageMode, Reader, WriteOptions, Writer
from ..handler import RecordHandler
from ..manager import HandlerTable, PluginManager, build_manager
from ..plugin_option import DEST, SOURCE
from ..policy import PrecopyPolicy
from ..progress import ProgressCallback, RunReport, StandbyReport
from ..record import ImageInfo, Phase, Record, RecordType
from ..workers import Workers
from .base import base_to_write, deltas_to_write, open_base
from .ends import (
    Destination,
    DomainAddress,
    DomainDestination,
    ImageDestination,
    domain_address,
    same_file,
)
from .inspect import Describer
from .losses import Losses
from .restore import DomainWriter
from .save import DomainReader
from .stream import Watch, open_stream, used_plugins

if TYPE_CHECKING:
    from ..domain import Domain
    from ..format import Event
    from ..io.source import FileImage

AtRest = Callable[["Domain | None", "Domain | None"], None]

log = logging.getLogger("xsave.run")
DEFAULT_FORMAT = "native"
DEFAULT_POLICY = "fixed"


def run(
    source: Any,
    dest: Any,
    *,
    to: str | None = None,
    codec: str | None = None,
    checksum: str = "",
    plugins: Iterable[str] | None = None,
    options: Mapping[str, str] | None = None,
    add: Mapping[str, bytes] | None = None,
    base: str | Path | None = None,
    deltas: bool | None = None,
    allow_loss: Iterable[str] = (),
    live: bool = True,
    policy: str = DEFAULT_POLICY,
    limit: int = 0,
    then: str | None = None,
    checkpoint: Checkpoints | None = None,
    take_over: bool = False,
    at_rest: AtRest | None = None,
    leave_rest: bool = False,
    workers: int = 0,
    manager: PluginManager | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> RunReport:
    """Take every record from a source to a destination.

    :param source: path, ``"-"`` for standard input, file descriptor, binary file object,
        address of a domain (``sim:pv``), or a :class:`xsave.Domain` or :class:`xsave.Reader`
        of your own.
    :param dest: path, ``"-"`` for standard output, file descriptor, binary file object,
        address of a domain to be made, or a :class:`xsave.Domain` of your own, empty and
        paused. A file appears whole, or not at all; a guest runs only when everything has
        arrived. Domains are closed at the end.
    :param to: name of the destination's format; by default after the suffix of ``dest``,
        else native.
    :param codec: ``NAME[:LEVEL]``; by default bodies stay as the source has them.
    :param checksum: of the destination's pieces, where the format offers a choice.
    :param plugins: whose records may be handled, with what those plugins need; all by
        default. A mandatory record of another plugin stops the run.
    :param options: of plugins, ``PLUGIN.NAME`` to value, as ``xsave plugins`` lists them.
    :param add: records to put in, name to body, where their handlers' order places them.
    :param base: an earlier image of the same guest. That of a source which was written against
        one: what is written is then whole. Otherwise the destination is written against it,
        and holds only what changed since.
    :param deltas: whether pages that come again in the stream may be written as differences,
        where that is smaller and the format can. By default when a guest is saved while it
        runs; of an image, as it has them.
    :param allow_loss: names of mandatory records that may be left out if the destination's
        format has no place for them; ``vendor.thing`` stands for all of its kind too. Without it
        the run stops with a LossError that names all that would be lost.
    :param live: of a domain: send memory while it runs; otherwise pause it first.
    :param policy: ``NAME[:OPTION=VALUE,...]``, decides when a live domain is paused.
    :param limit: bytes a second into the destination; 0 for no limit.
    :param then: what becomes of a source domain when all went well: ``resume``, ``pause``
        or ``destroy``; by default it goes on running, unless it went into another domain:
        then it is destroyed here before it runs there. It goes on running whenever
        something failed.
    :param checkpoint: of a domain: after its first complete state the stream goes on, from one
        checkpoint to the next; ``then`` is ``resume`` unless told otherwise, so that a
        destination domain stays there as a standby, paused.
    :param take_over: of a stream with checkpoints that is read into a domain: let it run once
        the stream is over, orderly or not, as of the last whole checkpoint. Without it the
        guest is complete and stays paused: it must not run twice.
    :param at_rest: called with the source domain and the destination domain (None for an end
        that is an image) when everything has arrived and neither has run on yet: to compare
        them. If it raises, the guest goes on at the source and a domain at the destination is
        destroyed. What it takes is part of the downtime.
    :param leave_rest: of a descriptor or file object whose image lies inside a stream of
        somebody else, who reads on behind it: not one byte more is taken than the image has.
    :param workers: threads for compression; 0 for one a processor.
    :param manager: by default one is built from the installed plugins.
    :param progress: called about ten times a second, and at the end.
    :param cancelled: asked between records; when it says True the run ends with
        CancelledError and leaves nothing behind.
    :raises BrokenOffError: the stream ended after a whole checkpoint, but was not over; a
        guest as of that is at the destination, paused. Not with ``take_over``: then the report
        says so.
    :raises XsaveError: one of its subclasses; nothing is left of the destination. (Of a
        standby that has a whole checkpoint, that is left also when cancelled.)
    """
    manager = manager or build_manager()
    handlers = manager.handler_table(plugins, options)
    choice = manager.choose_codec(codec) if codec is not None else None
    losses = Losses(manager, allow_loss)
    if then not in (None, "resume", "pause", "destroy"):
        raise UnknownNameError(
            kind="fate of the source", name=str(then), known=("destroy", "pause", "resume")
        )
    _refuse_places(source, dest, leave_rest=leave_rest)
    if same_file(base, dest):
        raise UsageError(f"{os.fspath(dest)} is both base and destination")
    with ExitStack() as stack:
        pool = stack.enter_context(Workers(workers))
        dest_address = domain_address(dest, manager)
        format_ = choose_format(manager, to, dest)
        origin = domain_address(source, manager)
        _refuse_idle_options(manager, options or {}, {SOURCE: origin, DEST: dest_address})
        _refuse_without_ends(origin, dest_address, checkpoint, take_over=take_over)
        into = format_ if dest_address is None else None
        sends_again = origin is not None and (live or checkpoint is not None)
        deltas = deltas_to_write(deltas, into, live=sends_again)
        earlier = open_base(stack, base)
        if origin is None:
            carry = into is not None and choice is None and earlier is None and deltas is None
            reader, position = _open_image(
                stack, source, manager, pool, into if carry else None, earlier,
                leave_rest=leave_rest,
            )  # fmt: skip
        needed = origin is None and bool(reader.info.base)
        write_options = WriteOptions(
            codec=choice,
            codecs=manager.codecs.items(),
            workers=pool,
            identify=handlers.identify,
            checksum=checksum,
            about=about_us(),
            deltas=deltas,
            describe=Describer(handlers),
            base=None if needed else base_to_write(earlier, into),
        )
        end: Destination = (
            DomainDestination(stack, dest_address, manager, handlers, limit)
            if dest_address is not None
            else ImageDestination(stack, dest, format_, write_options, limit)
        )
        saving: DomainReader | None = None
        if origin is not None:
            saving = _open_domain(
                stack, origin, manager, handlers, manager.choose_policy(policy) if live else None,
                end.taken_bytes, checkpoint, cancelled,
            )  # fmt: skip
            reader, position = saving, lambda: (end.taken_bytes(), None)
        writer = end.open(reader.info)
        report = RunReport(
            reader.info, dest_format=end.name, codec="" if choice is None else str(choice)
        )
        report.save = saving.report if saving is not None else None
        watch = Watch(
            manager, handlers, reader, report, position, progress, cancelled, stage="run",
            remaining=(lambda: None) if saving is None else saving.remaining,
        )  # fmt: skip
        additions = Additions(manager, handlers, reader.info, add or {})
        broke = ""
        try:
            _pump(watch, additions, writer, end, losses, goes_on=checkpoint is not None)
        except XsaveError as error:
            broke = _stand_by(end, error, saving, take_over=take_over)
        if isinstance(writer, DomainWriter):
            report.arrived = writer.figures()
        report.standby = _settle(
            saving, end, _fate(then, saving, end, checkpoint), at_rest, broke, take_over=take_over
        )
        report.dest_bytes = end.taken_bytes()
        _count(report, losses, is_domain=saving is not None)
        _count_left_out(writer.left_out, manager, report)
    _log(report)
    return report


def _count(report: RunReport, losses: Losses, *, is_domain: bool) -> None:
    report.lost = losses.lost
    report.plugins = used_plugins(report.records.values())
    if is_domain:  # what was read of the guest: the reader itself has no bytes
        bodies = sum(count.body_bytes for count in report.records.values())
        report.source_bytes = report.nr_pages * report.source.page_size + bodies


def _refuse_places(source: Any, dest: Any, *, leave_rest: bool) -> None:
    if same_file(source, dest):
        raise UsageError(f"{os.fspath(source)} is both source and destination")
    if leave_rest and not (isinstance(source, int) or hasattr(source, "read")):
        raise UsageError("leave_rest is about a descriptor or a file object as the source")


def _refuse_idle_options(
    manager: PluginManager, options: Iterable[str], ends: Mapping[str, DomainAddress | None]
) -> None:
    """:raises UsageError: an option could do nothing here."""
    for key in options:
        about = manager.find_option(key).ends
        if not any(ends[end] for end in about):
            raise UsageError(
                f"option {key} is about a domain as {' or '.join(about)}, and here it is an image"
            )


def _count_left_out(names: Sequence[str], manager: PluginManager, report: RunReport) -> None:
    for name in names:
        entry = manager.handlers.get(name)
        if entry is not None and entry.item.phase is Phase.HEADER:
            report.headers_left_out.append(name)
        else:
            report.left_out[name] = report.left_out.get(name, 0) + 1


def _refuse_without_ends(
    source: DomainAddress | None, dest: DomainAddress | None, checkpoint: Checkpoints | None, *,
    take_over: bool,
) -> None:  # fmt: skip
    """:raises UsageError: what was asked for is about ends that are not there."""
    if checkpoint is not None and source is None:
        raise UsageError("checkpoints are made of a domain, and the source is none")
    if take_over and (dest is None or source is not None):
        raise UsageError("to take over is for a domain that a stream with checkpoints is read into")


def _stand_by(
    end: Destination, error: XsaveError, saving: DomainReader | None, *, take_over: bool
) -> str:
    """The run failed. Where a whole checkpoint had come by then, the guest is kept as of that.

    :returns: how the stream ended, where it shall take over all the same.
    :raises XsaveError: in every other case.
    """
    if not isinstance(end, DomainDestination) or not end.fall_back():
        raise error
    standby = _standby(end, str(error))
    if standby is None:
        raise error
    if isinstance(error, CancelledError):
        raise CancelledError(
            f"{error}; {standby.name} is complete as of checkpoint {standby.nr_checkpoints}, "
            "and paused"
        ) from error
    if not take_over or saving is not None:
        raise _broke_off(standby) from error
    return standby.broke


def _broke_off(standby: StandbyReport) -> BrokenOffError:
    return BrokenOffError(
        name=standby.name, nr_checkpoints=standby.nr_checkpoints, reason=standby.broke
    )


def _standby(end: Destination, broke: str) -> StandbyReport | None:
    """:returns: None for a destination that is no standby."""
    if not isinstance(end, DomainDestination) or not end.nr_checkpoints or end.domain is None:
        return None
    if not broke and not end.ended:
        broke = "it stops at a checkpoint, and does not say that it is over"
    return StandbyReport(end.domain.info.name, end.nr_checkpoints, broke)


def _fate(
    then: str | None, saving: DomainReader | None, end: Destination, checkpoint: Checkpoints | None
) -> str:
    """What becomes of a source domain, where it was not said: it moves, or runs on."""
    moves = saving is not None and isinstance(end, DomainDestination) and checkpoint is None
    return then or ("destroy" if moves else "resume")


def _settle(
    saving: DomainReader | None, end: Destination, fate: str, at_rest: AtRest | None, broke: str,
    *, take_over: bool,
) -> StandbyReport | None:  # fmt: skip
    """Everything that will come has come: let one of the two ends run.

    :raises BrokenOffError: that is not for us to decide.
    """
    standby = _standby(end, broke)
    starts = standby is None or take_over if saving is None else fate != "resume"
    if standby is not None and standby.broke and not starts:
        raise _broke_off(standby)
    _hand_over(saving, end, fate, at_rest, starts=starts)
    return None if standby is None else evolve(standby, running=starts)


def _hand_over(
    saving: DomainReader | None,
    end: Destination,
    fate: str,
    at_rest: AtRest | None,
    *,
    starts: bool,
) -> None:
    """The guest must run in one place: it ends here before it begins there.

    :param starts: whether it runs there.
    """
    there = end.domain if isinstance(end, DomainDestination) else None
    if saving is not None:
        saving.lap_finish()
    if at_rest is not None:
        _look(saving, end, at_rest)
    if saving is not None:
        saving.release(fate)
    if there is not None and starts and not (saving is not None and saving.found_at_rest):
        there.resume()
        if saving is not None:
            saving.lap_finish()


def _look(saving: DomainReader | None, end: Destination, at_rest: AtRest) -> None:
    there = end if isinstance(end, DomainDestination) else None
    try:
        at_rest(saving.domain if saving else None, there.domain if there else None)
    except BaseException:
        if there is not None:
            there.give_up()
        raise
    if saving is not None:
        saving.lap_proof()


def _open_domain(
    stack: ExitStack, address: DomainAddress, manager: PluginManager, handlers: HandlerTable,
    policy: PrecopyPolicy | None, sent_bytes: Callable[[], int],
    checkpoints: Checkpoints | None, cancelled: Callable[[], bool] | None,
) -> DomainReader:  # fmt: skip
    domain = address.backend.open(address.rest)
    stack.callback(domain.close)
    reader = DomainReader(
        domain, manager, handlers, policy, sent_bytes, checkpoints=checkpoints, cancelled=cancelled
    )
    stack.callback(reader.release, "resume")  # does nothing after it was released
    return reader


def _pump(
    watch: Watch, additions: Additions, writer: Writer, end: Destination, losses: Losses, *,
    goes_on: bool,
) -> None:  # fmt: skip
    """Everything from the source into the destination, which is complete then.

    :param goes_on: there may be no end; so what would be lost is not counted up to there.
    """

    def put(event: Event) -> None:
        losses.put(writer, event, end.drop)
        if goes_on:
            losses.finish()

    for event, _state in watch.events():
        for record in additions.before(event):
            put(record)
        put(event)
        del event  # the next one's pages come into the same memory, which a cache still holds
    for record in additions.rest():
        put(record)
    losses.finish()
    writer.finish()
    end.commit()


def _open_image(
    stack: ExitStack, source: Any, manager: PluginManager, pool: Workers, dest: Format | None,
    base: FileImage | None, *, leave_rest: bool,
) -> tuple[Reader, Callable[[], tuple[int, int | None]]]:  # fmt: skip
    """:param dest: into which bodies may be carried as they are; None where pages are needed."""
    if hasattr(source, "info") and hasattr(source, "__iter__"):
        return source, lambda: (0, None)

    def mode(format_: Format) -> PageMode:
        same = dest is not None and format_.name == dest.name
        return PageMode.CARRY if same else PageMode.FULL

    opened = open_stream(source, manager, pool, pages=mode, base=base, leave_rest=leave_rest)
    stack.callback(opened.source.close)
    bytes_in = opened.source
    return opened.reader, lambda: (bytes_in.offset, bytes_in.size_bytes)


def choose_format(manager: PluginManager, to: str | None, dest: Any) -> Format:
    """By name, else by the suffix of a path, else native.

    :raises UsageError: it is unknown, or cannot be written.
    """
    if to is None:
        suffix = Path(dest).suffix if isinstance(dest, str | os.PathLike) else ""
        by_suffix = [e.item for e in manager.formats if suffix and suffix in e.item.suffixes]
        format_ = by_suffix[0] if by_suffix else manager.formats.find(DEFAULT_FORMAT)
    else:
        format_ = manager.formats.find(to)
    if not format_.writable:
        known = sorted(entry.item.name for entry in manager.formats if entry.item.writable)
        raise UnknownNameError(kind="format for writing", name=format_.name, known=known)
    return format_


def about_us() -> dict[str, str]:
    """Writer and time, for formats that record them. ``SOURCE_DATE_EPOCH`` fixes the time,
    so that the same image can be made twice."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = (
        datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
        if epoch is not None and epoch.isdigit()
        else datetime.datetime.now(datetime.UTC)
    )
    return {"writer": f"xsave {__version__}", "created": now.strftime("%Y-%m-%dT%H:%M:%SZ")}


class Additions:
    """Records that are put in where their handlers' order places them."""

    def __init__(
        self, manager: PluginManager, handlers: HandlerTable, info: ImageInfo,
        add: Mapping[str, bytes],
    ) -> None:  # fmt: skip
        self._places = {name: place for place, name in enumerate(manager.record_order())}
        self._waiting: list[Record] = []
        for name, body in add.items():
            entry = manager.handlers.get(name)
            if entry is None or handlers.get(RecordType(name)) is None:
                known = [n for n in manager.handlers.names() if handlers.get(RecordType(n))]
                raise UnknownNameError(kind="record in the chosen plugins", name=name, known=known)
            handler = entry.item
            if not isinstance(handler, RecordHandler) or info.guest_type not in handler.guest_types:
                raise UsageError(f"{name} cannot be added to an image of this kind of guest")
            try:
                handler.decode(memoryview(body))
            except Exception as error:
                raise UsageError(f"the body given for {name} is wrong: {error}") from error
            kind = RecordType(name, handler.version, handler.mandatory, entry.owner)
            self._waiting.append(Record(kind, body))
        self._waiting.sort(key=lambda record: self._places[record.name])

    def before(self, event: Event) -> Sequence[Record]:
        """Those whose place is before this event: it is the first of a later place."""
        if not self._waiting:
            return ()
        place = self._places.get(event.name, -1)
        due = [record for record in self._waiting if self._places[record.name] < place]
        self._waiting = self._waiting[len(due) :]
        return due

    def rest(self) -> Sequence[Record]:
        rest, self._waiting = self._waiting, []
        return rest


def _log(report: RunReport) -> None:
    log.info(
        "%s -> %s: %d records, %d pages in %.2f s",
        report.source.format,
        report.dest_format,
        sum(count.count for count in report.records.values()),
        report.nr_pages,
        report.elapsed_s,
    )
    for name in report.carried:
        log.warning("%s is carried unchanged: no plugin in use understands it", name)
    for name in report.headers_left_out:
        log.info("%s is not part of format %s", name, report.dest_format)
    for remark in report.remarks:
        log.warning("%s", remark.text)
    for name, count in report.lost.items():
        log.warning("%s is lost, as allowed, %d times: %s has no place for it", name, count,
                    report.dest_format)  # fmt: skip
    for name, count in report.left_out.items():
        log.warning("%s was left out %d times: %s has no place for it", name, count,
                    report.dest_format)  # fmt: skip
