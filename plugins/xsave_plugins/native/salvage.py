"""What is whole of a damaged or cut native image: piece by piece, page by page.

Each piece is proved by its own sums, so what lies behind damage is as good as what lies before
it. Where the next piece begins is said by the index, if that is whole; otherwise by the next
marker whose sums are right. Of a batch whose body is lost, zero pages and pages that were
stored earlier are whole all the same; what is lost of a batch comes as BROKEN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from xsave import (
    BROKEN,
    PFN_MASK,
    Cursor,
    Loss,
    PageBatch,
    RandomAccess,
    ReadOptions,
    Record,
    RecordType,
    StreamError,
    XsaveError,
    carries_page,
    runs,
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
    parse_type,
    read_header,
    read_piece,
    unpack,
)

if TYPE_CHECKING:
    from xsave import Entries, Event, Pages

    from .base import Base

    Bits = NDArray[np.bool_]

SCAN_BYTES = 1 << 20
RUNS_MAX = 4096  # pairs of pfns in one Loss


class NativeSalvager:
    """A :class:`xsave.SalvageReader`.

    Memory use: the window and the shelf, as for reading.
    """

    def __init__(self, image: RandomAccess, options: ReadOptions) -> None:
        self._image = image
        self._options = options
        cursor = Cursor(image, 0)
        head, _sealed = read_header(cursor)
        self._start = cursor.offset
        self.info = describe_header(head)
        self._checksum: str = head["checksum"]
        self._window = _Kept(head["window"])
        self._window_size: int = head["window"]
        self._needs = needs_of(head)
        self._places = _Kept(max(self._needs.nr_places, 1))
        self._base = self._find_base()
        self._types: dict[int, RecordType] = {}
        self._rows = _read_index(image, self._types)
        self._next_page = 0

    def _find_base(self) -> Base | None:
        from .base import find_base

        if not self._needs.base:
            return None
        try:
            return find_base(self._needs.base, self._options)
        except XsaveError:
            return None  # its pages are lost, and said to be

    def __iter__(self) -> Iterator[Event | Loss]:
        offset, size = self._start, self._image.size_bytes
        while offset < size:
            try:
                piece = read_piece(Cursor(self._image, offset))
            except StreamError as error:
                found = self._next_piece(offset + 8)
                yield from self._gap(offset, size if found is None else found, str(error))
                if found is None:
                    return
                offset = found
                continue
            body_size = piece.prefix.body_size
            end = offset + len(piece.raw) + body_size + (-body_size & 7)
            yield from self._look(piece, end)
            if piece.prefix.kind == spec.END:
                yield from self._after_end(end)
                return
            offset = end
        yield Loss("the end of the image", size, 0, "the image is cut: nothing says that it ends")

    def _after_end(self, offset: int) -> Iterator[Loss]:
        rest = self._image.size_bytes - offset
        if rest != spec.TAIL.size:
            expected = f"expected a tail of {spec.TAIL.size} bytes, got {rest}"
            yield Loss("the tail of the image", offset, max(rest, 0), expected)

    # -- finding the next piece ------------------------------------------------------

    def _next_piece(self, offset: int) -> int | None:
        if self._rows is not None:
            later = self._rows["offset"][self._rows["offset"] >= offset]
            if len(later):
                return int(later.min())
        return self._scan(offset + (-offset & 7))

    def _scan(self, start: int) -> int | None:
        """The next place that holds a piece whose sums are right."""
        size = self._image.size_bytes
        while start < size:
            chunk = bytes(self._image.read_at(start, min(SCAN_BYTES, size - start), "image"))
            at = chunk.find(spec.MARKER)
            while at >= 0:
                if at % 8 == 0 and self._is_piece(start + at):
                    return start + at
                at = chunk.find(spec.MARKER, at + 1)
            start += SCAN_BYTES
        return None

    def _is_piece(self, offset: int) -> bool:
        """A guest may keep an image in its memory: what is found must also go on where
        this image was."""
        try:
            piece = read_piece(Cursor(self._image, offset))
            if piece.prefix.kind != spec.PAGES:
                return True
            return piece.number("base", 1 << 52) >= self._next_page
        except StreamError:
            return False

    def _gap(self, start: int, end: int, reason: str) -> Iterator[Loss]:
        """Pieces of which nothing is known but what the index says."""
        self._places.forget_all()
        rows = None
        if self._rows is not None:
            rows = self._rows[(self._rows["offset"] >= start) & (self._rows["offset"] < end)]
        if rows is None or not len(rows):
            yield Loss("unknown pieces", start, end - start, reason, is_exact=False)
            return
        ends = [*rows["offset"][1:].tolist(), end]
        for row, until in zip(rows, ends, strict=True):
            offset, first, last = (int(row[name]) for name in ("offset", "first_pfn", "last_pfn"))
            kind = self._types.get(int(row["type"]))
            what = kind.name if kind is not None else "a piece of unknown type"
            pfns = ((first, last),) if int(row["kind"]) == spec.PAGES and first <= last else ()
            yield Loss(what, offset, until - offset, reason, pfns, is_exact=not pfns)

    # -- pieces that are known -------------------------------------------------------

    def _look(self, piece: Piece, end: int) -> Iterator[Event | Loss]:
        kind = piece.prefix.kind
        try:
            if kind == spec.TYPE:
                number = piece.number("number", (1 << 32) - 1)
                self._types[number] = parse_type(piece, number)
            elif kind == spec.RECORD:
                yield self._record(piece)
            elif kind == spec.PAGES:
                yield from self._pages(piece)
        except StreamError as error:
            if kind == spec.PAGES:
                self._places.forget_all()
            what = f"a {piece.prefix.kind_name} piece"
            if (known := self._types.get(piece.head.get("type", -1))) is not None:
                what = known.name
            yield Loss(what, piece.offset, end - piece.offset, str(error),
                       is_exact=kind != spec.PAGES)  # fmt: skip

    def _body(self, piece: Piece, what: str) -> memoryview:
        start = piece.offset + len(piece.raw)
        return self._image.read_at(start, piece.prefix.body_size, f"body of {what}")

    def _type(self, piece: Piece) -> RecordType:
        number = piece.number("type", (1 << 32) - 1)
        if (kind := self._types.get(number)) is None:
            raise piece.wrong("type", "the number of a type that is known", number)
        return kind

    def _record(self, piece: Piece) -> Record:
        kind = self._type(piece)
        body = unpack(
            kind.name, piece.offset, self._body(piece, kind.name),
            codec_of(piece, self._options.codecs, kind.name),
            piece.number("size", spec.RECORD_MAX), self._checksum,
            piece.octets("sum", spec.CHECKSUMS[self._checksum]),
        )  # fmt: skip
        padding = piece.octets("padding") if "padding" in piece.head else b""
        return Record(kind, body, piece.offset, padding)

    def _pages(self, piece: Piece) -> Iterator[Event | Loss]:
        kind = self._type(piece)
        head = parse_batch(piece, self._window_size, self._needs)
        if head.base < self._next_page:
            raise piece.wrong("base", f"{self._next_page} or more", head.base)
        self._next_page = head.base + head.stored
        stored, known, reason = self._stored(piece, head, kind.name)
        pages, whole = self._assemble(head, stored, known)
        self._window.put(head.base + np.flatnonzero(known), stored[known])
        entries = head.table.entries.array()
        if not whole.all():
            entries = entries.copy()
            lost = np.flatnonzero(carries_page(entries))[~whole]
            pfns = entries[lost] & PFN_MASK
            entries[lost] = pfns | np.uint64(BROKEN << 60)
            pages = pages[whole]
            size = len(piece.raw) + piece.prefix.body_size
            why = reason or "pages that it refers to are lost"
            yield from _losses(kind.name, piece.offset, size, why, pfns)
        yield PageBatch(kind, entries, pages, len(pages), piece.offset, head.reserved)

    def _stored(self, piece: Piece, head: BatchHead, name: str) -> tuple[Pages, Bits, str]:
        """The pages of its body, which of them are known, and why others are not."""
        nothing = np.zeros((head.stored, PAGE_SIZE), np.uint8)
        known = np.zeros(head.stored, np.bool_)
        reason = ""
        try:
            body = unpack(
                name, piece.offset, self._body(piece, name),
                codec_of(piece, self._options.codecs, name), head.stored * PAGE_SIZE,
                self._checksum, piece.octets("sum", spec.CHECKSUMS[self._checksum]),
            )  # fmt: skip
        except XsaveError as error:
            reason = str(error)
            stored = nothing
        else:
            stored = np.frombuffer(body, np.uint8).reshape(head.stored, PAGE_SIZE)
            known[:] = True
        if head.deltas is not None and head.stored:
            stored, known = self._undo(head, stored, known)
        return stored, known, reason

    def _undo(self, head: BatchHead, stored: Pages, known: Bits) -> tuple[Pages, Bits]:
        """Differences become pages where what they differ from is known; the shelf goes on."""
        deltas = head.deltas
        assert deltas is not None
        stored, known = stored.copy(), known.copy()
        based = np.flatnonzero(deltas.based)
        if len(based):
            before, there = self._of_base(head.stored_pfns(self._window_size)[based])
            stored[based] ^= before
            known[based] &= there
        kept = np.flatnonzero(deltas.kept)
        changed = kept[deltas.changed]
        if len(changed):
            before, there = self._places.get(deltas.places[deltas.changed])
            stored[changed] ^= before
            known[changed] &= there
        self._places.forget(deltas.places[~known[kept]])
        self._places.put(deltas.places[known[kept]], stored[kept[known[kept]]])
        return stored, known

    def _of_base(self, pfns: Entries) -> tuple[Pages, Bits]:
        pages = np.zeros((len(pfns), PAGE_SIZE), np.uint8)
        if self._base is None:
            return pages, np.zeros(len(pfns), np.bool_)
        try:
            return pages, self._base.read(pfns, pages)
        except StreamError:  # the base is damaged, too
            return pages, np.zeros(len(pfns), np.bool_)

    def _assemble(self, head: BatchHead, stored: Pages, known: Bits) -> tuple[Pages, Bits]:
        """(m, 4096) u8, and (m,) bool: which of them are whole."""
        pages = np.zeros((head.nr_pages, PAGE_SIZE), np.uint8)
        whole = head.table.zero.copy()
        elsewhere = head.table.zero
        if head.deltas is not None and head.deltas.same.any():
            same = np.flatnonzero(head.deltas.same)
            elsewhere = elsewhere | head.deltas.same
            pages[same], whole[same] = self._of_base(head.page_pfns()[same])
        rows = np.flatnonzero(~elsewhere)
        within = head.table.slots - self._window_size
        here = within >= 0
        pages[rows[here]] = stored[within[here]]
        whole[rows[here]] = known[within[here]]
        pages[rows[~here]], whole[rows[~here]] = self._window.get(head.base + within[~here])
        return pages, whole


class _Kept:
    """Pages by number, the latest of those with one remainder; which of them are known."""

    def __init__(self, size: int) -> None:
        self._numbers = np.full(size, -1, np.int64)
        self._pages: Pages | None = None

    def put(self, numbers: NDArray[np.int64], pages: Pages) -> None:
        if not len(numbers):
            return
        if self._pages is None:
            self._pages = np.zeros((len(self._numbers), PAGE_SIZE), np.uint8)
        numbers, pages = numbers[-len(self._numbers) :], pages[-len(self._numbers) :]
        self._numbers[numbers % len(self._numbers)] = numbers
        self._pages[numbers % len(self._numbers)] = pages

    def get(self, numbers: NDArray[np.int64]) -> tuple[Pages, Bits]:
        """(n, 4096) u8, zeroes where the second, (n,) bool, is False."""
        found = np.zeros((len(numbers), PAGE_SIZE), np.uint8)
        if self._pages is None:
            return found, np.zeros(len(numbers), np.bool_)
        at = numbers % len(self._numbers)
        known = np.asarray(self._numbers[at] == numbers)
        found[known] = self._pages[at[known]]
        return found, known

    def forget(self, numbers: NDArray[np.int64]) -> None:
        self._numbers[numbers % len(self._numbers)] = -1

    def forget_all(self) -> None:
        self._numbers[:] = -1


def _losses(what: str, offset: int, size: int, reason: str, pfns: Entries) -> Iterator[Loss]:
    """As many as it takes; each has at most ``RUNS_MAX`` ranges."""
    firsts, lengths = runs(pfns)
    pairs = [
        (first, first + length - 1)
        for first, length in zip(firsts.tolist(), lengths.tolist(), strict=True)
    ]
    for start in range(0, len(pairs), RUNS_MAX):
        yield Loss(what, offset, size, reason, tuple(pairs[start : start + RUNS_MAX]))


def _read_index(image: RandomAccess, types: dict[int, RecordType]) -> NDArray[np.void] | None:
    """The rows of all records and batches, in order, and the types; None if it is lost."""
    size = image.size_bytes
    try:
        end_offset, magic = spec.TAIL.unpack(
            image.read_at(size - spec.TAIL.size, spec.TAIL.size, "tail of the image")
        )
        if magic != spec.TAIL_MAGIC:
            return None
        end = read_piece(Cursor(image, end_offset))
        if end.prefix.kind != spec.END:
            return None
        index = read_piece(Cursor(image, end.number("index", size)))
        if index.prefix.kind != spec.INDEX:
            return None
        body = image.read_at(index.offset + len(index.raw), index.prefix.body_size, "the index")
        head: dict[str, Any] = index.head
        name = next(n for n, width in spec.CHECKSUMS.items() if width == len(head["sum"]))
        if spec.checksum(name, body) != head["sum"] or len(body) % spec.INDEX_ROW.itemsize:
            return None
        for number, kind in enumerate(head["types"]):
            types[number] = parse_type(evolve(index, head=kind), number)
    except (StreamError, KeyError, TypeError, StopIteration, ValueError):
        return None
    return np.frombuffer(body, spec.INDEX_ROW)
