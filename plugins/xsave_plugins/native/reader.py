"""A native image in, events out: the mirror of ``writer.py``.

Every length is bounded before memory is asked for, every piece is checked before it is
passed on, and at the end the seal says whether all pieces were there, in order.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from xsave import (
    AuthenticityError,
    Buffer,
    ByteSource,
    Codec,
    DamageError,
    FieldError,
    FormatError,
    GuestType,
    ImageInfo,
    MissingPluginError,
    Owner,
    PageBatch,
    PageMode,
    Pages,
    ReadOptions,
    Record,
    RecordError,
    RecordType,
    StreamError,
)

from . import spec
from .format import MAGIC
from .window import Window
from .writer import CarriedBatch, Packed

if TYPE_CHECKING:
    from xsave import Event

PAGE_SIZE = 4096


@frozen
class Piece:
    """One piece up to its body: checked against its own sum.

    :ivar raw: prefix, head, table and padding, as sealed.
    """

    offset: int
    prefix: spec.Prefix
    head: dict[str, Any]
    table: memoryview
    raw: bytes

    def number(self, key: str, highest: int, default: int | None = None) -> int:
        """An unsigned integer of the head within bounds.

        :raises FormatError: it is absent, or anything else.
        """
        value = self.head.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
            raise self.wrong(key, f"an integer of at most {highest}", value)
        return value

    def octets(self, key: str, size: int | None = None) -> bytes:
        value = self.head.get(key)
        if not isinstance(value, bytes) or (size is not None and len(value) != size):
            raise self.wrong(key, f"{size or 'some'} bytes", value)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.head.get(key, default)
        # It is shown to people, so it must not hold what steers a terminal.
        if not isinstance(value, str) or not value.isprintable() or len(value) > spec.TEXT_MAX:
            raise self.wrong(key, f"a printable text of at most {spec.TEXT_MAX}", value)
        return value

    def wrong(self, key: str, expected: str, got: object) -> FormatError:
        return FormatError(
            what=f"{key!r} in the head of a {self.prefix.kind_name} piece", offset=self.offset,
            expected=expected, got=f"{got!r:.60}",
        )  # fmt: skip


def read_header(source: ByteSource) -> tuple[dict[str, Any], bytes]:
    """:returns: the header's map; the bytes of it that are sealed."""
    fixed = source.take(spec.HEADER.size + spec.HEADER_SUM.size, "image header")
    magic, major, minor, size = spec.HEADER.unpack_from(fixed)
    if magic != MAGIC:
        raise FormatError(what="image magic", offset=0, expected=MAGIC.hex(), got=magic.hex())
    if major != spec.VERSION[0]:
        raise FormatError(
            what="image version", offset=8, expected=f"{spec.VERSION[0]}.x",
            got=f"{major}.{minor}: a later xsave can read it",
        )  # fmt: skip
    if size > spec.HEAD_MAX:
        raise FormatError(
            what="header size", offset=12, expected=f"at most {spec.HEAD_MAX}", got=str(size)
        )
    padded = source.take(size + (-size & 7), "image header")
    head = padded[:size]
    (expected,) = spec.HEADER_SUM.unpack_from(fixed, spec.HEADER.size)
    if (got := spec.head_sum(fixed[: spec.HEADER.size], head)) != expected:
        raise DamageError(
            what="image header", offset=0, expected=f"{expected:016x}", got=f"{got:016x}"
        )
    _check_zero(padded[size:], spec.HEADER.size + spec.HEADER_SUM.size + size)
    return spec.load(head, "image header", 0), bytes(fixed) + bytes(padded)


def _check_zero(padding: Buffer, offset: int) -> None:
    if any(padding):
        raise FormatError(
            what="padding", offset=offset, expected="zero bytes", got=bytes(padding[:8]).hex()
        )


