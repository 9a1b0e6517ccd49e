"""Pages by pfn from an image that lies in a file, reading only the pieces needed.

The index at the end gives each batch's range of pfns, so the batches that can hold a pfn
are known without reading any; their tables (not their bodies) say which does, latest
first; and a page that was stored before is found by its number in the same index. A page
stored as a difference leads back to the batch before that used the same place on the shelf.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from attrs import field
from numpy.typing import NDArray

from xsave import (
    PFN_MASK,
    Cursor,
    Entries,
    FormatError,
    LatestEntries,
    Pages,
    RandomAccess,
    ReadOptions,
    RecordError,
    TruncatedError,
    carries_page,
    define,
)

from . import spec
from .pieces import (
    PAGE_SIZE,
    BatchHead,
    Piece,
    codec_of,
    describe_header,
    needs_of,
    parse_batch,
    read_header,
    read_piece,
    unpack,
)

if TYPE_CHECKING:
    from .base import Base

HEADS_KEPT_BYTES = 24 << 20  # of tables; those of a usual batch have some KiB
BODIES_KEPT_BYTES = 8 << 20  # unpacked, beside as many pages as a batch may name
# A body that is not packed is read again in a third of the time, into memory that is still in
# the processor's cache if few others are kept: so it counts for more than it has.
READ_AGAIN = 3
HEAD_BYTES = 4096  # about what a parsed head takes beside its table

T = TypeVar("T")


@define
class _Recent(Generic[T]):
    """What was read last, by row of the index, as much as goes into a number of bytes (one
    always does)."""

    room_bytes: int
    _kept: OrderedDict[int, tuple[T, int]] = field(factory=OrderedDict)
    _bytes: int = 0

    def get(self, row: int, make: Callable[[int], tuple[T, int]]) -> T:
        """:param make: returns it and its size."""
        if (found := self._kept.get(row)) is not None:
            self._kept.move_to_end(row)
            return found[0]
        made, size_bytes = make(row)
        self.put(row, made, size_bytes)
        return made

    def put(self, row: int, made: T, size_bytes: int) -> None:
        self._kept[row] = made, size_bytes
        self._bytes += size_bytes
        while self._bytes > self.room_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][1]


class NativeFinder:
    """:raises StreamError: the image has no intact header, tail, end and index.
    :raises UsageError: the image was written against another that was not given.

    :ivar rows: of the index, of batches of pages.
    :ivar seal: as the image says it, not proved.
    """

    def __init__(self, image: RandomAccess, options: ReadOptions) -> None:
        self._image = image
        self._options = options
        head, _ = read_header(Cursor(image, 0))
        describe_header(head)
        self._window: int = head["window"]
        self._checksum: str = head["checksum"]
        self._needs = needs_of(head)
        self._base: Base | None = None
        if self._needs.base:
            from .base import find_base

            self._base = find_base(self._needs.base, options)
        self.rows = self._read_index()
        self._heads: _Recent[tuple[Piece, BatchHead]] = _Recent(HEADS_KEPT_BYTES)
        self._bodies: _Recent[Pages] = _Recent(BODIES_KEPT_BYTES + self._window * PAGE_SIZE)

    def _read_index(self) -> NDArray[np.void]:
        size = self._image.size_bytes
        tail = self._image.read_at(size - spec.TAIL.size, spec.TAIL.size, "tail of the image")
        end_offset, magic = spec.TAIL.unpack(tail)
        if magic != spec.TAIL_MAGIC:
            raise TruncatedError(
                what="tail of the image", offset=size - spec.TAIL.size,
                expected=spec.TAIL_MAGIC.hex(), got=magic.hex(),
            )  # fmt: skip
        end = self._piece(end_offset, spec.END)
        self.seal = end.octets("seal", spec.SEAL_BYTES)
        index = self._piece(end.number("index", size), spec.INDEX)
        body = self._body(index, "the index")
        nr_rows = index.number("rows", len(body) // spec.INDEX_ROW.itemsize)
        rows = np.frombuffer(body, spec.INDEX_ROW)
        if len(rows) != nr_rows:
            raise index.wrong("rows", str(len(rows)), nr_rows)
        batches: NDArray[np.void] = rows[rows["kind"] == spec.PAGES]
        return batches

    def _piece(self, offset: int, kind: int) -> Piece:
        if offset % 8 or offset >= self._image.size_bytes:
            raise FormatError(
                what="offset of a piece", offset=offset, expected="a multiple of 8 in the image",
                got=f"{offset:#x}",
            )  # fmt: skip
        piece = read_piece(Cursor(self._image, offset))
        if piece.prefix.kind != kind:
            raise FormatError(
                what="kind of a piece", offset=offset, expected=spec.KIND_NAMES[kind],
                got=piece.prefix.kind_name,
            )  # fmt: skip
        return piece

    def _body(self, piece: Piece, what: str, size: int | None = None) -> memoryview:
        """Checked and unpacked."""
        body = self._image.read_at(
            piece.offset + len(piece.raw), piece.prefix.body_size, f"body of {what}"
        )
        expected = piece.octets("sum", spec.CHECKSUMS[self._checksum])
        codec = codec_of(piece, self._options.codecs, what)
        whole = unpack(
            what, piece.offset, body, codec, len(body) if size is None else size,
            self._checksum, expected,
        )  # fmt: skip
        return memoryview(whole)

    # -- which pages ---------------------------------------------------------------------

    def entries(self) -> Entries:
        latest = LatestEntries()
        for row in range(len(self.rows)):
            latest.see(self.batch(row)[1].table.entries.array())
        return latest.result()

    def find(self, pfns: Sequence[int]) -> Mapping[int, tuple[int, Pages | None]]:
        wanted = np.unique(np.array(pfns, np.uint64))
        found: dict[int, tuple[int, Pages | None]] = {}
        if not len(wanted):
            return found
        reaches = (self.rows["first_pfn"] <= wanted[-1]) & (self.rows["last_pfn"] >= wanted[0])
        for row in np.flatnonzero(reaches)[::-1].tolist():
            if not len(wanted):
                break
            first, last = self.rows["first_pfn"][row], self.rows["last_pfn"][row]
            if not len(wanted[(wanted >= first) & (wanted <= last)]):
                continue
            wanted = self._search(row, wanted, found)
        return found

    def _search(
        self, row: int, wanted: NDArray[np.uint64], found: dict[int, tuple[int, Pages | None]]
    ) -> NDArray[np.uint64]:
        """Look for pfns in one batch; the pfns that are still wanted."""
        here, at = self.mentions(row, wanted)
        entries = self.batch(row)[1].table.entries.array()[at]
        with_page = np.flatnonzero(carries_page(entries))
        pages = self.pages_at(row, at[with_page])
        rows = dict(zip(with_page.tolist(), range(len(with_page)), strict=True))
        for which, (pfn, entry) in enumerate(
            zip(wanted[here].tolist(), entries.tolist(), strict=True)
        ):
            page = pages[rows[which] : rows[which] + 1] if which in rows else None
            found[pfn] = (entry >> 60, page)
        return wanted[~here]

    def mentions(self, row: int, wanted: Entries) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """:returns: which of these pfns a batch mentions; for each that it does, the place
        of the last mention among its entries: that one wins, as it does in a stream."""
        pfns = self.batch(row)[1].table.entries.array() & PFN_MASK
        if bool((pfns[1:] > pfns[:-1]).all()):
            order = None
        else:
            order = np.argsort(pfns, kind="stable")
            pfns = pfns[order]
        at = np.searchsorted(pfns, wanted, side="right") - 1
        here = (at >= 0) & (pfns[at] == wanted) if len(pfns) else np.zeros(len(at), np.bool_)
        at = at[here]
        return here, at if order is None else order[at]

    # -- their contents ------------------------------------------------------------------

    def batch(self, row: int) -> tuple[Piece, BatchHead]:
        return self._heads.get(row, self._read_batch)

    def _read_batch(self, row: int) -> tuple[tuple[Piece, BatchHead], int]:
        piece = self._piece(int(self.rows["offset"][row]), spec.PAGES)
        head = parse_batch(piece, self._window, self._needs)
        if head.base != self.rows["base"][row]:
            raise piece.wrong("base", str(self.rows["base"][row]), head.base)
        return (piece, head), held_bytes(piece, head)

    def know(self, row: int, piece: Piece, head: BatchHead) -> None:
        """That batch was read already, by who follows the whole structure."""
        self._heads.put(row, (piece, head), held_bytes(piece, head))

    def pages_at(self, row: int, at: NDArray[np.intp]) -> Pages:
        """(k, 4096) u8: of these entries of a batch, which all have a page. Not to be
        written to: where a body has just these, it is a view of that."""
        head = self.batch(row)[1]
        zero, pages = self._look(row, _pages_of(head, at))
        if zero.any():
            pages[zero] = 0
        return pages

    def look(self, row: int, pfns: Entries) -> tuple[NDArray[np.bool_], Pages]:
        """Of pfns that a batch mentions, and that have a page there as it ends.

        :returns: (k,) bool, which pages are zero by the table; (k, 4096) u8 with anything
            in the rows of these. Not to be written to.
        """
        head = self.batch(row)[1]
        # What a successor nearly always asks for. (A pfn that is there twice has two pages,
        # of which the later one counts.)
        if np.array_equal(head.page_pfns(), pfns) and bool((pfns[1:] > pfns[:-1]).all()):
            return self._look(row, np.arange(len(pfns)))
        return self._look(row, _pages_of(head, self.mentions(row, pfns)[1]))

    def _look(self, row: int, which: NDArray[np.intp]) -> tuple[NDArray[np.bool_], Pages]:
        """As :meth:`look`, of these pages of a batch."""
        head = self.batch(row)[1]
        every = np.arange(head.nr_pages)
        if (
            len(which) == head.nr_pages == head.stored
            and head.is_plain
            and np.array_equal(which, every)
            and np.array_equal(head.table.slots, self._window + every)
        ):
            return np.zeros(len(which), np.bool_), self._body_pages(row)
        out = np.empty((len(which), PAGE_SIZE), np.uint8)
        return self._gather(row, which, out), out

    def fill(self, row: int, at: NDArray[np.intp], out: Pages) -> None:
        """As :meth:`pages_at`, into memory that is there."""
        zero = self._gather(row, _pages_of(self.batch(row)[1], at), out)
        out[zero] = 0

    def _gather(self, row: int, which: NDArray[np.intp], out: Pages) -> NDArray[np.bool_]:
        """Fill in these pages of a batch, but for those that are zero.

        :returns: (k,) bool, which these are.
        """
        _, head = self.batch(row)
        elsewhere = head.elsewhere[which]
        slotted = np.flatnonzero(~elsewhere)
        if len(slotted):
            nth = np.cumsum(~head.elsewhere) - 1
            slots = head.table.slots[nth[which[slotted]]] - self._window
            self._fill_slots(row, head, slotted, slots, out)
        if head.deltas is not None and len(same := np.flatnonzero(head.deltas.same[which])):
            out[same] = self._of_base(row, head.page_pfns()[which[same]])
        zero: NDArray[np.bool_] = head.table.zero[which]
        return zero

    def _fill_slots(
        self, row: int, head: BatchHead, rows: NDArray[np.intp], slots: NDArray[np.int64],
        out: Pages,
    ) -> None:  # fmt: skip
        """Fill these rows; leaves anything in the others."""
        own = slots >= 0
        if (head.deltas is None or head.deltas.is_plain) and own.any():
            here = np.zeros(len(out), np.int64)
            here[rows[own]] = slots[own]
            body = self._body_pages(row)
            # One gather for a stretch of rows, with any page where none belongs, is a copy
            # less than to gather the right ones and put them in their places.
            for part in stretches(rows[own]):
                np.take(body, here[part], axis=0, out=out[part], mode="clip")
            rows, slots = rows[~own], slots[~own]
        if len(rows):
            self._put_numbered(head.base + slots, rows, out)

    def _put_numbered(self, numbers: NDArray[np.int64], rows: NDArray[np.intp], out: Pages) -> None:
        """The pages stored under these numbers, into these rows."""
        batches = np.searchsorted(self.rows["base"], numbers.astype(np.uint64), side="right") - 1
        for batch in _distinct(batches):
            here = np.flatnonzero(batches == batch)
            out[rows[here]] = self._stored(batch, numbers[here] - int(self.rows["base"][batch]))

    def _stored(self, row: int, which: NDArray[np.int64]) -> Pages:
        """(k, 4096) u8: pages stored in one batch, with no difference left in them."""
        _, head = self.batch(row)
        pages = np.take(self._body_pages(row), which, axis=0)
        deltas = head.deltas
        if deltas is None or deltas.is_plain:
            return pages
        if (based := np.flatnonzero(deltas.based[which])).size:
            pages[based] ^= self._of_base(row, head.stored_pfns(self._window)[which[based]])
        kept = np.cumsum(deltas.kept) - 1
        changed = np.zeros(head.stored, np.bool_)
        changed[np.flatnonzero(deltas.kept)[deltas.changed]] = True
        rows = np.flatnonzero(changed[which])
        if len(rows):
            self._undo(row, pages, rows, deltas.places[kept[which[rows]]])
        return pages

    def _undo(
        self, row: int, pages: Pages, rows: NDArray[np.intp], places: NDArray[np.int64]
    ) -> None:
        """Some rows of ``pages`` are differences from what lay in these places before a
        batch: follow each place back until a page stored as it is."""
        for earlier in range(row - 1, -1, -1):
            if not len(rows):
                return
            _, head = self.batch(earlier)
            if head.deltas is None or not len(head.deltas.places):
                continue
            order = np.argsort(head.deltas.places)
            ordered = head.deltas.places[order]
            at = np.minimum(np.searchsorted(ordered, places), len(ordered) - 1)
            here = ordered[at] == places
            if not here.any():
                continue
            kept = order[at[here]]
            which = np.flatnonzero(head.deltas.kept)[kept]
            pages[rows[here]] ^= self._body_pages(earlier)[which]
            based = head.deltas.based[which]
            if based.any():
                pfns = head.stored_pfns(self._window)[which[based]]
                pages[rows[here][based]] ^= self._of_base(earlier, pfns)
            goes_on = ~here
            goes_on[np.flatnonzero(here)[head.deltas.changed[kept]]] = True
            rows, places = rows[goes_on], places[goes_on]
        if len(rows):
            raise RecordError(
                record="a batch of pages", offset=int(self.rows["offset"][row]),
                reason=f"a difference from place {int(places[0])}, where nothing lies",
            )  # fmt: skip

    def _of_base(self, row: int, pfns: Entries) -> Pages:
        assert self._base is not None  # by the header, or no table could speak of it
        return self._base.pages(pfns, int(self.rows["offset"][row]))

    def _body_pages(self, row: int) -> Pages:
        """(s, 4096) u8: what a batch stores, as it is stored."""
        return self._bodies.get(row, self._read_body)

    def _read_body(self, row: int) -> tuple[Pages, int]:
        piece, head = self.batch(row)
        size = head.stored * PAGE_SIZE
        body = self._body(piece, "a batch of pages", size)
        pages = np.frombuffer(body, np.uint8).reshape(head.stored, PAGE_SIZE)
        return pages, size if head.codec else size * READ_AGAIN


def held_bytes(piece: Piece, head: BatchHead) -> int:
    """Runs are written out when somebody looks at them: 8 bytes an entry, and a page."""
    return HEAD_BYTES + 2 * len(piece.raw) + 8 * (len(head.table.entries) + head.nr_pages)


def _pages_of(head: BatchHead, at: NDArray[np.intp]) -> NDArray[np.intp]:
    """(k,) intp: of entries that have a page, which of the batch's pages that is."""
    carries = carries_page(head.table.entries.array())
    return at if carries.all() else (np.cumsum(carries) - 1)[at]


STRETCH_GAP = 8  # rows: passing over fewer costs more than treating them like the others


def stretches(rows: NDArray[np.intp]) -> list[slice]:
    """Slices that cover these ascending rows, and few others."""
    if not len(rows):
        return []
    breaks = np.flatnonzero(rows[1:] - rows[:-1] > STRETCH_GAP)
    first = [int(rows[0]), *rows[breaks + 1].tolist()]
    last = [*rows[breaks].tolist(), int(rows[-1])]
    return [slice(start, stop + 1) for start, stop in zip(first, last, strict=True)]


def _distinct(rows: NDArray[np.intp]) -> list[int]:
    """Each once, ascending; there are few among many."""
    ordered = np.sort(rows)
    first = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    return [int(row) for row in ordered[first]]
