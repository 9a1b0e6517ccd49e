"""Small images in every format, right ones and hostile ones."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cbor2
import numpy as np
from attrs import field, frozen

import xsave
from tests.plugins.xen_stream import build as b
from xsave_plugins.native import spec
from xsave_plugins.native.delta_table import Deltas, pack_deltas
from xsave_plugins.native.format import MAGIC

CODECS = ("none", "zstd", "lz4", "brotli:1")


def xen_images() -> dict[str, bytes]:
    """One for each Xen format, of one batch or two, and what checkpoints add."""
    inner = b.libxc([*b.hvm(), b.Rec(b.UNKNOWN_OPTIONAL, b"odd")])
    return {
        "xl": b.xl(b.libxl(inner, [b.emulator(), b.Rec(b.LIBXL_END)])),
        "libxl": b.nested_remus(b.pv(), [b.pv_round()], end=True),
        "libxc": b.bare_remus(b.hvm(), [b.hvm_round()], end=True),
    }


def native_images(manager: xsave.PluginManager) -> dict[str, bytes]:
    """The same xl image with each codec."""
    made = {}
    for codec in CODECS:
        out = io.BytesIO()
        xsave.run(io.BytesIO(xen_images()["xl"]), out, codec=codec, manager=manager)
        made[f"native {codec}"] = out.getvalue()
    return made


@frozen
class Images:
    """:ivar by_name: format (and codec) to the bytes; not shown when a test fails."""

    by_name: Mapping[str, bytes] = field(repr=False)

    def __getitem__(self, name: str) -> bytes:
        return self.by_name[name]


@frozen
class Piece:
    """A piece of a native image; its sums are made when the image is.

    :ivar body_sum: put ``sum`` into the head, if it is not there.
    """

    kind: int
    head: Mapping[str, Any] | bytes
    table: bytes = b""
    body: bytes = b""
    body_sum: bool = True


HEADER: Mapping[str, Any] = {
    "writer": "test", "created": "2026-01-01T00:00:00Z",
    "guest": {"type": "x86_hvm", "page_size": 4096, "xen_version": "4.17", "word_size": 8},
    "source": {"format": "xl"}, "checksum": "xxh3-128", "window": 16,
}  # fmt: skip


def kind_of(name: str, number: int, *, mandatory: bool = True) -> Piece:
    head = {
        "number": number, "name": name, "version": 1, "mandatory": mandatory,
        "plugin": "", "distribution": "",
    }  # fmt: skip
    return Piece(spec.TYPE, head)


def record(number: int, body: bytes, *, size: int | None = None, **more: Any) -> Piece:
    head = {"type": number, "size": len(body) if size is None else size, **more}
    return Piece(spec.RECORD, head, body=body)


def batch(
    number: int, entries: Sequence[int], *, zero: Sequence[bool] = (), slots: Sequence[int] = (),
    body: bytes = b"", base: int = 0, deltas: Deltas | None = None, **more: Any,
) -> Piece:  # fmt: skip
    table, entry_runs, slot_runs = spec.pack_table(
        spec.BatchTable(
            np.array(entries, np.uint64), np.array(zero, np.bool_), np.array(slots, np.int64)
        )
    )
    packed, keys = (b"", {}) if deltas is None else pack_deltas(deltas)
    table += packed
    head = {
        "type": number, "entries": len(entries), "entry_runs": entry_runs, "pages": len(zero),
        "slot_runs": slot_runs, "stored": len(body) // 4096, "base": base, **keys, **more,
    }  # fmt: skip
    return Piece(spec.PAGES, head, table, body)


def deltas(
    nr_pages: int, nr_stored: int, *, same: Sequence[int] = (), based: Sequence[int] = (),
    kept: Sequence[int] = (), places: Sequence[int] = (), changed: Sequence[int] = (),
) -> Deltas:  # fmt: skip
    """:param changed: which of the kept pages; the others as in :class:`Deltas`, by number."""
    return Deltas(
        np.isin(np.arange(nr_pages), same), np.isin(np.arange(nr_stored), based),
        np.isin(np.arange(nr_stored), kept), np.array(places, np.int64),
        np.isin(np.arange(len(places)), changed),
    )  # fmt: skip


def small_pieces() -> list[Piece]:
    """Each kind of piece, in less than 2 KiB; no page is stored, since a body of pages
    has its checksum as a record's body has."""
    return [
        kind_of("xen.libxc.header", 0),
        record(0, b.libxc_header(), padding=b"\1"),
        kind_of("xen.hvm.page_data", 1),
        batch(1, [5, 6, 0xF << 60 | 9], zero=[True, True]),
    ]


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(one, other, strict=True))


WITH_SHELF: Mapping[str, Any] = {**HEADER, "needs": ["deltas"], "shelf": 8}


def delta_pieces() -> list[Piece]:
    """pfn 5 with the contents of ``page(1)``, then of ``page(2)``, as a difference."""
    plain = deltas(1, 1, kept=[0], places=[3])
    change = deltas(1, 1, kept=[0], places=[3], changed=[0])
    body = xor(b.page(1), b.page(2))
    return [
        kind_of("xen.hvm.page_data", 0),
        batch(0, [5], zero=[False], slots=[16], body=b.page(1), deltas=plain),
        batch(0, [5], zero=[False], slots=[16], body=body, base=1, deltas=change),
    ]


