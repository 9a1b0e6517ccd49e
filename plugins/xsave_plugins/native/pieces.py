"""Pieces of a native image, up to their bodies: taken from a source, checked, understood.

What the reader of a whole image and the finder of single pages share. Every length is
bounded before memory is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsave import (
    PFN_MASK,
    Buffer,
    ByteSource,
    Codec,
    DamageError,
    Entries,
    FieldError,
    FormatError,
    GuestType,
    ImageInfo,
    MissingPluginError,
    Owner,
    RecordError,
    RecordType,
    carries_page,
    frozen,
)

from . import spec
from .delta_table import Counts, Deltas, rows_of_stored, unpack_deltas
from .format import MAGIC

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
        if type(value) is not int or not 0 <= value <= highest:  # True is none
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
    start = source.offset
    fixed = source.take(spec.HEADER.size + spec.HEADER_SUM.size, "image header")
    magic, major, minor, size = spec.HEADER.unpack_from(fixed)
    if magic != MAGIC:
        raise FormatError(what="image magic", offset=start, expected=MAGIC.hex(), got=magic.hex())
    if major not in spec.MAJORS:
        known = " or ".join(f"{version}.x" for version in spec.MAJORS)
        raise FormatError(
            what="image version", offset=start + 8, expected=known,
            got=f"{major}.{minor}: a later xsave can read it",
        )  # fmt: skip
    if size > spec.HEAD_MAX:
        raise FormatError(
            what="header size",
            offset=start + 12,
            expected=f"at most {spec.HEAD_MAX}",
            got=str(size),
        )
    padded = source.take(size + (-size & 7), "image header")
    head = padded[:size]
    (expected,) = spec.HEADER_SUM.unpack_from(fixed, spec.HEADER.size)
    if (got := spec.head_sum(fixed[: spec.HEADER.size], head)) != expected:
        raise DamageError(
            what="image header", offset=start, expected=f"{expected:016x}", got=f"{got:016x}"
        )
    check_zero(padded[size:], start + spec.HEADER.size + spec.HEADER_SUM.size + size)
    loaded = spec.load(head, "image header", start)
    if major == 1:
        loaded = {key: value for key, value in loaded.items() if key not in spec.OF_VERSION_2}
    elif "needs" not in loaded:
        raise FormatError(
            what="'needs' in the image header", offset=start, expected="what a reader must know",
            got="nothing",
        )  # fmt: skip
    return loaded, bytes(fixed) + bytes(padded)


def check_zero(padding: Buffer, offset: int) -> None:
    """:raises FormatError: padding holds something."""
    if bytes(padding).strip(b"\0"):
        raise FormatError(
            what="padding", offset=offset, expected="zero bytes", got=bytes(padding[:8]).hex()
        )


@frozen
class Needs:
    """What is needed to read an image, beside version 1.

    :ivar nr_places: on the shelf of earlier pages, 0 for an image that has none.
    :ivar base: the seal of the image that this one was written against, b"" for none.
    """

    nr_places: int
    base: bytes

    @property
    def names(self) -> list[str]:
        return [
            *([spec.DELTAS] if self.nr_places else []), *([spec.BASE] if self.base else [])
        ]  # fmt: skip


def needs_of(head: Mapping[str, Any]) -> Needs:
    """:raises FormatError: something that is not known here, or a wrong field."""
    names = head.get("needs", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong_header("needs", "a list of texts", names)
    if unknown := [name for name in names if name not in (spec.DELTAS, spec.BASE)]:
        raise FormatError(
            what="what the image needs", offset=0, expected=f"{spec.DELTAS}, {spec.BASE}",
            got=f"{unknown[0]!r:.60}: a later xsave can read it",
        )  # fmt: skip
    nr_places, base = 0, b""
    if spec.DELTAS in names:
        nr_places = head.get("shelf", 0)
        if type(nr_places) is not int or not 1 <= nr_places <= spec.SHELF_MAX:
            raise _wrong_header("shelf", f"1 to {spec.SHELF_MAX} pages", nr_places)
    if spec.BASE in names:
        about = head.get("base")
        base = about.get("seal", b"") if isinstance(about, dict) else b""
        if not isinstance(base, bytes) or len(base) != spec.SEAL_BYTES:
            raise _wrong_header("base", f"a map with a seal of {spec.SEAL_BYTES} bytes", about)
    return Needs(nr_places, base)


def _wrong_header(key: str, expected: str, got: object) -> FormatError:
    return FormatError(
        what=f"{key!r} in the image header", offset=0, expected=expected, got=f"{got!r:.60}"
    )


def describe_header(head: Mapping[str, Any]) -> ImageInfo:
    """:raises FormatError: a field is missing or of the wrong kind."""
    wrong = _wrong_header
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
        base=needs_of(head).base.hex(),
    )


def read_piece(source: ByteSource, start: int = 0) -> Piece:
    """Everything of a piece before its body, checked; the body is taken by the caller.

    :param start: of the image in the source.
    """
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
    if (at - start + prefix.padding) % (
        1 << prefix.alignment
    ) or prefix.padding >= 1 << prefix.alignment:
        raise FormatError(
            what="padding of a piece", offset=offset,
            expected=f"a body at a multiple of {1 << prefix.alignment}", got=str(prefix.padding),
        )  # fmt: skip
    padding = source.take(prefix.padding, "padding of a piece")
    check_zero(padding, at)
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
    deltas: Deltas | None

    @property
    def elsewhere(self) -> NDArray[np.bool_]:
        """(m,) bool: pages that have no slot, being zero or those of the base."""
        return self.table.zero if self.deltas is None else self.table.zero | self.deltas.same

    @property
    def is_plain(self) -> bool:
        """Whether version 2 says nothing of it."""
        return self.deltas is None or not self.deltas.says_anything

    def stored_rows(self, window: int) -> NDArray[Any]:
        """(s,) i64: for each stored page the first page of the batch that it is, or -1."""
        rows = np.flatnonzero(~self.elsewhere)
        return rows_of_stored(self.table.slots - window, rows, self.stored)

    def stored_pfns(self, window: int) -> Entries:
        """(s,) u64: of the pages of :meth:`stored_rows`; all of them exist in what was parsed
        with differences from the base."""
        pfns: Entries = self.page_pfns()[self.stored_rows(window)]
        return pfns

    def page_pfns(self) -> Entries:
        """(m,) u64 of the pages with contents."""
        entries = self.table.entries.array()
        return entries[carries_page(entries)] & PFN_MASK


def parse_batch(piece: Piece, window: int, needs: Needs) -> BatchHead:
    """:raises FormatError: sizes do not fit, or a page is named that cannot be known."""
    nr_entries = piece.number("entries", spec.ENTRIES_MAX)
    entry_runs = piece.number("entry_runs", nr_entries)
    nr_pages = piece.number("pages", min(spec.PAGES_MAX, nr_entries))
    slot_runs = piece.number("slot_runs", nr_pages)
    stored = piece.number("stored", nr_pages)
    base = piece.number("base", 1 << 52)
    counts = _delta_counts(piece, nr_pages, stored, needs)
    size = spec.table_size(entry_runs, nr_pages, slot_runs) if counts else len(piece.table)
    try:
        table = spec.unpack_table(
            piece.table[:size], nr_entries, entry_runs, nr_pages, slot_runs,
            counts.same if counts else 0,
        )  # fmt: skip
        deltas = None
        if counts is not None:
            packed = piece.table[size:]
            deltas = unpack_deltas(packed, counts, nr_pages, stored, needs.nr_places)
    except ValueError as error:
        raise piece.wrong("table", "runs that add up", str(error)) from None
    if deltas is not None and (table.zero & deltas.same).any():
        raise piece.wrong("table", "pages that are zero or those of the base", "some that are both")
    if (expected := table.entries.nr_pages()) != nr_pages:
        raise piece.wrong("pages", f"{expected} by the entries", nr_pages)
    if (slots := table.slot_range()) is not None:
        lowest, highest = slots
        if lowest < max(window - base, 0) or highest >= window + stored:
            raise piece.wrong("slots", f"{max(window - base, 0)} to {window + stored - 1}",
                              f"{lowest} to {highest}")  # fmt: skip
    head = BatchHead(
        table, nr_pages, stored, base, piece.number("reserved", (1 << 32) - 1, 0),
        (bytes(piece.table), entry_runs, slot_runs), piece.text("codec", ""), deltas,
    )  # fmt: skip
    if deltas is not None and (head.stored_rows(window)[deltas.based] < 0).any():
        raise piece.wrong("table", "a pfn for each difference from the base", "one without")
    return head


def _delta_counts(piece: Piece, nr_pages: int, stored: int, needs: Needs) -> Counts | None:
    """None for a batch without any, which in version 1 is each."""
    if not needs.nr_places and not needs.base:
        return None
    of_base, of_shelf = bool(needs.base), bool(needs.nr_places)
    kept = piece.number("kept", stored * of_shelf, 0)
    counts = Counts(
        piece.number("same", nr_pages * of_base, 0), piece.number("based", stored * of_base, 0),
        kept, piece.number("place_runs", kept, 0),
    )  # fmt: skip
    return counts if counts.any() else None


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
