"""What differs between two images of one guest: record by record, page by page.

Records are compared by name, and by what their handler says they belong to (the vcpu), or
else by their number; of those that replace each other the last one counts, as when a guest is
restored. Pages are compared as a restored guest would have them: by pfn, the last mention
counts, and a pfn that is not mentioned is as absent as one that is said to be.

Memory use: ten bytes for each pfn of a window of 64 GiB of guest; a larger guest is read once
for each window. Of records, 64 MiB of bodies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field

from ..batch import TYPE_NAMES, XTAB
from ..errors import FormatError, UsageError
from ..format import PageMode
from ..handler import RecordHandler
from ..manager import HandlerTable, PluginManager, build_manager
from ..progress import ProgressCallback, RunReport
from ..record import ImageInfo, Phase, Record, RecordType
from ..value_class import define, frozen
from ..workers import Workers
from .base import open_base
from .inspect import describe_unknown
from .stream import Watch, open_stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..batch import PageBatch

WINDOW_PFNS = 1 << 24  # compared in one reading of both images
PFN_LIMIT = 1 << 32  # 16 TiB of guest; what lies above is damage
KEPT_BYTES = 64 << 20  # of the bodies of one image, to show what differs in them
RANGES_MAX = 1 << 16  # in a report


@frozen
class FieldChange:
    """:ivar path: names and numbers from the record down to the value: ``vcpu/gdt/3``.
    :ivar change: ``changed``, or ``only_a``, ``only_b`` for what the other one lacks.
    :ivar a, b: as JSON values; None where it is lacking.
    """

    path: str
    change: str
    a: Any = None
    b: Any = None


@frozen
class RecordChange:
    """:ivar key: which one of that name: the vcpu, if that is what tells them apart, or its number.
    :ivar size_a, size_b: of the bodies, bytes; None where it is lacking.
    :ivar fields: what differs in a record that both have; empty where ``shown`` is False.
    :ivar shown: False when one of the bodies was too much to keep, or has no fields that
        differ though its bytes do.
    """

    name: str
    key: str
    change: str
    size_a: int | None
    size_b: int | None
    fields: Sequence[FieldChange] = ()
    shown: bool = True


@frozen
class PageRange:
    """Consecutive pfns to which the same happened.

    :ivar change: ``contents``, ``type`` (with the contents or without), ``only_a``,
        ``only_b``.
    :ivar type_a, type_b: names of the page types; None where a pfn is absent.
    """

    first_pfn: int
    nr_pfns: int
    change: str
    type_a: str | None
    type_b: str | None

    def goes_on_with(self, other: PageRange) -> bool:
        """Whether the other one begins where this one ends, and says the same."""
        same = (self.change, self.type_a, self.type_b) == (other.change, other.type_a, other.type_b)
        return same and self.first_pfn + self.nr_pfns == other.first_pfn

    def and_then(self, other: PageRange) -> PageRange:
        return evolve(self, nr_pfns=self.nr_pfns + other.nr_pfns)


@define
class MemoryDiff:
    """Counts are of pfns.

    :ivar ranges: in order of pfn; :ivar ranges_left_out: further ones, beyond the limit.
    """

    same: int = 0
    contents: int = 0
    type: int = 0
    only_a: int = 0
    only_b: int = 0
    ranges: list[PageRange] = field(factory=list)
    ranges_left_out: int = 0

    @property
    def equal(self) -> bool:
        return not (self.contents or self.type or self.only_a or self.only_b)


@define
class DiffReport:
    """:ivar nr_same_records: those that are equal byte for byte.
    :ivar ignored: records that were left out of the comparison, each once.
    """

    a: ImageInfo
    b: ImageInfo
    records: list[RecordChange] = field(factory=list)
    nr_same_records: int = 0
    ignored: list[str] = field(factory=list)
    memory: MemoryDiff = field(factory=MemoryDiff)

    @property
    def equal(self) -> bool:
        same_guest = (self.a.guest_type, self.a.page_size) == (self.b.guest_type, self.b.page_size)
        return same_guest and not self.records and self.memory.equal


def diff(
    a: Any,
    b: Any,
    *,
    ignore: Iterable[str] = (),
    base: str | Path | None = None,
    plugins: Iterable[str] | None = None,
    manager: PluginManager | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
    window_pfns: int = WINDOW_PFNS,
) -> DiffReport:
    """Compare two images.

    :param a, b: as the source of :func:`xsave.run`; one of them may be a pipe, unless the
        guest has more pfns than ``window_pfns``.
    :param ignore: names of records that may differ.
    :param base: the image that one of them, or both, were written against.
    :raises StreamError: one of them is wrong; the message is that of reading it.
    """
    manager = manager or build_manager()
    sides = [
        _Side(where, manager, plugins, frozenset(ignore), base, progress, cancelled, stage)
        for where, stage in ((a, "diff: a"), (b, "diff: b"))
    ]
    left, right = sides
    memory, number = MemoryDiff(), 0
    while True:
        window = _Window(number * window_pfns, window_pfns)
        left.read(window.see_a, window_pfns, first=number == 0)
        right.read(window.see_b, window_pfns, first=number == 0)
        window.add_to(memory)
        later = [other for side in sides for other in side.windows if other > number]
        if not later:
            break
        number = min(later)
    report = DiffReport(left.info, right.info, memory=memory)
    report.ignored = sorted(left.ignored | right.ignored)
    _compare_records(report, left, right)
    return report


class _Side:
    """One of the images: its records, and its pages for whoever looks at them."""

    def __init__(
        self, where: Any, manager: PluginManager, plugins: Iterable[str] | None,
        ignore: frozenset[str], base: str | Path | None, progress: ProgressCallback | None,
        cancelled: Callable[[], bool] | None, stage: str,
    ) -> None:  # fmt: skip
        self.handlers: HandlerTable = manager.handler_table(plugins)
        self.info = ImageInfo("")
        self.records: dict[tuple[str, str], _Kept] = {}
        self.seen: dict[str, Any] = {}  # the latest state of each name, for ``describe``
        self.ignored: set[str] = set()
        self._where = where
        self._manager = manager
        self._ignore = ignore
        self._base = base
        self._progress = progress
        self._cancelled = cancelled
        self._stage = stage
        self._kept_bytes = 0
        self._numbers: dict[str, int] = {}
        self.windows: set[int] = set()  # numbers of those in which it mentions any pfn

    def read(self, see: Callable[[PageBatch], None], window_pfns: int, *, first: bool) -> None:
        """:param first: records are looked at; otherwise pages only."""
        if not first and not _can_be_read_again(self._where):
            raise UsageError(
                f"a guest of more than {window_pfns} pfns is read several times: give files for it"
            )
        with Workers() as pool, ExitStack() as stack:
            opened = open_stream(
                self._where, self._manager, pool, pages=lambda _format: PageMode.FULL,
                base=open_base(stack, self._base),
            )  # fmt: skip
            try:
                self.info = opened.reader.info
                bytes_in = opened.source
                watch = Watch(
                    self._manager, self.handlers, opened.reader, RunReport(self.info),
                    lambda: (bytes_in.offset, bytes_in.size_bytes), self._progress,
                    self._cancelled, stage=self._stage, tolerate_missing=True,
                )  # fmt: skip
                for event, state in watch.events():
                    if not isinstance(event, Record):
                        self._remember_place(event, window_pfns)
                        see(event)
                    elif first:
                        self._keep(event, state)
            finally:
                opened.source.close()

    def _remember_place(self, batch: PageBatch, window_pfns: int) -> None:
        if (pfns := batch.entry_list.pfn_range()) is None:
            return
        low, high = pfns
        if high >= PFN_LIMIT:
            raise FormatError(
                what=f"pfn of {batch.name}", offset=batch.offset,
                expected=f"below {PFN_LIMIT:#x}", got=f"{high:#x}",
            )  # fmt: skip
        if low // window_pfns == high // window_pfns:
            self.windows.add(low // window_pfns)
        else:
            import numpy as np

            self.windows.update(np.unique(batch.pfns // np.uint64(window_pfns)).tolist())

    def _keep(self, record: Record, state: Any) -> None:
        if record.name in self._ignore:
            self.ignored.add(record.name)
            return
        handler = self.handlers.get(record.type)
        number = self._numbers.get(record.name, 0)
        self._numbers[record.name] = number + 1
        label = key = str(number)
        if isinstance(handler, RecordHandler):
            self.seen[record.name] = state
            if handler.phase > Phase.MEMORY:
                told = handler.key(state)
                key = repr(told)
                label = str(told) if isinstance(told, int) else "0"
        before = self.records.pop((record.name, key), None)
        if before is not None and before.body is not None:
            self._kept_bytes -= before.size_bytes
        body = bytes(record.body)
        fits = self._kept_bytes + len(body) <= KEPT_BYTES
        self._kept_bytes += len(body) if fits else 0
        self.records[record.name, key] = _Kept(
            record.type, label, hashlib.sha256(body).digest(), len(body), body if fits else None
        )


def _can_be_read_again(where: Any) -> bool:
    return isinstance(where, str | PathLike) and where != "-" and Path(where).is_file()


@frozen(eq=False)
class _Kept:
    """A record; its body as long as there is room."""

    type: RecordType
    label: str  # which one of its name, for people
    digest: bytes
    size_bytes: int
    body: bytes | None


# -- records -------------------------------------------------------------------------


def _compare_records(report: DiffReport, a: _Side, b: _Side) -> None:
    for name, left, right in _pairs(a.records, b.records):
        if left is not None and right is not None:
            if left.digest == right.digest and left.type.version == right.type.version:
                report.nr_same_records += 1
                continue
            fields = _compare_bodies(a, left, b, right)
            change = RecordChange(
                name, left.label, "changed", left.size_bytes, right.size_bytes, fields,
                shown=bool(fields),
            )  # fmt: skip
        elif left is not None:
            change = RecordChange(name, left.label, "only_a", left.size_bytes, None)
        else:
            assert right is not None
            change = RecordChange(name, right.label, "only_b", None, right.size_bytes)
        report.records.append(change)


def _pairs(
    a: Mapping[tuple[str, str], _Kept], b: Mapping[tuple[str, str], _Kept]
) -> Iterator[tuple[str, _Kept | None, _Kept | None]]:
    """Records of the same name and key; what is left of a name is paired as it comes."""
    lonely: dict[str, list[_Kept]] = {}
    for (name, key), right in b.items():
        if (name, key) not in a:
            lonely.setdefault(name, []).append(right)
    for (name, key), left in a.items():
        found = b.get((name, key))
        if found is None and lonely.get(name):
            found = lonely[name].pop(0)
        yield name, left, found
    for name, rest in lonely.items():
        for right in rest:
            yield name, None, right


def _compare_bodies(a: _Side, left: _Kept, b: _Side, right: _Kept) -> list[FieldChange]:
    if left.body is None or right.body is None:
        return []
    return list(changes(_fields(a, left.type, left.body), _fields(b, right.type, right.body)))


def _fields(side: _Side, kind: RecordType, body: bytes) -> Any:
    handler = side.handlers.get(kind)
    if not isinstance(handler, RecordHandler):
        return describe_unknown(body)
    return handler.describe(handler.decode(memoryview(body)), side.seen)


def changes(a: Any, b: Any, path: str = "") -> Iterator[FieldChange]:
    """What differs between two JSON values, from the top down: objects by name, lists by
    number. A number with its name or bits beside it is one value; so is a text."""
    if a == b and type(a) is type(b):
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping) and not (_number(a) or _number(b)):
        names = [*a, *(name for name in b if name not in a)]
        pairs = [(str(name), a.get(name, _LACKING), b.get(name, _LACKING)) for name in names]
    elif isinstance(a, list) and isinstance(b, list):
        pairs = [
            (str(at), a[at] if at < len(a) else _LACKING, b[at] if at < len(b) else _LACKING)
            for at in range(max(len(a), len(b)))
        ]
    else:
        yield FieldChange(path or "value", "changed", a, b)
        return
    for name, left, right in pairs:
        below = f"{path}/{name}" if path else name
        if left is _LACKING:
            yield FieldChange(below, "only_b", None, right)
        elif right is _LACKING:
            yield FieldChange(below, "only_a", left, None)
        else:
            yield from changes(left, right, below)


_LACKING = object()


def _number(value: Mapping[str, Any]) -> bool:
    """As :mod:`xsave.present` shows one that has a name or bits."""
    return isinstance(value.get("value"), int) and value.keys() <= {"value", "name", "bits"}


# -- pages ---------------------------------------------------------------------------

_ABSENT = XTAB
_SAME, _CONTENTS, _TYPE, _ONLY_A, _ONLY_B = range(5)
_CHANGES = ("same", "contents", "type", "only_a", "only_b")
_EQUAL = 0x80  # beside a type: the contents are those of the other image


class _Window:
    """Some pfns of both images: what the first one has there, and whether the second one has
    the same. A page is remembered as 64 bits of a hash with a key that nobody knew when the
    guest chose its contents."""

    def __init__(self, start: int, nr_pfns: int) -> None:
        import secrets

        import numpy as np

        self.start, self.end = start, start + nr_pfns
        self._key = secrets.token_bytes(16)
        # Zeroes everywhere, which cost nothing until they are written to; so types are kept
        # the other way round.
        self._digests = np.zeros(nr_pfns, np.uint64)
        self._types_a = np.zeros(nr_pfns, np.uint8)
        self._types_b = np.zeros(nr_pfns, np.uint8)
        self._high = 0  # what lies above is absent in both

    def see_a(self, batch: PageBatch) -> None:
        at, types, digests = self._look(batch)
        self._types_a[at] = _ABSENT - types
        self._digests[at] = digests

    def see_b(self, batch: PageBatch) -> None:
        import numpy as np

        at, types, digests = self._look(batch)
        equal = self._digests[at] == digests
        self._types_b[at] = (_ABSENT - types) | np.where(equal, np.uint8(_EQUAL), np.uint8(0))

    def _look(
        self, batch: PageBatch
    ) -> tuple[NDArray[np.intp], NDArray[np.uint8], NDArray[np.uint64]]:
        """Places in this window, types, and what stands for the contents."""
        import numpy as np

        from ..pages import carries_page

        pfns, entries = batch.pfns, batch.entries
        if batch.pages is None:
            raise UsageError(f"{batch.name}: pages were not read")
        digests = np.zeros(len(entries), np.uint64)
        here = (pfns >= np.uint64(self.start)) & (pfns < np.uint64(self.end))
        carries = carries_page(entries)
        rows = np.cumsum(carries) - 1
        wanted = np.flatnonzero(carries & here)
        digests[wanted] = self._hash(batch.pages[rows[wanted]])
        # of several mentions in one batch the last one counts, as numpy assigns in order
        at = (pfns[here] - np.uint64(self.start)).astype(np.intp)
        self._high = max(self._high, int(at.max(initial=-1)) + 1)
        return at, batch.types[here].astype(np.uint8), digests[here]

    def _hash(self, pages: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """(n,) u64, never 0 but for pages of zeroes: those are half of a guest."""
        import numpy as np

        from ..pages import zero_rows

        found = np.zeros(len(pages), np.uint64)
        if not len(pages):
            return found
        others = np.flatnonzero(~zero_rows(pages))
        blake2b, key = hashlib.blake2b, self._key
        joined = b"".join(
            [blake2b(pages[at].data, digest_size=8, key=key).digest() for at in others]
        )
        found[others] = np.frombuffer(joined, np.uint64) | np.uint64(1)
        return found

    def add_to(self, memory: MemoryDiff) -> None:
        import numpy as np

        from ..pages import HAS_PAGE

        step = 1 << 20
        for start in range(0, self._high, step):
            chunk = slice(start, min(start + step, self._high))
            types_a = _ABSENT - self._types_a[chunk]
            types_b = _ABSENT - (self._types_b[chunk] & 0xF)
            equal = self._types_b[chunk] >= _EQUAL
            what = np.full(len(types_a), _CONTENTS, np.uint8)
            what[equal | ~HAS_PAGE[types_a]] = _SAME
            what[types_a != types_b] = _TYPE
            what[(types_b == _ABSENT) & (types_a != _ABSENT)] = _ONLY_A
            what[(types_a == _ABSENT) & (types_b != _ABSENT)] = _ONLY_B
            present = (types_a != _ABSENT) | (types_b != _ABSENT)
            counts = np.bincount(what[present], minlength=len(_CHANGES)).tolist()
            for name, count in zip(_CHANGES, counts, strict=True):
                setattr(memory, name, getattr(memory, name) + count)
            self._add_ranges(
                memory, self.start + start, what, types_a.astype(np.uint8), types_b.astype(np.uint8)
            )

    @staticmethod
    def _add_ranges(
        memory: MemoryDiff, start: int, what: NDArray[np.uint8], types_a: NDArray[np.uint8],
        types_b: NDArray[np.uint8],
    ) -> None:  # fmt: skip
        import numpy as np

        state = what.astype(np.uint32) << 8 | types_a.astype(np.uint32) << 4 | types_b
        state[what == _SAME] = 0
        firsts = np.concatenate(([0], np.flatnonzero(np.diff(state)) + 1))
        ends = np.append(firsts[1:], len(state))
        differs = state[firsts] != 0
        for first, end in zip(firsts[differs].tolist(), ends[differs].tolist(), strict=True):
            found = PageRange(
                start + first, end - first, _CHANGES[what[first]],
                _type_name(int(types_a[first])), _type_name(int(types_b[first])),
            )  # fmt: skip
            if memory.ranges and memory.ranges[-1].goes_on_with(found):
                memory.ranges[-1] = memory.ranges[-1].and_then(found)
            elif len(memory.ranges) < RANGES_MAX:
                memory.ranges.append(found)
            else:
                memory.ranges_left_out += 1


def _type_name(nibble: int) -> str | None:
    return None if nibble == _ABSENT else TYPE_NAMES[nibble]
