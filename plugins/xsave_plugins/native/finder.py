"""Pages by pfn from an image that lies in a file, reading only the pieces needed.

The index at the end gives each batch's range of pfns, so the batches that can hold a pfn
are known without reading any; their tables (not their bodies) say which does, latest
first; and a page that was stored before is found by its number in the same index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xsave import (
    PFN_MASK,
    FormatError,
    Pages,
    RandomAccess,
    ReadOptions,
    TruncatedError,
    carries_page,
)

from . import spec
from .pieces import (
    PAGE_SIZE,
    BatchHead,
    Piece,
    codec_of,
    describe_header,
    parse_batch,
    read_header,
    read_piece,
    unpack,
)


class _Cursor:
    """A ByteSource over an image in a file, from an offset on."""

    def __init__(self, image: RandomAccess, offset: int) -> None:
        self._image = image
        self.offset = offset
        self.size_bytes = image.size_bytes

    def take(self, size_bytes: int, what: str) -> memoryview:
        data = self._image.read_at(self.offset, size_bytes, what)
        self.offset += size_bytes
        return data

    def skip(self, size_bytes: int, what: str) -> None:
        self.offset += size_bytes

    def peek(self, size_bytes: int) -> bytes:
        size = min(size_bytes, max(self.size_bytes - self.offset, 0))
        return bytes(self._image.read_at(self.offset, size, "image"))

    def at_end(self) -> bool:
        return self.offset >= self.size_bytes


class NativeFinder:
    """:raises StreamError: the image has no intact header, tail, end and index."""

    def __init__(self, image: RandomAccess, options: ReadOptions) -> None:
        self._image = image
        self._options = options
        head, _ = read_header(_Cursor(image, 0))
        describe_header(head)
        self._window: int = head["window"]
        self._checksum: str = head["checksum"]
        self._rows = self._read_index()
        self._stored: dict[int, Pages] = {}

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
        piece = read_piece(_Cursor(self._image, offset))
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

    def find(self, pfns: Sequence[int]) -> Mapping[int, tuple[int, Pages | None]]:
        wanted = np.unique(np.array(pfns, np.uint64))
        found: dict[int, tuple[int, Pages | None]] = {}
        for row in range(len(self._rows) - 1, -1, -1):
            if not len(wanted):
                break
            first, last = self._rows["first_pfn"][row], self._rows["last_pfn"][row]
            if not len(wanted[(wanted >= first) & (wanted <= last)]):
                continue
            wanted = self._search(row, wanted, found)
        return found

    def _search(
        self, row: int, wanted: NDArray[np.uint64], found: dict[int, tuple[int, Pages | None]]
    ) -> NDArray[np.uint64]:
        """Look for pfns in one batch; the pfns that are still wanted."""
        _, head = self._batch(row)
        entries = head.table.entries.array()
        pfns = entries & PFN_MASK
        carries = np.cumsum(carries_page(entries)) - 1
        here = np.flatnonzero(np.isin(pfns, wanted))
        for at in here.tolist():  # the last mention in a batch wins, as it does in a stream
            entry = int(entries[at])
            page = None
            if carries_page(entries[at : at + 1])[0]:
                page = self._page(row, head, int(carries[at]))
            found[int(pfns[at])] = (entry >> 60, page)
        return wanted[~np.isin(wanted, pfns[here])]

    def _batch(self, row: int) -> tuple[Piece, BatchHead]:
        piece = self._piece(int(self._rows["offset"][row]), spec.PAGES)
        head = parse_batch(piece, self._window)
        if head.base != self._rows["base"][row]:
            raise piece.wrong("base", str(self._rows["base"][row]), head.base)
        return piece, head

    def _page(self, row: int, head: BatchHead, which: int) -> Pages:
        """(1, 4096) u8: the ``which``-th page of a batch."""
        if head.table.zero[which]:
            return np.zeros((1, PAGE_SIZE), np.uint8)
        slot = int(head.table.slots[which - int(np.count_nonzero(head.table.zero[:which]))])
        number = head.base + slot - self._window
        if number < head.base:
            bases = self._rows["base"]
            row = int(np.searchsorted(bases, number, side="right")) - 1
        stored, base = self._stored_pages(row)
        return stored[number - base : number - base + 1]

    def _stored_pages(self, row: int) -> tuple[Pages, int]:
        """(s, 4096) u8: all pages stored in one batch, and the number of the first."""
        base = int(self._rows["base"][row])
        if row not in self._stored:
            piece, head = self._batch(row)
            body = self._body(piece, "a batch of pages", head.stored * PAGE_SIZE)
            self._stored.clear()  # one batch is kept: neighbours are asked for together
            self._stored[row] = np.frombuffer(body, np.uint8).reshape(head.stored, PAGE_SIZE)
        return self._stored[row], base
