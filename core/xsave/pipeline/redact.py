"""An image that keeps how its guest is built, and loses what the guest worked with.

For bug reports, and for images that tests may keep. What stays is said by those who know
it: each handler for its record, and the memory handler for pages; whatever nobody speaks for
goes. The image is read several times: for the records, for page tables, and to be written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field

from ..errors import UsageError
from ..format import PageMode
from ..handler import MemoryHandler, RecordHandler, Redaction
from ..manager import HandlerTable, PluginManager, build_manager
from ..progress import ProgressCallback, RunReport
from ..record import ImageInfo, Record
from ..value_class import define
from ..workers import Workers
from .diff import changes
from .inspect import PFNS_MAX, read_pfns
from .run import run
from .stream import Watch, open_stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..batch import PageBatch
    from ..format import Event, Reader
    from ..pages import Entries, Pages

REDACTED = "redacted"  # in the details of such an image


@define
class RedactReport:
    """What stayed, and what went.

    :ivar kept: records, by name, whole; :ivar left_out: records of which nothing stayed, with
        how many there were.
    :ivar cleaned: record to the fields that were erased; numbers in a path stand for all.
    :ivar pages: what pages that were kept are, to how many there are.
    :ivar nr_erased: pages whose contents went; they are all zeroes now.
    """

    run: RunReport
    kept: list[str] = field(factory=list)
    cleaned: dict[str, list[str]] = field(factory=dict)
    left_out: dict[str, int] = field(factory=dict)
    pages: dict[str, int] = field(factory=dict)
    nr_erased: int = 0


def redact(
    source: Any,
    dest: Any,
    *,
    to: str | None = None,
    codec: str | None = None,
    plugins: Iterable[str] | None = None,
    manager: PluginManager | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> RedactReport:
    """Write an image without its guest's data.

    :param source: path of an image, since it is read several times.
    :param dest, to, codec, plugins: as for :func:`xsave.run`; records of other plugins, and
        records that no plugin understands, are left out.
    :raises UsageError: the source is not a file.
    """
    if not isinstance(source, str | PathLike) or source == "-" or not Path(source).is_file():
        raise UsageError(f"{source}: an image to be redacted is read several times: give a file")
    manager = manager or build_manager()
    handlers = manager.handler_table(plugins)
    structure = _structure(source, manager, handlers, cancelled)
    with Workers() as pool:
        opened = open_stream(source, manager, pool, pages=lambda _format: PageMode.FULL)
        try:
            reader = _Redacting(opened.reader, handlers, structure)
            done = run(
                reader, dest, to=to, codec=codec, plugins=plugins, manager=manager,
                progress=progress, cancelled=cancelled,
            )  # fmt: skip
        finally:
            opened.source.close()
    reader.report.run = done
    return reader.report


class _Structure:
    """Which pages are kept beside those kept for their type.

    :ivar kinds: names, by number from 1.
    """

    def __init__(self, found: Mapping[str, Entries]) -> None:
        import numpy as np

        self.kinds = ["", *found]
        pfns = [np.asarray(one, np.uint64) for one in found.values()]
        numbers = [np.full(len(one), at + 1, np.uint8) for at, one in enumerate(pfns)]
        joined = np.concatenate(pfns) if pfns else np.zeros(0, np.uint64)
        self._pfns, first = np.unique(joined, return_index=True)
        self._numbers = (np.concatenate(numbers) if numbers else np.zeros(0, np.uint8))[first]
        self._mentions = np.zeros(len(self._pfns), np.int64)

    def count(self, batch: PageBatch) -> None:
        """This batch will come again."""
        import numpy as np

        at, there = self._find(batch.pfns)
        np.add.at(self._mentions, at[there], 1)

    def kinds_of(self, pfns: Entries) -> NDArray[np.uint8]:
        """(n,) u8 for one batch after the other, in the order in which they were counted: 0,
        or what this page is if this is its last mention. What was there before may have been
        anything."""
        import numpy as np

        at, there = self._find(pfns)
        rows = np.flatnonzero(there)
        # numpy's unique gives first places: of the batch turned round these are the last ones
        latest, last = np.unique(at[rows][::-1], return_index=True)
        counts = np.bincount(at[rows], minlength=len(self._mentions))
        self._mentions -= counts
        found = np.zeros(len(pfns), np.uint8)
        final = self._mentions[latest] == 0
        found[rows[len(rows) - 1 - last[final]]] = self._numbers[latest[final]]
        return found

    def _find(self, pfns: Entries) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        import numpy as np

        if not len(self._pfns):
            return np.zeros(len(pfns), np.intp), np.zeros(len(pfns), np.bool_)
        at = np.minimum(np.searchsorted(self._pfns, pfns), len(self._pfns) - 1)
        return at, self._pfns[at] == pfns


def _structure(
    source: Any, manager: PluginManager, handlers: HandlerTable,
    cancelled: Callable[[], bool] | None,
) -> _Structure:  # fmt: skip
    memory: MemoryHandler | None = None
    wanted = {
        name
        for entry in manager.handlers
        if isinstance(entry.item, MemoryHandler)
        for name in entry.item.structure_from
    }
    states: dict[str, list[Any]] = {}
    for event, state in _events(source, manager, handlers, cancelled):
        if isinstance(event, Record):
            if event.name in wanted and state is not None:
                states.setdefault(event.name, []).append(state)
        else:
            found = handlers.get(event.type)
            memory = found if isinstance(found, MemoryHandler) else memory
    if memory is None:
        return _Structure({})
    finder = _Finder(source, manager, cancelled)
    structure = _Structure(memory.structure(states, finder.find))
    for event, _state in _events(source, manager, handlers, cancelled):
        if not isinstance(event, Record):
            structure.count(event)
    return structure


def _events(
    source: Any, manager: PluginManager, handlers: HandlerTable,
    cancelled: Callable[[], bool] | None,
) -> Iterator[tuple[Event, Any]]:  # fmt: skip
    """Without contents of pages."""
    with Workers() as pool:
        opened = open_stream(source, manager, pool, pages=lambda _format: PageMode.SKIP)
        try:
            bytes_in = opened.source
            watch = Watch(
                manager, handlers, opened.reader, RunReport(opened.reader.info),
                lambda: (bytes_in.offset, bytes_in.size_bytes), cancelled=cancelled,
                stage="redact", tolerate_missing=True,
            )  # fmt: skip
            yield from watch.events()
        finally:
            opened.source.close()


class _Finder:
    def __init__(
        self, source: Any, manager: PluginManager, cancelled: Callable[[], bool] | None
    ) -> None:
        self._source = source
        self._manager = manager
        self._cancelled = cancelled

    def find(self, pfns: Entries) -> tuple[Entries, Pages]:
        """See :data:`xsave.FindPages`."""
        import numpy as np

        there: list[int] = []
        pages: list[Pages] = []
        wanted = pfns.tolist()
        for start in range(0, len(wanted), PFNS_MAX):
            part = wanted[start : start + PFNS_MAX]
            found = read_pfns(self._source, part, manager=self._manager, cancelled=self._cancelled)
            for pfn in part:
                page = found.get(pfn, (0, None))[1]
                if page is not None:
                    there.append(pfn)
                    pages.append(page)
        joined = np.concatenate(pages) if pages else np.zeros((0, 4096), np.uint8)
        return np.array(there, np.uint64), joined


class _Redacting:
    """A :class:`xsave.Reader` of what is left of another one's events."""

    def __init__(self, reader: Reader, handlers: HandlerTable, structure: _Structure) -> None:
        self._reader = reader
        self._handlers = handlers
        self._structure = structure
        self._seen: dict[str, Any] = {}
        # of the details those that are numbers: a name or a path tells more than it should
        details = {k: v for k, v in reader.info.details.items() if isinstance(v, int)}
        self.info: ImageInfo = evolve(reader.info, details={**details, REDACTED: True})
        self.report = RedactReport(RunReport(self.info))

    def __iter__(self) -> Iterator[Event]:
        for event in self._reader:
            made = self._record(event) if isinstance(event, Record) else self._batch(event)
            if made is not None:
                yield made

    def _record(self, record: Record) -> Record | None:
        handler = self._handlers.get(record.type)
        if not isinstance(handler, RecordHandler) or handler.redaction is Redaction.LEFT_OUT:
            self.report.left_out[record.name] = self.report.left_out.get(record.name, 0) + 1
            return None
        state = handler.decode(memoryview(record.body))
        self._seen[record.name] = state
        body = bytes(record.body)
        if handler.redaction is Redaction.KEPT:
            if record.name not in self.report.kept:
                self.report.kept.append(record.name)
        else:
            cleaned = handler.redact(state, self._seen)
            body = b"".join(handler.encode(cleaned))
            self._tell_fields(record.name, handler, state, cleaned)
        return Record(record.type, body, record.offset)

    def _tell_fields(self, name: str, handler: RecordHandler[Any], before: Any, after: Any) -> None:
        """Paths of what differs, with ``*`` for numbers: one line for all vcpus or pages."""
        told = self.report.cleaned.setdefault(name, [])
        fields = (handler.describe(state, self._seen) for state in (before, after))
        for one in changes(*fields):
            path = "/".join("*" if part.isdigit() else part for part in one.path.split("/"))
            if path not in told:
                told.append(path)

    def _batch(self, batch: PageBatch) -> PageBatch | None:
        import numpy as np

        from ..batch import PageBatch
        from ..pages import PFN_MASK, TYPE_SHIFT, carries_page

        handler = self._handlers.get(batch.type)
        if not isinstance(handler, MemoryHandler) or batch.pages is None:
            self.report.left_out[batch.name] = self.report.left_out.get(batch.name, 0) + 1
            return None
        # bits 59-52 mean nothing, so that anything may stand there
        entries = batch.pfns | (batch.types << TYPE_SHIFT)
        kinds = self._structure.kinds_of(entries & PFN_MASK)
        carries = carries_page(entries)
        types = batch.types[carries].astype(np.uint8)
        kinds = kinds[carries]
        by_type = np.isin(types, sorted(handler.structural_types))
        pages = np.zeros((len(types), batch.pages.shape[1] if len(types) else 4096), np.uint8)
        for number, kind in enumerate(self._structure.kinds):
            rows = np.flatnonzero(by_type if number == 0 else (kinds == number) & ~by_type)
            if len(rows):
                kept = batch.pages[rows].copy()
                handler.redact(kind, kept)
                pages[rows] = kept
                name = kind or "page tables"
                self.report.pages[name] = self.report.pages.get(name, 0) + len(rows)
        self.report.nr_erased += int(np.count_nonzero(~by_type & (kinds == 0)))
        return PageBatch(batch.type, entries, pages, len(pages), batch.offset)
