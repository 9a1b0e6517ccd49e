"""An earlier image of the same guest, that another one was or is written against.

It is named by its seal, which stands for every byte of it. Before a page of it is used, its
structure was read once: the seal is proved, and for each pfn it is known which batch speaks
of it last. Bodies are read, and checked, as pages are asked for.

Memory use: four bytes for each pfn, and the batches read last.
"""

from __future__ import annotations

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from xsave import (
    PFN_MASK,
    ByteSource,
    Cursor,
    Entries,
    PageBatch,
    PageMode,
    Pages,
    RandomAccess,
    ReadOptions,
    RecordError,
    UsageError,
    carries_page,
    frozen,
)

from .finder import HEADS_KEPT_BYTES, NativeFinder, held_bytes
from .format import MAGIC
from .pieces import BatchHead, Piece
from .reader import NativeReader

PFNS_MAX = 1 << 26  # of a guest of 256 GiB; of pfns from there on, a base has no pages
PAGE_SIZE = 4096


class _Structure(NativeReader):
    """:ivar first: batches as far as there is room, so that they need not be read again."""

    def __init__(self, source: ByteSource, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.first: list[tuple[Piece, BatchHead]] = []
        self._room_bytes = HEADS_KEPT_BYTES

    def _parse(self, piece: Piece) -> BatchHead:
        head = super()._parse(piece)
        self._room_bytes -= held_bytes(piece, head)
        if self._room_bytes >= 0:
            self.first.append((piece, head))
        return head


@frozen
class Looked:
    """What a base has of n pfns.

    :ivar found: (n,) bool, which have a page that must be compared.
    :ivar zero: (n,) bool, which have one that is known to be zero; none of both.
    :ivar pages: (n, 4096) u8, not to be written to; anything in rows that were not found.
    """

    found: NDArray[np.bool_]
    zero: NDArray[np.bool_]
    pages: Pages


class Base:
    """:raises StreamError: the image is damaged, cut or not authentic.
    :raises UsageError: it is no native image, or was itself written against another.

    :ivar seal: proved.
    """

    def __init__(self, image: RandomAccess, options: ReadOptions) -> None:
        head = bytes(image.read_at(0, min(len(MAGIC), image.size_bytes), "image header"))
        if head != MAGIC:
            raise UsageError("the base is no native image")
        alone = evolve(options, pages=PageMode.SKIP, base=None)
        reader = _Structure(Cursor(image, 0), alone)
        if reader.info.base:
            raise UsageError(
                "the base was itself written against another image "
                f"(with seal {reader.info.base:.16}...): make it a whole one first, with "
                "xsave run BASE WHOLE --codec ... --base ITS_BASE"
            )
        self._latest = np.full(0, -1, np.int32)  # row of the batch, -1 for no page
        self._follow(reader)
        self.seal = reader.seal
        self._finder = NativeFinder(image, alone)
        for row, (piece, parsed) in enumerate(reader.first):
            self._finder.know(row, piece, parsed)

    def _follow(self, reader: NativeReader) -> None:
        """Read the whole structure, up to the seal."""
        row = 0
        for event in reader:
            if not isinstance(event, PageBatch):
                continue
            self._remember(event.entries, row)
            row += 1

    def _remember(self, entries: Entries, row: int) -> None:
        pfns = entries & PFN_MASK
        within = pfns < PFNS_MAX
        if not within.all():
            entries, pfns = entries[within], pfns[within]
        highest = int(pfns.max(initial=0))
        if highest >= len(self._latest):
            grown = np.full(min(max(2 * highest, 1 << 16), PFNS_MAX), -1, np.int32)
            grown[: len(self._latest)] = self._latest
            self._latest = grown
        # of several mentions in a batch the last assignment stays
        self._latest[pfns.astype(np.intp)] = np.where(carries_page(entries), row, -1)

    def rows_of(self, pfns: Entries) -> NDArray[np.int32]:
        """(n,) i32: the batch that has a pfn's page, -1 where there is none."""
        within = pfns < len(self._latest)
        at = np.where(within, pfns, 0).astype(np.intp)
        return np.where(within, self._latest[at], np.int32(-1)) if len(self._latest) else (
            np.full(len(pfns), -1, np.int32)
        )  # fmt: skip

    def read(self, pfns: Entries, out: Pages) -> NDArray[np.bool_]:
        """:param out: (n, 4096) u8; rows of pfns without a page are left as they are.

        :returns: (n,) bool, which have one.
        """
        rows = self.rows_of(pfns)
        start = 0
        for stop in (*(np.flatnonzero(rows[1:] != rows[:-1]) + 1).tolist(), len(rows)):
            # pfns come in order, and so do the batches that have them
            if stop > start and (row := int(rows[start])) >= 0:
                _, at = self._finder.mentions(row, pfns[start:stop])
                self._finder.fill(row, at, out[start:stop])
            start = stop
        return rows >= 0

    def look(self, pfns: Entries) -> Looked:
        """What it has of these pfns."""
        rows = self.rows_of(pfns)
        if len(rows) and rows[0] >= 0 and (rows == rows[0]).all():
            zero, pages = self._finder.look(int(rows[0]), pfns)
            return Looked(~zero, zero, pages)
        out = np.empty((len(pfns), PAGE_SIZE), np.uint8)
        return Looked(self.read(pfns, out), np.zeros(len(pfns), np.bool_), out)

    def pages(self, pfns: Entries, offset: int) -> Pages:
        """(n, 4096) u8: of pfns that must have a page.

        :param offset: of the batch that says so, for the error.
        """
        out = np.empty((len(pfns), PAGE_SIZE), np.uint8)
        found = self.read(pfns, out)
        if not found.all():
            raise no_page(int(pfns[~found][0]), offset)
        return out


def no_page(pfn: int, offset: int) -> RecordError:
    return RecordError(
        record="a batch of pages", offset=offset,
        reason=f"it refers to pfn {pfn:#x} of the base, which has no page there",
    )  # fmt: skip


def find_base(seal: bytes, options: ReadOptions) -> Base:
    """:param seal: of the base that an image was written against.

    :raises UsageError: no base was given, or another one.
    """
    if options.base is None:
        raise UsageError(
            f"the image holds only what changed since another one, with seal {seal.hex()}: "
            "name that image with --base (xsave run IMAGE WHOLE --base BASE makes a whole one)"
        )
    base = Base(options.base, options)
    if base.seal != seal:
        raise UsageError(
            f"the base given has seal {base.seal.hex()}; the image was written against one "
            f"with seal {seal.hex()}"
        )
    return base
