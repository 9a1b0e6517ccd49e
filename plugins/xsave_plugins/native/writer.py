"""Events in, a native image out; one pass, bounded memory.

The way of a batch: zero pages are found and cost nothing; pages equal to one stored
lately are named; the rest is stored, compressed and checksummed by the workers, and
written in the order in which it came. So the bytes do not depend on how many workers
there are.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xsave import (
    PFN_MASK,
    Buffer,
    ByteSink,
    CodecChoice,
    Entries,
    ImageInfo,
    OutputError,
    Pages,
    ReadOptions,
    Record,
    RecordType,
    UsageError,
    WriteOptions,
    carries_page,
    frozen,
)

from . import spec
from .delta_table import Deltas, pack_deltas
from .earlier import Earlier
from .format import MAGIC
from .pieces import Needs
from .shelf import Keeper
from .window import Fingerprints, Window, survey

if TYPE_CHECKING:
    from xsave import Event, PageBatch

    from .base import Base

PAGE_SIZE = 4096


@frozen
class Packed:
    """A body as it lies in an image: the codec's name ("" for none), bytes, checksum and
    the checksum's name."""

    codec: str
    body: Buffer
    sum: bytes
    checksum: str


@frozen
class CarriedBatch:
    """A batch as it lies in a native image, for an image with the same numbering."""

    window: int
    base: int
    stored: int  # pages
    packed: Packed
    packed_table: tuple[bytes, int, int]
    deltas: Deltas | None
    needs: Needs
    origin: object  # the same for all batches of one reader


@frozen
class _Pending:
    """A piece whose body is being made."""

    kind: int
    number: int
    head: dict[str, Any]
    table: bytes
    packed: Callable[[], Packed]
    page_body: bool
    first_pfn: int
    last_pfn: int
    base: int

    @property
    def size(self) -> int:
        """Bytes held until it is written, about."""
        body = self.head["stored"] * PAGE_SIZE if self.kind == spec.PAGES else self.head["size"]
        return int(body) + len(self.table)