def describe_header(head: Mapping[str, Any]) -> ImageInfo:
    """:raises FormatError: a field is missing or of the wrong kind."""

    def wrong(key: str, expected: str, got: object) -> FormatError:
        return FormatError(
            what=f"{key!r} in the image header", offset=0, expected=expected, got=f"{got!r:.60}"
        )

    guest, source = head.get("guest"), head.get("source")
    if not isinstance(guest, dict):
        raise wrong("guest", "a map", guest)
    if not isinstance(source, dict):
        raise wrong("source", "a map", source)
    try:
        guest_type = GuestType(guest.get("type"))
    except ValueError:
        raise wrong("guest.type", "a guest type", guest.get("type")) from None
    if guest.get("page_size") != PAGE_SIZE:
        raise wrong("guest.page_size", str(PAGE_SIZE), guest.get("page_size"))
    window = head.get("window")
    if (
        isinstance(window, bool)
        or not isinstance(window, int)
        or not 1 <= window <= spec.WINDOW_MAX
    ):
        raise wrong("window", f"1 to {spec.WINDOW_MAX} pages", window)
    checksum = head.get("checksum")
    if not isinstance(checksum, str) or checksum not in spec.CHECKSUMS:
        raise wrong("checksum", " or ".join(spec.CHECKSUMS), checksum)
    word_size, xen_version = guest.get("word_size"), guest.get("xen_version")
    return ImageInfo(
        format="native",
        guest_type=guest_type,
        page_size=PAGE_SIZE,
        xen_version=xen_version if isinstance(xen_version, str) else "",
        word_size=word_size if isinstance(word_size, int) else 0,
        details={key: value for key, value in head.items() if key != "guest"},
    )


def read_piece(source: ByteSource) -> Piece:
    """Everything of a piece before its body, checked; the body is taken by the caller."""
    offset = source.offset
    fixed = source.take(spec.PREFIX.size, "head of a piece")
    prefix = spec.unpack_prefix(fixed, offset)
    head = source.take(prefix.head_size, "head of a piece")
    table = source.take(prefix.table_size, "table of a piece")
    if (got := spec.head_sum(fixed[:-8], head, table)) != prefix.sum:
        raise DamageError(
            what=f"head of a {prefix.kind_name} piece", offset=offset,
            expected=f"{prefix.sum:016x}", got=f"{got:016x}",
        )  # fmt: skip
    at = source.offset
    if (at + prefix.padding) % (1 << prefix.alignment) or prefix.padding >= 1 << prefix.alignment:
        raise FormatError(
            what="padding of a piece", offset=offset,
            expected=f"a body at a multiple of {1 << prefix.alignment}", got=str(prefix.padding),
        )  # fmt: skip
    padding = source.take(prefix.padding, "padding of a piece")
    _check_zero(padding, at)
    what = f"head of a {prefix.kind_name} piece"
    raw = b"".join((fixed, head, table, padding))
    return Piece(offset, prefix, spec.load(head, what, offset), table, raw)


def parse_type(piece: Piece, nr_types: int) -> RecordType:
    """:raises FormatError: the definition is wrong."""
    number = piece.number("number", 1 << 20)
    if number != nr_types:
        raise piece.wrong("number", str(nr_types), number)
    plugin, distribution = piece.text("plugin", ""), piece.text("distribution", "")
    mandatory = piece.head.get("mandatory")
    if not isinstance(mandatory, bool):
        raise piece.wrong("mandatory", "true or false", mandatory)
    if not (name := piece.text("name")):
        raise piece.wrong("name", "a name", name)
    return RecordType(
        name,
        piece.number("version", 1 << 16),
        mandatory,
        Owner(plugin, distribution) if plugin else None,
    )


@frozen
class BatchHead:
    """The head and table of a pages piece, checked against each other."""

    table: spec.UnpackedTable
    nr_pages: int
    stored: int
    base: int
    reserved: int
    packed_table: tuple[bytes, int, int]
    codec: str


def parse_batch(piece: Piece, window: int) -> BatchHead:
    """:raises FormatError: sizes do not fit, or a page is named that cannot be known."""
    nr_entries = piece.number("entries", spec.ENTRIES_MAX)
    entry_runs = piece.number("entry_runs", nr_entries)
    nr_pages = piece.number("pages", min(spec.PAGES_MAX, nr_entries))
    slot_runs = piece.number("slot_runs", nr_pages)
    stored = piece.number("stored", nr_pages)
    base = piece.number("base", 1 << 52)
    try:
        table = spec.unpack_table(piece.table, nr_entries, entry_runs, nr_pages, slot_runs)
    except ValueError as error:
        raise piece.wrong("table", "runs that add up", str(error)) from None
    if (expected := table.entries.nr_pages()) != nr_pages:
        raise piece.wrong("pages", f"{expected} by the entries", nr_pages)
    if (slots := table.slot_range()) is not None:
        lowest, highest = slots
        if lowest < max(window - base, 0) or highest >= window + stored:
            raise piece.wrong("slots", f"{max(window - base, 0)} to {window + stored - 1}",
                              f"{lowest} to {highest}")  # fmt: skip
    return BatchHead(
        table, nr_pages, stored, base, piece.number("reserved", (1 << 32) - 1, 0),
        (bytes(piece.table), entry_runs, slot_runs), piece.text("codec", ""),
    )  # fmt: skip