def base_pieces() -> list[Piece]:
    """pfns 1 and 2, with ``page(1)`` and ``page(2)``; 3 is absent."""
    whole = b.page(1) + b.page(2)
    return [
        kind_of("xen.hvm.page_data", 0),
        batch(0, [1, 2, 0xF << 60 | 3], zero=[False, False], slots=[16, 17], body=whole),
    ]


def successor_pieces() -> list[Piece]:
    """pfn 1 as in :func:`base_pieces`, pfn 2 with ``page(3)`` as a difference."""
    change = deltas(2, 1, same=[0], based=[0])
    body = xor(b.page(2), b.page(3))
    return [
        kind_of("xen.hvm.page_data", 0),
        batch(0, [1, 2], zero=[False, False], slots=[16], body=body, deltas=change),
    ]


def with_base(base: bytes) -> dict[str, Any]:
    """A header of an image that was written against this one."""
    return {**HEADER, "needs": ["base"], "base": {"seal": seal_of(base)}}


def seal_of(image: bytes) -> bytes:
    at = image.rindex(b"dseal") + 7  # a text of four, then a byte string of 32
    return image[at : at + 32]


def native(
    pieces: Sequence[Piece], header: Mapping[str, Any] | bytes = HEADER, *, index: bool = True,
    end: Mapping[str, Any] | None = None, rows: bytes | None = None, major: int | None = None,
) -> bytes:  # fmt: skip
    """An image whose sums and seal are right, whatever its pieces say.

    :param end: keys of the end piece that are to be wrong.
    :param rows: of the index, if not those that belong there.
    :param major: of the version, if not what the header needs.
    """
    if major is None:
        major = 2 if isinstance(header, Mapping) and "needs" in header else 1
    packed = header if isinstance(header, bytes) else cbor2.dumps(dict(header))
    fixed = spec.HEADER.pack(MAGIC, major, 0, len(packed))
    out = fixed + spec.HEADER_SUM.pack(spec.head_sum(fixed, packed)) + packed
    out += bytes(-len(out) & 7)
    seal = hashlib.sha256(out)
    indexed = []
    for piece in pieces:
        offset = len(out)
        out += _framed(piece, offset, seal)
        indexed.append(_row(piece, offset))
    index_offset = len(out)
    if index:
        own = np.array([row for row in indexed if row], dtype=spec.INDEX_ROW).tobytes()
        body = own if rows is None else rows
        types = [piece.head for piece in pieces if piece.kind == spec.TYPE]
        head = {"types": types, "rows": len(body) // spec.INDEX_ROW.itemsize}
        out += _framed(Piece(spec.INDEX, head, body=body), index_offset, seal)
    end_offset = len(out)
    nr_pieces = len(pieces) + index
    closing = {"seal": seal.digest(), "pieces": nr_pieces, "index": index_offset, **(end or {})}
    out += _framed(Piece(spec.END, closing, body_sum=False), end_offset, hashlib.sha256())
    return out + spec.TAIL.pack(end_offset, spec.TAIL_MAGIC)


def _framed(piece: Piece, offset: int, seal: Any) -> bytes:
    if isinstance(piece.head, bytes):
        head = piece.head
    else:
        whole = dict(piece.head)
        if piece.body_sum and piece.kind != spec.TYPE:
            whole.setdefault("sum", spec.checksum("xxh3-128", piece.body))
        head = cbor2.dumps(whole)
    before, after = spec.frame(
        piece.kind, head, piece.table, len(piece.body), spec.ALIGNMENT, offset
    )
    seal.update(before)
    return before + piece.body + bytes(after)


def _row(piece: Piece, offset: int) -> tuple[int, ...] | None:
    """Good enough for images without stored pages before a record."""
    head = {} if isinstance(piece.head, bytes) else piece.head
    number = _bounded(head.get("type"), 1 << 32)
    if piece.kind == spec.RECORD:
        return (offset, spec.NO_PFN, 0, 0, number, piece.kind)
    if piece.kind != spec.PAGES:
        return None
    nr_runs = min(_bounded(head.get("entry_runs"), 1 << 24), len(piece.table) // 12)
    first = np.frombuffer(piece.table, "<u8", nr_runs) & np.uint64((1 << 52) - 1)
    lengths = np.frombuffer(piece.table, "<u4", nr_runs, 8 * nr_runs)
    if not nr_runs:
        return (offset, spec.NO_PFN, 0, 0, number, piece.kind)
    low, high = int(first.min()), int((first + lengths).max()) - 1
    return (offset, low, high, _bounded(head.get("base"), 1 << 64), number, piece.kind)


def _bounded(value: Any, end: int) -> int:
    """A number that a row can hold; 0 for whatever cannot be one."""
    return value if isinstance(value, int) and 0 <= value < end else 0
