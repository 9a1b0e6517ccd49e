"""What is in an image: record by record, field by field; single records; single pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field

from ..batch import TYPE_NAMES
from ..errors import CancelledError, StreamError, UsageError
from ..format import Format, PageFinder, PageMode, Reader, ReadOptions
from ..handler import RecordHandler
from ..io.source import FileImage, open_source
from ..manager import HandlerTable, PluginManager, build_manager
from ..present import to_json
from ..progress import ProgressCallback, RunReport
from ..record import ImageInfo, Record
from ..value_class import define, frozen
from ..workers import Workers
from .base import open_base
from .look import DomainLook, Look, open_domain
from .stream import Watch, open_stream, recognise

if TYPE_CHECKING:
    from ..batch import PageBatch
    from ..pages import Pages

PFNS_MAX = 1 << 16  # asked for at once: 256 MiB of pages
PFN_BITS = 52  # of an entry
HASHES_MAX = 1 << 20  # remembered to tell duplicates apart: 8 MiB


@define
class RecordItem:
    """A record that is not memory.

    :ivar number: which one of that name, from 0.
    :ivar fields: what its handler makes of it; for a record that nobody here understands,
        its CBOR if it is that, else its beginning in hexadecimal.
    """

    name: str
    number: int
    offset: int
    size_bytes: int
    plugin: str
    version: int
    mandatory: bool
    understood: bool
    fields: Any


@define
class MemoryItem:
    """Consecutive batches of pages, taken together. Offsets and pfns as in the stream."""

    name: str
    offset: int
    plugin: str
    nr_batches: int = 0
    nr_pfns: int = 0
    nr_pages: int = 0
    first_pfn: int | None = None
    last_pfn: int | None = None
    types: dict[str, int] = field(factory=dict)


@define
class PageStatistics:
    """Of the pages with contents, each mention counted.

    :ivar nr_duplicate: pages equal to an earlier one that is not zero.
    :ivar estimated: there were too many different pages to remember all: ``nr_duplicate``
        is scaled up from a sample.
    """

    nr_pages: int = 0
    nr_zero: int = 0
    nr_duplicate: int = 0
    estimated: bool = False


@define
class Inspection:
    """All of an image but its page contents. :ivar look: of a domain: how it was looked at."""

    info: ImageInfo
    report: RunReport
    items: list[RecordItem | MemoryItem] = field(factory=list)
    statistics: PageStatistics | None = None
    look: Look | None = None


def inspect(
    source: Any,
    *,
    page_statistics: bool = False,
    base: str | Path | None = None,
    plugins: Iterable[str] | None = None,
    manager: PluginManager | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Inspection:
    """Decode every record of an image, or of a domain as a save would have it now.

    A domain is paused for a moment, so that its state belongs together; its memory is looked at
    while it runs. It runs on as it was.

    :param source: as for :func:`xsave.run`.
    :param page_statistics: also read all page contents, and count zero and equal ones.
    :param base: the image that this one was written against; only contents need it.
    :raises StreamError: the image is wrong; what was read before is lost.
    """
    manager = manager or build_manager()
    handlers = manager.handler_table(plugins)
    mode = PageMode.FULL if page_statistics else PageMode.SKIP
    with Workers() as pool, ExitStack() as stack:
        reader, position = _open(
            stack, source, manager, handlers, pool, mode, base, contents=page_statistics
        )
        report = RunReport(reader.info)
        found = Inspection(reader.info, report)
        looked = isinstance(reader, DomainLook)
        watch = Watch(
            manager, handlers, reader, report, position, progress, cancelled,
            stage="inspect", tolerate_missing=True, is_whole=not looked,
        )  # fmt: skip
        counter = PageCounter() if page_statistics else None
        seen: dict[str, Any] = {}
        for event, state in watch.events():
            if isinstance(event, Record):
                found.items.append(record_item(event, state, handlers, report, seen))
            else:
                _add_batch(found.items, event, handlers)
                if counter is not None:
                    counter.add(event)
        found.statistics = counter.result() if counter is not None else None
        if isinstance(reader, DomainLook):
            found.look = reader.look
    return found


def _open(
    stack: ExitStack, source: Any, manager: PluginManager, handlers: HandlerTable, pool: Workers,
    mode: PageMode, base: str | Path | None = None, *, contents: bool = False,
) -> tuple[Reader, Callable[[], tuple[int, int | None]]]:  # fmt: skip
    """An image, or a look at a domain; and how far it is."""
    domain = open_domain(stack, source, manager, base)
    if domain is not None:
        look = DomainLook(domain, manager, handlers, contents=contents)
        return look, lambda: (0, None)
    opened = open_stream(
        source, manager, pool, pages=lambda _format: mode, base=open_base(stack, base)
    )
    stack.callback(opened.source.close)
    bytes_in = opened.source
    return opened.reader, lambda: (bytes_in.offset, bytes_in.size_bytes)


def record_item(
    record: Record, state: Any, handlers: HandlerTable, report: RunReport, seen: dict[str, Any]
) -> RecordItem:
    handler = handlers.get(record.type)
    owner = handlers.owner_of(record.type)
    understood = isinstance(handler, RecordHandler)
    if isinstance(handler, RecordHandler):
        seen[record.name] = state
        fields = handler.describe(state, seen)
    else:
        fields = describe_unknown(bytes(record.body))
    return RecordItem(
        name=record.name,
        number=report.records[record.name].count - 1,
        offset=record.offset,
        size_bytes=len(record.body),
        plugin=owner.plugin if owner else "",
        version=record.type.version,
        mandatory=record.type.mandatory,
        understood=understood,
        fields=fields,
    )


def describe_unknown(body: bytes) -> Any:
    """A body that nobody here understands: as CBOR if the whole of it is that."""
    import cbor2

    if body and body[0] >> 5 in (4, 5):  # an array or a map; any byte is a CBOR integer
        try:
            value = cbor2.loads(
                body, max_depth=16, allow_indefinite=False, allow_duplicate_keys=False
            )
            if cbor2.dumps(value) == body:
                return {"cbor": to_json(value)}
        except (cbor2.CBORError, ValueError, TypeError, OverflowError):
            pass
    shown = body[:4096].hex()
    return {"hex": shown, "shown_bytes": len(shown) // 2, "size_bytes": len(body)}


class Describer:
    """The fields of one record after the other, for whoever asks by the record alone."""

    def __init__(self, handlers: HandlerTable) -> None:
        self._handlers = handlers
        self._seen: dict[str, Any] = {}

    def __call__(self, record: Record) -> Any:
        """JSON values; None for a record that no handler in use understands."""
        handler = self._handlers.get(record.type)
        if not isinstance(handler, RecordHandler):
            return None
        state = handler.decode(memoryview(record.body))
        self._seen[record.name] = state
        return handler.describe(state, self._seen)


def _add_batch(
    items: list[RecordItem | MemoryItem], batch: PageBatch, handlers: HandlerTable
) -> None:
    last = items[-1] if items else None
    if not isinstance(last, MemoryItem) or last.name != batch.name:
        owner = handlers.owner_of(batch.type)
        last = MemoryItem(batch.name, batch.offset, owner.plugin if owner else "")
        items.append(last)
    last.nr_batches += 1
    last.nr_pfns += batch.nr_pfns
    last.nr_pages += batch.nr_pages
    if (pfns := batch.entry_list.pfn_range()) is None:
        return
    low, high = pfns
    last.first_pfn = low if last.first_pfn is None else min(last.first_pfn, low)
    last.last_pfn = high if last.last_pfn is None else max(last.last_pfn, high)
    for nibble, count in batch.entry_list.type_counts().items():
        name = TYPE_NAMES[nibble]
        last.types[name] = last.types.get(name, 0) + count


class PageCounter:
    """Counts zero and equal pages in bounded memory: when there are too many different
    hashes to remember, only those whose low bits are zero are kept, and counts scaled."""

    def __init__(self) -> None:
        self._statistics = PageStatistics()
        self._seen: set[int] = set()
        self._shift = 0
        self._sampled = self._sampled_pages = 0

    def add(self, batch: PageBatch) -> None:
        import xxhash

        from ..pages import zero_rows

        if batch.pages is None:
            return
        zero = zero_rows(batch.pages)
        self._statistics.nr_pages += len(batch.pages)
        self._statistics.nr_zero += int(zero.sum())
        mask = (1 << self._shift) - 1
        for page in batch.pages[~zero]:
            digest = xxhash.xxh3_64_intdigest(page)
            if digest & mask:
                continue
            if digest in self._seen:
                self._sampled += 1 << self._shift
            else:
                self._seen.add(digest)
        while len(self._seen) > HASHES_MAX:
            self._shift += 1
            mask = (1 << self._shift) - 1
            self._seen = {digest for digest in self._seen if not digest & mask}

    def result(self) -> PageStatistics:
        self._statistics.nr_duplicate = self._sampled
        self._statistics.estimated = self._shift > 0
        return self._statistics


@frozen(eq=False)
class FoundRecord:
    """:ivar state: what its handler decoded; None if nobody here understands it."""

    record: Record
    state: Any
    item: RecordItem


def read_record(
    source: Any,
    name: str,
    number: int = 0,
    *,
    plugins: Iterable[str] | None = None,
    manager: PluginManager | None = None,
) -> FoundRecord:
    """One record of an image, or of a domain; that is paused for a moment only if the record
    is not there before.

    :param number: which one of that name, from 0.
    :raises UsageError: there is no such record; the message lists those there are.
    """
    manager = manager or build_manager()
    handlers = manager.handler_table(plugins)
    with Workers() as pool, ExitStack() as stack:
        reader, position = _open(stack, source, manager, handlers, pool, PageMode.SKIP)
        report = RunReport(reader.info)
        looked = isinstance(reader, DomainLook)
        watch = Watch(
            manager, handlers, reader, report, position, stage="inspect", tolerate_missing=True,
            is_whole=not looked,
        )  # fmt: skip
        seen: dict[str, Any] = {}
        records = set()
        for event, state in watch.events():
            if not isinstance(event, Record):
                continue
            records.add(event.name)
            item = record_item(event, state, handlers, report, seen)
            if event.name == name and item.number == number:
                return FoundRecord(event, state, item)
    what = "domain" if looked else "image"
    counts = report.records.values()
    there = ", ".join(f"{count.name} ({count.count})" for count in counts if count.name in records)
    raise UsageError(f"the {what} has no {name}#{number}; it has: {there or 'no records'}")


def read_pfns(
    source: Any,
    pfns: Sequence[int],
    *,
    base: str | Path | None = None,
    manager: PluginManager | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Mapping[int, tuple[int, Pages | None]]:
    """The latest type and contents of some pfns; of a domain, as they are now: it runs on.

    By the image's index where it has one and lies in a file, so that only the pieces needed
    are read; else by reading all of it.

    :param base: the image that this one was written against.
    :returns: for each pfn that the image mentions: the type nibble, and (1, 4096) u8 or
        None if that type carries no page.
    """
    if len(pfns) > PFNS_MAX:
        raise UsageError(f"at most {PFNS_MAX} pfns at once, not {len(pfns)}")
    pfns = [pfn for pfn in pfns if 0 <= pfn < 1 << PFN_BITS]
    manager = manager or build_manager()
    with ExitStack() as stack:
        domain = open_domain(stack, source, manager, base)
        if domain is not None:
            return DomainLook(domain, manager, manager.handler_table()).pages(pfns)
        earlier = open_base(stack, base)
        if isinstance(source, str | Path) and source != "-" and Path(source).is_file():
            image = stack.enter_context(FileImage(Path(source)))
            finder = _finder(source, image, manager, earlier)
            if finder is not None:
                return finder.find(pfns)
        return _scan_pfns(source, set(pfns), manager, stack, cancelled, earlier)


def _finder(
    path: str | Path, image: FileImage, manager: PluginManager, base: FileImage | None
) -> PageFinder | None:
    with open_source(path) as source:
        format_, unwrapped = recognise(source, manager)
        if unwrapped is not source:
            return None
    return format_.page_finder(image, ReadOptions(codecs=manager.codecs.items(), base=base))


def _scan_pfns(
    source: Any, wanted: set[int], manager: PluginManager, stack: ExitStack,
    cancelled: Callable[[], bool] | None, base: FileImage | None,
) -> Mapping[int, tuple[int, Pages | None]]:  # fmt: skip
    import numpy as np

    from ..pages import carries_page

    def mode(_format: Format) -> PageMode:
        return PageMode.FULL

    pool = stack.enter_context(Workers())
    opened = open_stream(source, manager, pool, pages=mode, base=base)
    stack.callback(opened.source.close)
    asked = np.array(sorted(wanted), np.uint64)
    found: dict[int, tuple[int, Pages | None]] = {}
    for event in opened.reader:
        if cancelled is not None and cancelled():
            raise CancelledError("cancelled")
        if isinstance(event, Record):
            continue
        pfns = event.pfns
        here = np.flatnonzero(np.isin(pfns, asked))
        if not len(here):
            continue
        if event.pages is None:
            raise StreamError(f"{event.name}: pages were not read")
        carries = carries_page(event.entries)
        rows = np.cumsum(carries) - 1
        for at in here.tolist():
            page = event.pages[rows[at] : rows[at] + 1].copy() if carries[at] else None
            found[int(pfns[at])] = (int(event.entries[at]) >> 60, page)
    return found