class NativeWriter:
    def __init__(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> None:
        if info.page_size != PAGE_SIZE:
            raise UsageError(f"version 1 images have pages of 4096 bytes, not {info.page_size}")
        self.left_out: list[str] = []
        self._sink = sink
        self._options = options
        self._checksum = spec.check_checksum_name(options.checksum or spec.DEFAULT_CHECKSUM)
        self._window_size = spec.WINDOW
        if (carried := info.details.get("window")) and isinstance(carried, int):
            self._window_size = carried  # what is carried over counts in its own window
        self._window = Window(self._window_size)
        self._prints = Fingerprints(self._window_size)
        self._next_page = 0  # number of the next page stored
        self._base = self._open_base()
        self._needs = self._decide_needs(info)
        self._keeper: Keeper | None = None
        if self._needs.nr_places and self._compresses:
            self._keeper = Keeper(self._needs.nr_places)
        self._carried_from: object = None  # whose batches were carried so far, one after the other
        self._nr_batches = 0
        self._seal = hashlib.sha256()
        self._types: dict[tuple[str, int], int] = {}
        self._type_heads: list[dict[str, Any]] = []
        self._index = bytearray()  # rows as they will lie there: it grows with every piece
        self._pending: deque[_Pending] = deque()
        self._nr_pieces = 0
        self._origin = sink.offset
        self._write_header(info)

    @property
    def _compresses(self) -> bool:
        choice = self._options.codec
        return choice is not None and choice.codec.name != "none"

    def _open_base(self) -> Base | None:
        if self._options.base is None:
            return None
        from .base import Base

        return Base(self._options.base, ReadOptions(codecs=self._options.codecs))

    def _decide_needs(self, info: ImageInfo) -> Needs:
        """A shelf where it was asked for and a codec can make use of it, or where what comes
        was made with one."""
        shelf, base = info.details.get("shelf"), info.details.get("base")
        nr_places = spec.SHELF if self._options.deltas and self._compresses else 0
        if isinstance(shelf, int) and self._options.deltas is not False:
            nr_places = shelf
        seal = b"" if self._base is None else self._base.seal
        if isinstance(base, dict) and self._base is None:
            seal = base["seal"]  # bodies are carried over, and still need it
        return Needs(nr_places, seal)

    def _write_header(self, info: ImageInfo) -> None:
        head = spec.dump(
            {
                **self._options.about,
                "guest": {
                    "type": info.guest_type.value,
                    "page_size": info.page_size,
                    "xen_version": info.xen_version,
                    "word_size": info.word_size,
                },
                "source": source_of(info),
                "checksum": self._checksum,
                "window": self._window_size,
                **header_of(self._needs),
            }
        )
        if len(head) > spec.HEAD_MAX:
            raise OutputError("what the source says about itself does not fit into a header")
        version = spec.VERSION_WITH_NEEDS if self._needs.names else spec.VERSION
        fixed = spec.HEADER.pack(MAGIC, *version, len(head))
        total = spec.HEADER_SUM.pack(spec.head_sum(fixed, head))
        self._seal_and_put([fixed, total, head, bytes(-len(head) & 7)], [])

    def _seal_and_put(self, sealed: list[Buffer], rest: list[Buffer]) -> None:
        for part in sealed:
            self._seal.update(part)
        self._sink.put([*sealed, *rest])

    # -- events ----------------------------------------------------------------------

    def put(self, event: Event) -> None:
        number = self._type_number(self._options.identify(event.type))
        pending = (
            self._start_record(event, number)
            if isinstance(event, Record)
            else self._start_batch(event, number)
        )
        self._pending.append(pending)
        # Enough to keep the workers busy; each one waiting holds a batch in memory.
        while len(self._pending) > self._options.workers.nr_threads + 1 or (
            len(self._pending) > 1 and sum(one.size for one in self._pending) > spec.AHEAD_BYTES
        ):
            self._write_piece(self._pending.popleft())
        if isinstance(event, Record) and not len(event.body):
            # A mark says something about all before it, such as that a checkpoint is whole:
            # whoever reads along shall know at once.
            self._write_pending()

    def finish(self) -> None:
        self._write_pending()
        index_offset = self._offset
        packed = self._plain(self._index)
        nr_rows = len(self._index) // spec.INDEX_ROW.itemsize
        head = {"types": self._type_heads, "rows": nr_rows, "sum": packed.sum}
        self._put_piece(spec.INDEX, head, b"", packed.body, spec.ALIGNMENT)
        end_offset = self._offset
        seal = self._seal.digest()
        end = {"seal": seal, "pieces": self._nr_pieces, "index": index_offset}
        self._put_piece(spec.END, end, b"", b"", spec.ALIGNMENT)
        self._sink.put([spec.TAIL.pack(end_offset, spec.TAIL_MAGIC)])

    @property
    def _offset(self) -> int:
        return self._sink.offset - self._origin

    def _type_number(self, kind: RecordType) -> int:
        """The small number that stands for a record's name in this image only."""
        key = (kind.name, kind.version)
        if (number := self._types.get(key)) is not None:
            return number
        number = self._types[key] = len(self._types)
        head = {
            "number": number,
            "name": kind.name,
            "version": kind.version,
            "mandatory": kind.mandatory,
            "plugin": kind.owner.plugin if kind.owner else "",
            "distribution": kind.owner.distribution if kind.owner else "",
        }
        self._type_heads.append(head)
        # a type is defined before the first piece that uses it, and pieces keep their order
        self._write_pending()
        self._put_piece(spec.TYPE, head, b"", b"", spec.ALIGNMENT)
        return number

    def _start_record(self, record: Record, number: int) -> _Pending:
        size = len(record.body)
        if size > spec.RECORD_MAX:
            raise OutputError(f"{record.name} has {size} bytes; an image takes {spec.RECORD_MAX}")
        head: dict[str, Any] = {"type": number, "size": size}
        if record.padding:
            head["padding"] = record.padding
        return _Pending(
            spec.RECORD, number, head, b"", self._pack_record(record), False,
            spec.NO_PFN, 0, self._next_page,
        )  # fmt: skip

    def _pack_record(self, record: Record) -> Callable[[], Packed]:
        carried = record.carried
        if (
            isinstance(carried, Packed)
            and self._options.codec is None
            and carried.checksum == self._checksum
        ):
            return lambda: carried
        return self._pack(record.body)

    # -- batches ---------------------------------------------------------------------

    def _start_batch(self, batch: PageBatch, number: int) -> _Pending:
        if batch.nr_pfns > spec.ENTRIES_MAX or batch.nr_pages > spec.PAGES_MAX:
            raise OutputError(f"{batch.name}: a batch of {batch.nr_pfns} pfns is too large")
        carried = batch.carried
        more: dict[str, int] = {}  # keys of the head
        if isinstance(carried, CarriedBatch) and self._can_carry(carried):
            self._carried_from = carried.origin
            packed_table = carried.packed_table
            nr_stored, base = carried.stored, self._next_page
            packed: Callable[[], Packed] = lambda: carried.packed  # noqa: E731
            if carried.deltas is not None:
                more = pack_deltas(carried.deltas)[1]
        else:
            if batch.pages is None:
                raise OutputError(f"{batch.name}: a batch without its pages")
            self._carried_from = None
            table, stored, base = self._place(batch, batch.pages)
            packed_table = spec.pack_table(table)
            nr_stored = len(stored)
            if table.deltas is not None:
                packed_deltas, more = pack_deltas(table.deltas)
                packed_table = (packed_table[0] + packed_deltas, *packed_table[1:])
            packed = self._pack(stored.reshape(-1).data)
        self._nr_batches += 1
        self._next_page = base + nr_stored
        packed_bytes, entry_runs, slot_runs = packed_table
        head: dict[str, Any] = {
            "type": number,
            "entries": batch.nr_pfns,
            "entry_runs": entry_runs,
            "pages": batch.nr_pages,
            "slot_runs": slot_runs,
            "stored": nr_stored,
            "base": base,
            **more,
        }
        if batch.reserved:
            head["reserved"] = batch.reserved
        first, last = batch.entry_list.pfn_range() or (spec.NO_PFN, 0)
        return _Pending(spec.PAGES, number, head, packed_bytes, packed, True, first, last, base)

    def _can_carry(self, carried: CarriedBatch) -> bool:
        """What a body with differences refers to must be here too: every batch before it, of
        the same image, and the same base."""
        refers = carried.deltas is not None
        return (
            self._options.codec is None
            and carried.window == self._window_size
            and carried.base == self._next_page
            and carried.packed.checksum == self._checksum
            and (not refers or carried.needs == self._needs)
            and (not refers or not self._nr_batches or carried.origin is self._carried_from)
        )

    def _place(self, batch: PageBatch, pages: Pages) -> tuple[spec.BatchTable, Pages, int]:
        """Decide for each page: zero, that of the base, named, or stored.

        :returns: the table; (s, 4096) u8, what is stored of the pages; the number of the first.
        """
        base = self._next_page
        if not len(pages):  # 990 of the 1020 batches of a real HVM guest
            nothing = np.zeros(0, np.int64)
            return spec.BatchTable(batch.entries, nothing.astype(np.bool_), nothing), pages, base
        earlier = None if self._base is None else Earlier(self._base, page_pfns(batch), pages)
        if earlier is None:
            here, left = None, pages
        else:  # what is not as in the base
            here = np.flatnonzero(~(earlier.same | earlier.zero))
            left = np.take(pages, here, axis=0)
        zero, prints = survey(left)
        rows = np.flatnonzero(~zero)
        prints = prints[rows]
        slots = np.full(len(rows), -1, np.int64)  # number of an equal page, once known
        leaders = self._find_stored(left, rows, prints, slots)
        fresh = np.flatnonzero(slots < 0)
        fresh = fresh[leaders[fresh] == fresh]
        stored = left if len(fresh) == len(left) else left[rows[fresh]]
        slots[fresh] = base + np.arange(len(fresh))
        followers = np.flatnonzero(slots < 0)
        slots[followers] = slots[leaders[followers]]
        self._prints.add(prints[fresh], base)
        self._window.add(base, stored)
        if earlier is not None and here is not None:
            rows = here[rows]
            zero_left, zero = zero, earlier.zero
            zero[here] = zero_left
        deltas, body = self._differ(batch, earlier, rows[fresh], stored)
        table = spec.BatchTable(batch.entries, zero, slots - base + self._window_size, deltas)
        return table, body, base

    def _differ(
        self, batch: PageBatch, earlier: Earlier | None, rows: NDArray[np.intp], stored: Pages
    ) -> tuple[Deltas | None, Pages]:
        """Store differences where that is smaller.

        :param rows: (s,) of the batch's pages that are ``stored``.
        :returns: what the table says of it; (s, 4096) u8, the body.
        """
        if self._keeper is None and earlier is None:
            return None, stored
        body = stored
        based = np.zeros(len(rows), np.bool_)
        kept, places, changed = based, np.zeros(0, np.int64), np.zeros(0, np.bool_)
        if earlier is not None and self._compresses:
            based, body = earlier.differences(rows, stored)
        if self._keeper is not None:
            self._keeper.follow(*(batch.entry_list.pfn_range() or (0, 0)))
            shelved = self._keeper.shelve(page_pfns(batch)[rows], stored, body, based)
            kept, places, changed, body = (
                shelved.kept, shelved.places, shelved.changed, shelved.body
            )  # fmt: skip
        same = np.zeros(batch.nr_pages, np.bool_) if earlier is None else earlier.same
        deltas = Deltas(same, based, kept, places, changed)
        return (deltas if deltas.says_anything else None), body

    def _find_stored(
        self, pages: Pages, rows: NDArray[np.int64], prints: NDArray[np.uint64],
        slots: NDArray[np.int64],
    ) -> NDArray[np.int64]:  # fmt: skip
        """Fill in the numbers of pages stored before; find equals within the batch.

        :returns: (k,) i64: for each page the first of this batch that equals it.
        """
        words = pages.view(np.uint64)
        order = np.argsort(prints, kind="stable")
        leaders = np.arange(len(rows))
        if len(rows) > 1:
            ordered = prints[order]
            new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
            leaders[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))]
            others = np.flatnonzero(leaders != np.arange(len(rows)))
            if len(others):
                same = (words[rows[others]] == words[rows[leaders[others]]]).all(axis=1)
                leaders[others[~same]] = others[~same]
        numbers = self._prints.find(prints, self._next_page - self._window_size)
        likely = np.flatnonzero((numbers >= 0) & (leaders == np.arange(len(rows))))
        if len(likely):
            equal = self._window.equal(numbers[likely], pages, rows[likely])
            slots[likely[equal]] = numbers[likely[equal]]
        return leaders

    # -- pieces ----------------------------------------------------------------------

    def _pack(self, body: Buffer) -> Callable[[], Packed]:
        choice = self._options.codec
        if choice is None or not self._compresses or not len(body):
            packed = self._plain(body)
            return lambda: packed
        return self._options.workers.submit(_compress, choice, body, self._checksum)

    def _plain(self, body: Buffer) -> Packed:
        return Packed("", body, spec.checksum(self._checksum, body), self._checksum)

    def _write_pending(self) -> None:
        while self._pending:
            self._write_piece(self._pending.popleft())

    def _write_piece(self, pending: _Pending) -> None:
        packed = pending.packed()
        head = {**pending.head, "sum": packed.sum}
        if packed.codec:
            head["codec"] = packed.codec
        self._index += spec.index_row(
            self._offset, pending.first_pfn, pending.last_pfn, pending.base, pending.number,
            pending.kind,
        )  # fmt: skip
        mappable = pending.page_body and not packed.codec and len(packed.body)
        alignment = spec.PAGE_ALIGNMENT if mappable else spec.ALIGNMENT
        self._put_piece(pending.kind, head, pending.table, packed.body, alignment)

    def _put_piece(
        self, kind: int, head: dict[str, Any], table: bytes, body: Buffer, alignment: int
    ) -> None:
        packed = spec.dump(head)
        if len(packed) > spec.HEAD_MAX:
            raise OutputError(
                f"the head of a {spec.KIND_NAMES[kind]} piece has {len(packed)} bytes"
            )
        before, after = spec.frame(kind, packed, table, len(body), alignment, self._offset)
        self._seal_and_put([before], [body, bytes(after)])
        self._nr_pieces += 1


def _compress(choice: CodecChoice, body: Buffer, checksum: str) -> Packed:
    """Runs in a worker. What does not shrink stays as it is."""
    packed = choice.codec.compress(body, choice.level)
    if len(packed) >= len(body):
        return Packed("", body, spec.checksum(checksum, body), checksum)
    return Packed(choice.codec.name, packed, spec.checksum(checksum, packed), checksum)


def header_of(needs: Needs) -> dict[str, Any]:
    """The keys of a header of version 2."""
    head: dict[str, Any] = {}
    if needs.names:
        head["needs"] = needs.names
    if needs.nr_places:
        head["shelf"] = needs.nr_places
    if needs.base:
        head["base"] = {"seal": needs.base}
    return head


def page_pfns(batch: PageBatch) -> Entries:
    """(m,) u64 of the pages with contents."""
    entries = batch.entries
    return entries[carries_page(entries)] & PFN_MASK


def source_of(info: ImageInfo) -> dict[str, Any]:
    """Where the records came from first: an image made from an image keeps its origin."""
    if isinstance(source := info.details.get("source"), dict):
        return source
    return {"format": info.format, **info.details}
