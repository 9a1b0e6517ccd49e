"""An image at a glance: its memory by pfn, its records, and what its handlers say on top."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field

from ..batch import BROKEN, NOTAB, PINNED, TYPE_NAMES, XALLOC, XTAB
from ..errors import FormatError, StreamError
from ..format import PageMode
from ..handler import Highlight, RecordHandler
from ..manager import PluginManager, build_manager
from ..progress import ProgressCallback, RunReport
from ..record import ImageInfo, Record
from ..value_class import define, frozen
from ..workers import Workers
from .inspect import PageCounter, PageStatistics, RecordItem, record_item
from .stream import Watch, open_stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..batch import PageBatch

PFN_LIMIT = 1 << 32  # 16 TiB of guest; what lies above is damage
ROWS_MAX = 64  # of a map
CELLS = 128  # in a row

# What is at a pfn, from what says least to what says most: a cell shows the highest that a
# good part of it is.
ABSENT, ZERO, DATA, EMPTY, TABLE, PINNED_TABLE, LOST = range(7)
CONTENTS = ("absent", "zero", "data", "memory without contents", "page table",
            "pinned page table", "broken")  # fmt: skip


@frozen
class MapRow:
    """Consecutive pfns, cut into cells of equal size.

    :ivar cells: bytes, one for each cell: what prevails in it, as an index of ``CONTENTS``.
    """

    first_pfn: int
    cells: bytes


@frozen
class MemoryMap:
    """:ivar pfns_per_cell: the same in all rows.
    :ivar rows: those that have anything but absent pfns, in order.
    """

    pfns_per_cell: int
    rows: tuple[MapRow, ...]


@define
class Survey:
    """:ivar records: in the order of the image.
    :ivar highlights: what handlers said, in the order in which their records came.
    :ivar types: page type to how many pfns have it in the end; absent ones are left out.
    :ivar contents: as ``CONTENTS``, to how many pfns; absent ones are left out.
    :ivar statistics: of the pages with contents, each mention counted.
    :ivar needs_plugins: whose mandatory records are in it, with how many kinds each.
    """

    info: ImageInfo
    report: RunReport
    records: list[RecordItem] = field(factory=list)
    highlights: list[Highlight] = field(factory=list)
    map: MemoryMap = MemoryMap(1, ())
    types: dict[str, int] = field(factory=dict)
    contents: dict[str, int] = field(factory=dict)
    statistics: PageStatistics = field(factory=PageStatistics)
    needs_plugins: dict[str, int] = field(factory=dict)

    @property
    def nr_present(self) -> int:
        """pfns that have memory."""
        return sum(self.contents.values())


def survey(
    source: Any,
    *,
    plugins: Iterable[str] | None = None,
    manager: PluginManager | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Survey:
    """Read all of an image.

    Memory use: two bytes for each pfn.

    :param source: as for :func:`xsave.run`.
    :raises StreamError: the image is wrong; what was read before is lost.
    """
    manager = manager or build_manager()
    handlers = manager.handler_table(plugins)
    with Workers() as pool:
        opened = open_stream(source, manager, pool, pages=lambda _format: PageMode.FULL)
        try:
            bytes_in = opened.source
            found = Survey(opened.reader.info, RunReport(opened.reader.info))
            watch = Watch(
                manager, handlers, opened.reader, found.report,
                lambda: (bytes_in.offset, bytes_in.size_bytes), progress, cancelled,
                stage="report", tolerate_missing=True,
            )  # fmt: skip
            memory, counter = _Memory(), PageCounter()
            seen: dict[str, Any] = {}
            for event, state in watch.events():
                if not isinstance(event, Record):
                    memory.add(event)
                    counter.add(event)
                    continue
                found.records.append(record_item(event, state, handlers, found.report, seen))
                handler = handlers.get(event.type)
                if isinstance(handler, RecordHandler):
                    found.highlights += handler.highlights(state, seen)
        finally:
            opened.source.close()
    found.statistics = counter.result()
    memory.tell(found)
    for count in found.report.records.values():
        if count.mandatory:
            owner = count.plugin or "unknown"
            found.needs_plugins[owner] = found.needs_plugins.get(owner, 0) + 1
    return found


class _Memory:
    """The latest type and contents of each pfn, in two bytes; memory that was never touched
    costs nothing."""

    def __init__(self) -> None:
        import numpy as np

        self._types = np.zeros(0, np.uint8)  # 15 less the nibble, so that zero is absent
        self._what = np.zeros(0, np.uint8)
        self._of_type = np.full(16, TABLE, np.uint8)
        self._of_type[[NOTAB, BROKEN, XALLOC, XTAB]] = (DATA, LOST, EMPTY, ABSENT)
        self._of_type[PINNED + 1 : PINNED + 5] = PINNED_TABLE

    def add(self, batch: PageBatch) -> None:
        import numpy as np

        from ..pages import carries_page, zero_rows

        if batch.pages is None:
            raise StreamError(f"{batch.name}: pages were not read")
        pfns = batch.pfns.astype(np.intp)
        self._make_room(batch, int(pfns.max(initial=-1)))
        types = batch.types.astype(np.uint8)
        what = self._of_type[types]
        zero = np.zeros(len(types), np.bool_)
        if len(batch.pages):
            zero[carries_page(batch.entries)] = zero_rows(batch.pages)
        what[zero & (what == DATA)] = ZERO
        self._types[pfns] = XTAB - types
        self._what[pfns] = what

    def _make_room(self, batch: PageBatch, highest: int) -> None:

        if highest >= PFN_LIMIT:
            raise FormatError(
                what=f"pfn of {batch.name}", offset=batch.offset,
                expected=f"below {PFN_LIMIT:#x}", got=f"{highest:#x}",
            )  # fmt: skip
        if highest >= len(self._types):
            room = max(highest + 1, 2 * len(self._types), 1 << 16)
            self._types, self._what = _grown(self._types, room), _grown(self._what, room)

    def tell(self, found: Survey) -> None:
        import numpy as np

        types = np.bincount(self._types, minlength=16)
        found.types = {
            TYPE_NAMES[XTAB - kind]: count
            for kind, count in reversed(list(enumerate(types.tolist())))
            if kind and count
        }
        contents = np.bincount(self._what, minlength=len(CONTENTS)).tolist()
        found.contents = {
            name: count for name, count in zip(CONTENTS, contents, strict=True) if count
        }
        found.contents.pop(CONTENTS[ABSENT], None)
        found.map = make_map(self._what)


def _grown(array: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    import numpy as np

    grown = np.zeros(size, np.uint8)
    grown[: len(array)] = array
    return grown


def make_map(what: NDArray[np.uint8]) -> MemoryMap:
    """:param what: (p,) u8, an index of ``CONTENTS`` for each pfn."""
    import numpy as np

    per_cell = 1
    while True:
        per_row = per_cell * CELLS
        rows = np.unique(np.flatnonzero(what) // per_row)
        if len(rows) <= ROWS_MAX:
            break
        per_cell *= 2
    made = []
    for row in rows.tolist():
        part = np.zeros(per_row, np.uint8)
        piece = what[row * per_row : (row + 1) * per_row]
        part[: len(piece)] = piece
        made.append(MapRow(row * per_row, _prevailing(part.reshape(CELLS, per_cell)).tobytes()))
    return MemoryMap(per_cell, tuple(made))


def _prevailing(cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(c,) u8 of (c, pfns): the rarest kind that is at least a quarter of a cell, so that page
    tables among data are seen; else the most frequent one."""
    import numpy as np

    kinds = len(CONTENTS)
    counts = np.stack([(cells == kind).sum(axis=1) for kind in range(kinds)], axis=1)
    enough = counts * 4 >= cells.shape[1]
    rarest = kinds - 1 - np.argmax(enough[:, ::-1], axis=1)
    found = np.where(enough.any(axis=1), rarest, counts.argmax(axis=1))
    return np.asarray(found, np.uint8)


def by_topic(highlights: Iterable[Highlight]) -> Mapping[str, list[Highlight]]:
    """Of several about one thing the last one counts, as in a checkpointed stream."""
    topics: dict[str, dict[str, Highlight]] = {}
    for one in highlights:
        topics.setdefault(one.topic, {})[one.name] = one
    return {topic: list(things.values()) for topic, things in topics.items()}
