"""A native image in, events out: the mirror of ``writer.py``.

Every length is bounded before memory is asked for, every piece is checked before it is
passed on, and at the end the seal says whether all pieces were there, in order.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve

from xsave import (
    AuthenticityError,
    ByteSource,
    DamageError,
    FormatError,
    PageBatch,
    PageMode,
    Pages,
    ReadOptions,
    Record,
    RecordType,
    XsaveError,
)

from . import spec
from .delta_table import Deltas
from .pieces import (
    PAGE_SIZE,
    BatchHead,
    Piece,
    check_zero,
    codec_of,
    describe_header,
    needs_of,
    parse_batch,
    parse_type,
    read_header,
    read_piece,
    unpack,
)
from .shelf import Shelf
from .window import Window
from .writer import CarriedBatch, Packed

if TYPE_CHECKING:
    from xsave import Event

    from .base import Base


class NativeReader:
    def __init__(self, source: ByteSource, options: ReadOptions) -> None:
        self._source = source
        self._options = options
        self._start = source.offset  # of the header, from which the image counts
        head, sealed = read_header(source)
        self.info = describe_header(head)
        self._seal = hashlib.sha256(sealed)
        self._window_size: int = head["window"]
        self._checksum: str = head["checksum"]
        self._window = Window(self._window_size)
        self._needs = needs_of(head)
        self._shelf = Shelf(self._needs.nr_places)
        self._base: Base | None = None
        if self._needs.base and self._wants_base():
            from .base import find_base

            self._base = find_base(self._needs.base, options)
            if options.pages is PageMode.FULL:  # what is handed out is whole
                whole = {key: value for key, value in self.info.details.items() if key != "base"}
                self.info = evolve(self.info, details=whole)
        self._origin = object()  # what its carried batches have in common
        self._types: list[RecordType] = []
        self._nr_rows = 0
        self._nr_pieces = 0
        self._next_page = 0
        self._rows = bytearray()  # as they must lie in the index: it grows with every piece
        self._type_heads: list[dict[str, Any]] = []
        self._index_offset: int | None = None

    def _wants_base(self) -> bool:
        """Contents need it; where they are only checked it is looked at if it is given."""
        mode = self._options.pages
        checks = mode is PageMode.CHECK and self._options.base is not None
        return mode is PageMode.FULL or checks

    @property
    def seal(self) -> bytes:
        """Of all that was read; proved once the last event has come."""
        return self._seal.digest()

    def __iter__(self) -> Iterator[Event]:
        """Bodies are unpacked ahead by the workers; events come in order, and what came
        before a damaged piece is still passed on."""
        ahead: deque[tuple[Callable[[], Event], int]] = deque()
        ahead_bytes = 0
        pieces = self._pieces()
        while True:
            try:
                event, size = next(pieces)
            except StopIteration:
                break
            except XsaveError:
                yield from (ready() for ready, _ in ahead)
                raise
            ahead.append((event, size))
            ahead_bytes += size
            if not size:
                # A mark, such as that a checkpoint is whole: it does not wait for more to come.
                yield from (ready() for ready, _ in ahead)
                ahead.clear()
                ahead_bytes = 0
            # The second bound is for images made to hurt: a small piece can stand for 128 MiB.
            while len(ahead) > self._options.workers.nr_threads + 1 or (
                ahead_bytes > spec.AHEAD_BYTES and len(ahead) > 1
            ):
                ready, size = ahead.popleft()
                ahead_bytes -= size
                yield ready()
        yield from (ready() for ready, _ in ahead)

    def _pieces(self) -> Iterator[tuple[Callable[[], Event], int]]:
        """What makes each event, and how many bytes it will have about."""
        while True:
            piece = read_piece(self._source, self._start)
            self._nr_pieces += 1
            kind = piece.prefix.kind
            if kind == spec.END:
                self._finish(piece)
                return
            self._seal.update(piece.raw)
            if self._index_offset is not None and not kind & spec.SKIPPABLE:
                raise FormatError(
                    what="kind of a piece", offset=piece.offset,
                    expected="the end piece after the index", got=piece.prefix.kind_name,
                )  # fmt: skip
            if kind == spec.TYPE:
                self._types.append(parse_type(piece, len(self._types)))
                self._type_heads.append(piece.head)
                self._no_body(piece)
            elif kind == spec.RECORD:
                yield self._record(piece), piece.number("size", spec.RECORD_MAX)
            elif kind == spec.PAGES:
                size = PAGE_SIZE * piece.number("pages", spec.PAGES_MAX)
                yield self._batch(piece), size + 8 * piece.number("entries", spec.ENTRIES_MAX)
            elif kind == spec.INDEX:
                self._check_index(piece)
            elif kind & spec.SKIPPABLE:
                self._pass_over(piece)
            else:
                raise FormatError(
                    what="kind of a piece", offset=piece.offset, expected="1 to 5, or 128 and up",
                    got=str(kind),
                )  # fmt: skip

    def _type(self, piece: Piece) -> RecordType:
        number = piece.number("type", (1 << 32) - 1)
        if number >= len(self._types):
            raise piece.wrong("type", "the number of a type defined before", number)
        return self._types[number]

    def _after_body(self, piece: Piece) -> None:
        padding = -piece.prefix.body_size & 7
        at = self._source.offset
        check_zero(self._source.take(padding, "padding after a body"), at)

    def _pass_over(self, piece: Piece) -> None:
        """A piece from a later minor version: not understood, but not damaged either."""
        what = f"a {piece.prefix.kind_name} piece"
        size = piece.prefix.body_size
        if not size:
            return
        if self._options.pages is PageMode.SKIP:
            self._source.skip(size, f"body of {what}")
            self._after_body(piece)
            return
        expected = piece.octets("sum", spec.CHECKSUMS[self._checksum])
        unpack(what, piece.offset, self._body(piece, what), None, size, self._checksum, expected)

    def _no_body(self, piece: Piece) -> None:
        if piece.prefix.body_size:
            raise piece.wrong("body size", "0", piece.prefix.body_size)

    def _body(self, piece: Piece, what: str) -> memoryview:
        body = self._source.take(piece.prefix.body_size, f"body of {what}")
        self._after_body(piece)
        return body

    def _row(self, piece: Piece, first: int = spec.NO_PFN, last: int = 0) -> None:
        number = piece.number("type", (1 << 32) - 1)
        self._rows += spec.index_row(
            piece.offset - self._start, first, last, self._next_page, number, piece.prefix.kind
        )

    # -- records and batches ---------------------------------------------------------

    def _record(self, piece: Piece) -> Callable[[], Event]:
        kind = self._type(piece)
        size = piece.number("size", spec.RECORD_MAX)
        expected = piece.octets("sum", spec.CHECKSUMS[self._checksum])
        padding = piece.octets("padding") if "padding" in piece.head else b""
        if len(padding) > 7:
            raise piece.wrong("padding", "at most 7 bytes", padding)
        codec = codec_of(piece, self._options.codecs, kind.name)
        body = self._body(piece, kind.name)
        self._row(piece)
        whole = unpack(kind.name, piece.offset, body, codec, size, self._checksum, expected)
        packed = Packed(piece.text("codec", ""), body, expected, self._checksum)
        record = Record(kind, whole, piece.offset, padding, packed)
        return lambda: record

    def _batch(self, piece: Piece) -> Callable[[], Event]:
        kind = self._type(piece)
        head = self._parse(piece)
        if head.deltas is not None:
            self._expect(piece, head, head.deltas)
        if head.base != self._next_page:
            raise piece.wrong("base", f"{self._next_page} by the pieces before", head.base)
        expected = piece.octets("sum", spec.CHECKSUMS[self._checksum])
        batch = PageBatch(
            kind, head.table.entries, None, head.nr_pages, piece.offset, head.reserved
        )
        first, last = batch.entry_list.pfn_range() or (spec.NO_PFN, 0)
        what = f"{kind.name} ({batch.describe_pfns()})"
        mode = self._options.pages
        if mode is PageMode.SKIP:
            self._source.skip(piece.prefix.body_size, f"body of {what}")
            self._after_body(piece)
            self._row(piece, first, last)
            self._next_page += head.stored
            return lambda: batch
        codec = None if mode is PageMode.CARRY else codec_of(piece, self._options.codecs, what)
        body = self._body(piece, what)
        self._row(piece, first, last)
        self._next_page += head.stored
        if mode is PageMode.CARRY:
            return self._carried(batch, head, what, body, expected)
        unpacked = self._options.workers.submit(
            unpack, what, piece.offset, body, codec, head.stored * PAGE_SIZE,
            self._checksum, expected,
        )  # fmt: skip

        def finish() -> Event:
            stored = np.frombuffer(unpacked(), np.uint8).reshape(head.stored, PAGE_SIZE)
            if mode is PageMode.FULL:
                batch.pages = self._assemble(head, stored, piece.offset)
            return batch

        return finish

    def _parse(self, piece: Piece) -> BatchHead:
        return parse_batch(piece, self._window_size, self._needs)

    def _expect(self, piece: Piece, head: BatchHead, deltas: Deltas) -> None:
        """What it differs from must be there."""
        try:
            self._shelf.expect(deltas)
        except ValueError as error:
            raise piece.wrong("table", "what is on the shelf", str(error)) from None
        if self._base is not None:
            pfns = np.concatenate(
                (
                    head.page_pfns()[deltas.same],
                    head.stored_pfns(self._window_size)[deltas.based],
                )
            )
            absent = pfns[self._base.rows_of(pfns) < 0]
            if len(absent):
                from .base import no_page

                raise no_page(int(absent[0]), piece.offset)

    def _carried(
        self, batch: PageBatch, head: BatchHead, what: str, body: memoryview, expected: bytes
    ) -> Callable[[], Event]:
        if (got := spec.checksum(self._checksum, body)) != expected:
            raise DamageError(
                what=what, offset=batch.offset, expected=expected.hex(), got=got.hex()
            )
        batch.carried = CarriedBatch(
            self._window_size, head.base, head.stored,
            Packed(head.codec, body, expected, self._checksum), head.packed_table,
            head.deltas, self._needs, self._origin,
        )  # fmt: skip
        return lambda: batch

    def _assemble(self, head: BatchHead, stored: Pages, offset: int) -> Pages:
        """Put each page in its place. In order: later batches may name these pages."""
        if head.deltas is not None:
            stored = self._undo(head, head.deltas, stored, offset)
        pages = assemble(head, stored, self._window_size, self._window)
        if head.deltas is not None and head.deltas.same.any():
            assert self._base is not None
            same = head.deltas.same
            pages[same] = self._base.pages(head.page_pfns()[same], offset)
        self._window.add(head.base, stored)
        return pages

    def _undo(self, head: BatchHead, deltas: Deltas, stored: Pages, offset: int) -> Pages:
        """:returns: the pages themselves where differences were stored."""
        if not deltas.is_plain:
            stored = stored.copy()  # what a codec returns cannot be written to
        if deltas.based.any():
            assert self._base is not None
            pfns = head.stored_pfns(self._window_size)[deltas.based]
            stored[deltas.based] ^= self._base.pages(pfns, offset)
        self._shelf.restore(deltas, stored)
        return stored

    # -- the end ---------------------------------------------------------------------

    def _check_index(self, piece: Piece) -> None:
        """The index must say what was read: it is what random access will believe."""
        expected_rows = len(self._rows) // spec.INDEX_ROW.itemsize
        nr_rows = piece.number("rows", expected_rows)
        expected = piece.octets("sum", spec.CHECKSUMS[self._checksum])
        size = len(self._rows)
        if nr_rows != expected_rows or piece.prefix.body_size != size:
            raise piece.wrong("rows", str(expected_rows), nr_rows)
        body = self._body(piece, "the index")
        unpack("the index", piece.offset, body, None, size, self._checksum, expected)
        if body != self._rows or piece.head.get("types") != self._type_heads:
            raise FormatError(
                what="the index", offset=piece.offset, expected="the pieces of this image",
                got="others",
            )  # fmt: skip
        self._index_offset = piece.offset - self._start

    def _finish(self, piece: Piece) -> None:
        self._no_body(piece)
        seal = piece.octets("seal", 32)
        if seal != self._seal.digest():
            raise AuthenticityError(
                f"the seal of the image (at offset {piece.offset:#x}) does not match: pieces were "
                f"removed, added, exchanged or rewritten; expected {seal.hex()}, "
                f"got {self._seal.hexdigest()}"
            )
        if piece.number("pieces", 1 << 52) != self._nr_pieces - 1:
            raise piece.wrong("pieces", str(self._nr_pieces - 1), piece.head["pieces"])
        if self._index_offset is None:
            raise FormatError(
                what="the index", offset=piece.offset, expected="one before the end", got="none"
            )
        if piece.number("index", (1 << 64) - 1) != self._index_offset:
            raise piece.wrong("index", f"{self._index_offset:#x}", piece.head["index"])
        at = self._source.offset
        end, magic = spec.TAIL.unpack(self._source.take(spec.TAIL.size, "tail of the image"))
        began = piece.offset - self._start
        if magic != spec.TAIL_MAGIC or end != began:
            raise FormatError(
                what="tail of the image", offset=at,
                expected=f"{spec.TAIL_MAGIC!r} and {began:#x}", got=f"{magic!r}, {end:#x}",
            )  # fmt: skip
        if not self._options.nested and not self._source.at_end():
            raise FormatError(
                what="end of the image", offset=self._source.offset,
                expected="nothing after the tail", got="further bytes",
            )  # fmt: skip


def assemble(head: BatchHead, stored: Pages, window_size: int, window: Window) -> Pages:
    """(m, 4096) u8 from the pages stored in a batch, those named, and zeroes; those of the
    base are left to the caller.

    :raises KeyError: a page is named that the window does not keep.
    """
    table = head.table
    in_order = window_size + np.arange(head.nr_pages)
    if head.stored == head.nr_pages and np.array_equal(table.slots, in_order):
        return stored  # every page is here, in order: no copy
    here = np.zeros(head.nr_pages, np.int64)
    elsewhere = table.zero if head.deltas is None else table.zero | head.deltas.same
    rows = np.flatnonzero(~elsewhere)
    within = table.slots - window_size
    here[rows] = np.maximum(within, 0)
    if head.stored:
        pages = np.take(stored, here, axis=0, mode="clip")
        pages[table.zero] = 0
    else:
        pages = np.zeros((head.nr_pages, PAGE_SIZE), np.uint8)
    before = np.flatnonzero(within < 0)
    if len(before):
        window.fill(head.base + within[before], rows[before], pages)
    return pages
