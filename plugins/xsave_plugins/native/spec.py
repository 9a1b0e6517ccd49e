"""What the bytes of a native image are, versions 1.0 and 2.0. docs/formats/native.md is
the text; what version 2 adds to a table is in ``delta_table.py``.

    image   = header, piece..., end piece, tail
    piece   = prefix (32 bytes), head (CBOR map), table, padding, body, padding

All integers outside CBOR are little-endian. A piece begins at a multiple of 8, its body
at a multiple of 2 ** alignment. No I/O here.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cbor2
import numpy as np
import xxhash
from numpy.typing import NDArray

from xsave import (
    PFN_MASK,
    TYPE_SHIFT,
    Buffer,
    DamageError,
    Entries,
    EntryList,
    FormatError,
    RawEntries,
    UsageError,
    expand_runs,
    frozen,
    runs,
)

if TYPE_CHECKING:
    from .delta_table import Deltas

Runs = tuple[NDArray[np.int64], NDArray[np.int64]]  # first of each, and how many

VERSION = (1, 0)
VERSION_WITH_NEEDS = (2, 0)  # of an image that says what its reader must know
MAJORS = (1, 2)
DELTAS, BASE = "deltas", "base"  # what may be needed: all there is
OF_VERSION_2 = ("needs", "shelf", "base")  # keys that mean nothing in a header of version 1
HEADER = struct.Struct("<8sHHI")  # magic, version major and minor, size of the CBOR map
HEADER_SUM = struct.Struct("<Q")  # xxh3_64 of HEADER and the map
PREFIX = struct.Struct("<4sBBHIIQQ")  # marker, kind, alignment, padding, head, table, body, sum
MARKER = b"xsvp"
TAIL = struct.Struct("<Q8s")  # offset of the end piece, magic
TAIL_MAGIC = b"xsvend\r\n"

TYPE, RECORD, PAGES, INDEX, END = 1, 2, 3, 4, 5
KIND_NAMES = {TYPE: "type", RECORD: "record", PAGES: "pages", INDEX: "index", END: "end"}
SKIPPABLE = 0x80  # kinds from here on may be passed over by who does not know them

HEAD_MAX = 1 << 20  # bytes of CBOR in a header or a piece
HEAD_DEPTH = 8  # of nesting in it
TEXT_MAX = 255  # characters of a name
ENTRIES_MAX = 1 << 24  # in a batch: what fits into the largest record of libxc
PAGES_MAX = 1 << 15  # in a batch, likewise
TABLE_MAX = 13 * ENTRIES_MAX + 18 * PAGES_MAX  # bytes; every entry a run of its own
RECORD_MAX = 128 << 20  # bytes of a record's body
INDEX_MAX = 1 << 32  # bytes
WINDOW_MAX = 1 << 14  # pages (64 MiB)
WINDOW = 4096  # pages (16 MiB); of the duplicates in real guests, 1024 find all but 0.5 %
SHELF_MAX = 1 << 16  # pages (256 MiB)
SHELF = 1 << 14  # pages (64 MiB, as QEMU keeps for the same purpose)
SEAL_BYTES = 32

AHEAD_BYTES = 256 << 20  # unpacked, of pieces in the works at once: 64 usual batches

PAGE_ALIGNMENT = 12
ALIGNMENT = 3

INDEX_ROW = np.dtype(
    [
        ("offset", "<u8"),  # of the piece
        ("first_pfn", "<u8"),  # lowest, highest: of a batch; all ones, zero without pfns
        ("last_pfn", "<u8"),
        ("base", "<u8"),  # number of the first page stored in it
        ("type", "<u4"),
        ("kind", "<u4"),
    ]
)
NO_PFN = (1 << 64) - 1
_INDEX_ROW = struct.Struct("<QQQQII")  # the same, for one


def index_row(
    offset: int, first_pfn: int, last_pfn: int, base: int, number: int, kind: int
) -> bytes:
    """One row of :data:`INDEX_ROW`."""
    return _INDEX_ROW.pack(offset, first_pfn, last_pfn, base, number, kind)


CHECKSUMS = {"xxh3-128": 16, "sha256": 32}
DEFAULT_CHECKSUM = "xxh3-128"


def checksum(name: str, data: Buffer) -> bytes:
    """Of a body. xxh3-128 finds accidents at 20 GB/s; sha256 also finds intent."""
    if name == "xxh3-128":
        return xxhash.xxh3_128_digest(data)
    return hashlib.sha256(data).digest()


def check_checksum_name(name: str) -> str:
    if name not in CHECKSUMS:
        raise UsageError(f"no checksum is named {name!r}; known: {', '.join(CHECKSUMS)}")
    return name


def head_sum(*parts: Buffer) -> int:
    """xxh3_64 of what precedes a body: prefix without its last field, head and table."""
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return state.intdigest()


def dump(head: Mapping[str, Any]) -> bytes:
    return cbor2.dumps(dict(head))


def load(data: Buffer, what: str, offset: int) -> dict[str, Any]:
    """A CBOR map with text keys, of definite lengths, without duplicates, and of nothing but
    what JSON has, byte strings, and integers of 64 bits: tags could make anything of it.

    :raises FormatError: it is anything else.
    """
    data = bytes(data)
    try:
        head = _decode(data)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise FormatError(
            what=what, offset=offset, expected="a CBOR map", got=f"{error}"
        ) from error
    if not isinstance(head, dict) or not _is_plain(head, HEAD_DEPTH) or not _is_one_item(data):
        raise FormatError(
            what=what, offset=offset, expected="a CBOR map with text keys and plain values",
            got=type(head).__name__,
        )  # fmt: skip
    return head


def _decode(data: bytes) -> Any:
    return cbor2.loads(
        data, max_depth=HEAD_DEPTH, allow_indefinite=False, allow_duplicate_keys=False
    )


def _is_one_item(data: bytes) -> bool:
    """The decoder does not tell of bytes behind the item; but without its last byte an item
    is cut, unless that byte was none of its own."""
    try:
        _decode(data[:-1])
    except cbor2.CBORDecodeEOF:
        return True
    return False


_PLAIN = frozenset((type(None), str, bytes, bool, float))


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)  # exact: of each head all values are looked at
    if kind in _PLAIN:
        return True
    if kind is int:
        return -(1 << 63) <= int(value) < 1 << 64
    if depth == 0:  # a shared value may contain itself
        return False
    if kind is dict:
        return all(isinstance(k, str) and _is_plain(v, depth - 1) for k, v in value.items())
    return kind is list and all(_is_plain(item, depth - 1) for item in value)


@frozen
class Prefix:
    """The fixed part of a piece. Sizes in bytes."""

    kind: int
    alignment: int  # as a power of two, of the body's offset
    padding: int  # zero bytes between table and body
    head_size: int
    table_size: int
    body_size: int
    sum: int

    @property
    def kind_name(self) -> str:
        return KIND_NAMES.get(self.kind, f"kind {self.kind:#x}")


def pack_prefix(prefix: Prefix) -> bytes:
    return PREFIX.pack(
        MARKER, prefix.kind, prefix.alignment, prefix.padding, prefix.head_size,
        prefix.table_size, prefix.body_size, prefix.sum,
    )  # fmt: skip


def unpack_prefix(data: Buffer, offset: int) -> Prefix:
    """:raises FormatError: it is no prefix, or a size is out of bounds."""
    marker, kind, alignment, padding, head, table, body, total = PREFIX.unpack(data)
    if marker != MARKER:
        raise DamageError(
            what="a piece's marker", offset=offset, expected=MARKER.hex(), got=marker.hex()
        )
    limits = (
        ("head size", head, HEAD_MAX),
        ("table size", table, TABLE_MAX),
        ("body size", body, INDEX_MAX if kind == INDEX else max(RECORD_MAX, PAGES_MAX << 12)),
        ("alignment", alignment, 16),
    )
    for what, got, highest in limits:
        if got > highest:
            raise FormatError(
                what=f"{what} of a piece", offset=offset, expected=f"at most {highest}",
                got=str(got),
            )  # fmt: skip
    return Prefix(kind, alignment, padding, head, table, body, total)


def frame(
    kind: int, head: bytes, table: bytes, body_size: int, alignment: int, offset: int
) -> tuple[bytes, int]:
    """What precedes a body, and how many zero bytes follow it.

    :param offset: where the piece will begin, a multiple of 8.
    :returns: prefix, head, table and padding in one; bytes of padding after the body.
    """
    unaligned = offset + PREFIX.size + len(head) + len(table)
    padding = -unaligned & ((1 << alignment) - 1)
    prefix = Prefix(kind, alignment, padding, len(head), len(table), body_size, 0)
    packed = pack_prefix(prefix)[:-8]
    total = head_sum(packed, head, table)
    return (
        b"".join((packed, total.to_bytes(8, "little"), head, table, bytes(padding))),
        -body_size & 7,
    )


@frozen
class BatchTable:
    """Which pfns a batch has and where their pages are.

    :ivar entries: (n,) u64, as in :class:`xsave.PageBatch`.
    :ivar zero: (m,) bool, which of the m pages are all zero.
    :ivar slots: (m - zeros,) i64, for each other page where it is: ``window + i`` for the
        i-th page stored in this batch, less for one that was stored before: the page whose
        number is ``base + slot - window``.
    :ivar deltas: what version 2 says of them; None where it says nothing.
    """

    entries: Entries
    zero: NDArray[np.bool_]
    slots: NDArray[np.int64]
    deltas: Deltas | None = None


def pack_table(table: BatchTable) -> tuple[bytes, int, int]:
    """Without ``deltas``.

    :returns: the bytes; the number of entry runs; the number of slot runs.
    """
    first, lengths = runs(table.entries)
    packed = first.astype("<u8").tobytes() + lengths.astype("<u4").tobytes()
    if not len(table.zero):  # 990 of the 1020 batches of a real HVM guest
        return packed, len(first), 0
    slot, slot_lengths = runs(table.slots)
    packed = b"".join(
        (
            packed,
            pack_bits(table.zero),
            slot.astype("<u4").tobytes(),
            slot_lengths.astype("<u4").tobytes(),
        )
    )
    return packed, len(first), len(slot)


class RunEntries(EntryList):
    """Entries in runs that go up by one, as a table has them: nearly always a single one.

    :param first: (k,) u64, the first entry of each; :param lengths: (k,) of each, not 0.
    :param total: sum of the lengths.
    """

    def __init__(self, first: Entries, lengths: NDArray[Any], total: int) -> None:
        self._first = first
        self._lengths = lengths
        self._total = total
        self._array: Entries | None = None

    def __len__(self) -> int:
        return self._total

    def array(self) -> Entries:
        if self._array is None:
            self._array = expand_runs(self._first, self._lengths)
        return self._array

    @functools.cached_property
    def _last(self) -> Entries | None:
        """(k,) u64, the last entry of each run; None if a run leaves the pfns, into the bits
        of the type: which no writer makes, and a reader must count as it is."""
        last = self._first + (self._lengths - 1)
        high = np.uint64(52)
        return last if np.array_equal(last >> high, self._first >> high) else None

    def type_counts(self) -> Mapping[int, int]:
        return self._type_counts

    @functools.cached_property
    def _type_counts(self) -> Mapping[int, int]:
        if self._last is None:
            raw = RawEntries(self.array().astype("<u8", copy=False).tobytes())
            return raw.type_counts()
        kinds = (self._first >> TYPE_SHIFT).astype(np.intp)
        counts = np.bincount(kinds, self._lengths)
        return {int(kind): int(counts[kind]) for kind in np.flatnonzero(counts)}

    def pfn_range(self) -> tuple[int, int] | None:
        return self._pfn_range

    @functools.cached_property
    def _pfn_range(self) -> tuple[int, int] | None:
        if not self._total or self._last is None:
            return super().pfn_range()
        return int((self._first & PFN_MASK).min()), int((self._last & PFN_MASK).max())


class UnpackedTable:
    """A table as it was read: like :class:`BatchTable`, but what is long when written out
    is kept as runs until somebody asks. A piece that is carried through, or passed over,
    never needs it."""

    def __init__(self, entries: RunEntries, zero: NDArray[np.bool_], slot_runs: Runs) -> None:
        self.entries = entries
        self.zero = zero
        self._first, self._lengths = slot_runs

    @functools.cached_property
    def slots(self) -> NDArray[np.int64]:
        return expand_runs(self._first, self._lengths)

    def slot_range(self) -> tuple[int, int] | None:
        """Lowest and highest; None without slots."""
        if not len(self._first):
            return None
        return int(self._first.min()), int((self._first + self._lengths).max()) - 1


def table_size(entry_runs: int, nr_pages: int, slot_runs: int) -> int:
    """Bytes, without what version 2 adds."""
    return 12 * entry_runs + (nr_pages + 7) // 8 + 8 * slot_runs


def unpack_table(
    data: memoryview, nr_entries: int, entry_runs: int, nr_pages: int, slot_runs: int,
    nr_same: int = 0,
) -> UnpackedTable:  # fmt: skip
    """:param nr_same: pages that have no slot because they are those of the base.

    :raises ValueError: the sizes do not fit together; the text says which.
    """
    bitmap = (nr_pages + 7) // 8
    if len(data) != table_size(entry_runs, nr_pages, slot_runs):
        raise ValueError(f"a table of {len(data)} bytes")
    at = 8 * entry_runs
    lengths = np.frombuffer(data, "<u4", entry_runs, at)
    first = np.frombuffer(data, "<u8", entry_runs).astype(np.uint64, copy=False)
    check_lengths(lengths, nr_entries, "entries")
    at += 4 * entry_runs
    zero = unpack_bits(data[at : at + bitmap], nr_pages)
    at += bitmap
    slot = np.frombuffer(data, "<u4", slot_runs, at).astype(np.int64)
    slot_lengths = np.frombuffer(data, "<u4", slot_runs, at + 4 * slot_runs).astype(np.int64)
    check_lengths(slot_lengths, nr_pages - nr_same - int(np.count_nonzero(zero)), "slots")
    return UnpackedTable(RunEntries(first, lengths, nr_entries), zero, (slot, slot_lengths))


def pack_bits(bits: NDArray[np.bool_]) -> bytes:
    """Bit i, lowest bit of the first byte first, stands for element i."""
    return np.packbits(bits, bitorder="little").tobytes()


def unpack_bits(data: memoryview, count: int) -> NDArray[np.bool_]:
    """:raises ValueError: bits are set after the last one."""
    packed = np.frombuffer(data, np.uint8, (count + 7) // 8)
    if count % 8 and int(packed[-1]) >> count % 8:
        raise ValueError("bits set after the last page")
    return np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)


def check_lengths(lengths: NDArray[Any], expected: int, what: str) -> None:
    total = int(lengths.sum(dtype=np.uint64)) if len(lengths) else 0
    if total != expected or (len(lengths) and not lengths.all()):
        raise ValueError(f"runs of {total} {what} for {expected}")