def codec_of(piece: Piece, codecs: Mapping[str, Codec], what: str) -> Codec | None:
    """:raises MissingPluginError: the piece is compressed by a codec not at hand."""
    name = piece.text("codec", "")
    if not name:
        return None
    if (codec := codecs.get(name)) is None:
        raise MissingPluginError(
            record=what, plugin=name,
            reason=f"it is compressed with codec {name!r}, and no loaded plugin provides it",
        )  # fmt: skip
    return codec


def unpack(
    what: str, offset: int, body: memoryview, codec: Codec | None, size: int,
    checksum: str, expected: bytes,
) -> Buffer:  # fmt: skip
    """Check a body and undo its compression. Runs in a worker.

    :raises DamageError: its checksum does not match; :raises RecordError: its codec does
        not accept it, or makes another size of it.
    """
    if (got := spec.checksum(checksum, body)) != expected:
        raise DamageError(what=what, offset=offset, expected=expected.hex(), got=got.hex())
    if codec is None:
        if len(body) != size:
            raise RecordError(
                record=what, offset=offset,
                reason=f"body size: expected {size} bytes, got {len(body)}",
            )  # fmt: skip
        return body
    try:
        return codec.decompress(body, size)
    except FieldError as error:
        raise RecordError(record=what, offset=offset, reason=str(error)) from error


class NativeReader:
    def __init__(self, source: ByteSource, options: ReadOptions) -> None:
        self._source = source
        self._options = options
        head, sealed = read_header(source)
        self.info = describe_header(head)
        self._seal = hashlib.sha256(sealed)
        self._window_size: int = head["window"]
        self._checksum: str = head["checksum"]
        self._window = Window(self._window_size)
        self._types: list[RecordType] = []
        self._nr_rows = 0
        self._nr_pieces = 0
        self._next_page = 0
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._type_heads: list[dict[str, Any]] = []
        self._index_offset: int | None = None

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
            except StreamError:
                yield from (ready() for ready, _ in ahead)
                raise
            ahead.append((event, size))
            ahead_bytes += size
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
            piece = read_piece(self._source)
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
        _check_zero(self._source.take(padding, "padding after a body"), at)

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
        self._rows.append((piece.offset, first, last, self._next_page, number, piece.prefix.kind))

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
        head = parse_batch(piece, self._window_size)
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
                batch.pages = self._assemble(head, stored)
            return batch

        return finish

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
        )  # fmt: skip
        return lambda: batch

    def _assemble(self, head: BatchHead, stored: Pages) -> Pages:
        """Put each page in its place. In order: later batches may name these pages."""
        pages = assemble(head, stored, self._window_size, self._window)
        self._window.add(head.base, stored)
        return pages

    # -- the end ---------------------------------------------------------------------

    def _check_index(self, piece: Piece) -> None:
        """The index must say what was read: it is what random access will believe."""
        nr_rows = piece.number("rows", len(self._rows))
        expected = piece.octets("sum", spec.CHECKSUMS[self._checksum])
        size = len(self._rows) * spec.INDEX_ROW.itemsize
        if nr_rows != len(self._rows) or piece.prefix.body_size != size:
            raise piece.wrong("rows", str(len(self._rows)), nr_rows)
        body = self._body(piece, "the index")
        unpack("the index", piece.offset, body, None, size, self._checksum, expected)
        rows = np.array(self._rows, dtype=spec.INDEX_ROW).tobytes()
        if body != rows or piece.head.get("types") != self._type_heads:
            raise FormatError(
                what="the index", offset=piece.offset, expected="the pieces of this image",
                got="others",
            )  # fmt: skip
        self._index_offset = piece.offset

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
        if magic != spec.TAIL_MAGIC or end != piece.offset:
            raise FormatError(
                what="tail of the image", offset=at,
                expected=f"{spec.TAIL_MAGIC!r} and {piece.offset:#x}", got=f"{magic!r}, {end:#x}",
            )  # fmt: skip
        if not self._source.at_end():
            raise FormatError(
                what="end of the image", offset=self._source.offset,
                expected="nothing after the tail", got="further bytes",
            )  # fmt: skip


def assemble(head: BatchHead, stored: Pages, window_size: int, window: Window) -> Pages:
    """(m, 4096) u8 from the pages stored in a batch, those named, and zeroes.

    :raises KeyError: a page is named that the window does not keep.
    """
    table = head.table
    in_order = window_size + np.arange(head.nr_pages)
    if head.stored == head.nr_pages and np.array_equal(table.slots, in_order):
        return stored  # every page is here, in order: no copy
    here = np.zeros(head.nr_pages, np.int64)
    rows = np.flatnonzero(~table.zero)
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
