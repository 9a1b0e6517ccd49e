"""The items of RAM's sections, in batches.

An item is a word, of which the low 12 bits say what follows and the others where in its block:

    [name of the block, unless the word says that it is the same], then
    a page's 4096 bytes, or one byte that fills the page

Items of one kind in one block stand at equal distances, so a whole run is looked at with one
array. Source: QEMU migration/ram.c (ram_save_iterate, ram_load_precopy).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from attrs import field

from xsave import PAGE_SIZE, FormatError, PageBatch, Pages, RecordType, define

from .ahead import Ahead
from .ram_blocks import EOS, FLAGS_MASK, RAM_PAGES, RamBlock, RamBlocks

ZERO, PAGE, CONTINUE = 0x02, 0x08, 0x20
BATCH_PAGES = 1024
WORD_BYTES = 8
_BODY_BYTES: Final = {ZERO: 1, PAGE: PAGE_SIZE}
_REFUSED: Final = {
    0x01: "RAM_SAVE_FLAG_FULL of QEMU 0.9",
    0x04: "MEM_SIZE, a list of blocks where pages stand",
    0x40: "XBZRLE: save without capability xbzrle",
    0x80: "HOOK: pages that go over RDMA",
    0x100: "COMPRESS_PAGE: save without capability compress",
    0x200: "MULTIFD_FLUSH: save without capability multifd, whose pages are in other streams",
}
_TYPE = RecordType(RAM_PAGES)


class RamReader:
    """:param skips: whether contents are passed over."""

    def __init__(self, ahead: Ahead, blocks: RamBlocks, *, skips: bool) -> None:
        self._ahead = ahead
        self._blocks = blocks
        self._skips = skips
        self._block: RamBlock | None = None  # of the last item; sections do not change it

    def section(self) -> Iterator[PageBatch]:
        """The pages up to the end of a section, which is taken too."""
        ahead = self._ahead
        batch = _Batch(ahead.offset, self._skips)
        while True:
            ahead.need(WORD_BYTES, "item of ram")
            word = int.from_bytes(ahead.view[ahead.at : ahead.at + WORD_BYTES], "big")
            flags = word & FLAGS_MASK
            if word == EOS:
                break
            if flags in (ZERO, PAGE):
                self._named_item(batch, word)
            elif flags in (ZERO | CONTINUE, PAGE | CONTINUE):
                self._run(batch, flags)
            else:
                raise self._wrong("flags of an item of ram", "2 ZERO or 8 PAGE, with or without "
                                  "0x20 CONTINUE, or 0x10 EOS", _refusal(word))  # fmt: skip
            if batch.size == BATCH_PAGES:
                yield batch.finished()
                batch = _Batch(ahead.offset, self._skips)
        ahead.at += WORD_BYTES
        if batch.size:
            yield batch.finished()

    def _named_item(self, batch: _Batch, word: int) -> None:
        """The first item of a block."""
        ahead, kind = self._ahead, word & FLAGS_MASK
        ahead.need(WORD_BYTES + 1, "item of ram")
        name_bytes = ahead.view[ahead.at + WORD_BYTES]
        head = WORD_BYTES + 1 + name_bytes
        ahead.need(head + _BODY_BYTES[kind], "item of ram")
        name = bytes(ahead.view[ahead.at + WORD_BYTES + 1 : ahead.at + head])
        self._block = self._blocks.by_name.get(name)
        if self._block is None:
            raise self._wrong("block of an item of ram", "one that the first section names",
                              repr(name.decode("latin-1")))  # fmt: skip
        self._add(batch, kind, np.array([word], np.uint64), head, head + _BODY_BYTES[kind])

    def _run(self, batch: _Batch, flags: int) -> None:
        """As many items of one kind as stand here one behind the other, and there is room for."""
        ahead, kind = self._ahead, flags & ~CONTINUE
        distance = WORD_BYTES + _BODY_BYTES[kind]
        ahead.need(distance, "item of ram")
        count = min(ahead.left // distance, BATCH_PAGES - batch.size)
        words = np.ndarray((count,), ">u8", ahead.view, ahead.at, (distance,))
        differs = (words & np.uint64(FLAGS_MASK)) != flags
        if differs.any():
            count = int(differs.argmax())
        self._add(batch, kind, words[:count].astype(np.uint64), WORD_BYTES, distance)

    def _add(
        self, batch: _Batch, kind: int, words: np.ndarray[tuple[int], np.dtype[np.uint64]],
        head: int, distance: int,
    ) -> None:  # fmt: skip
        """:param head: bytes before an item's contents; :param distance: of items."""
        ahead, block, count = self._ahead, self._block, len(words)
        if block is None:
            raise self._wrong("item of ram", "the name of a block", "CONTINUE without one before")
        pages = words >> np.uint64(12)
        if (highest := int(pages.max())) >= block.nr_pages:
            raise self._wrong(
                f"address in block {block.name!r}", f"at most {block.size_bytes - 1:#x}",
                f"{highest * PAGE_SIZE:#x}",
            )  # fmt: skip
        contents = np.ndarray(
            (count, _BODY_BYTES[kind]), np.uint8, ahead.view, ahead.at + head, (distance, 1)
        )
        batch.add(pages + np.uint64(block.first_pfn), contents)
        ahead.at += count * distance

    def _wrong(self, what: str, expected: str, got: str) -> FormatError:
        return FormatError(what=what, offset=self._ahead.offset, expected=expected, got=got)


@define
class _Batch:
    """Of at most ``BATCH_PAGES``, each of them with contents."""

    offset: int
    skips: bool
    size: int = 0
    pfns: np.ndarray[tuple[int], np.dtype[np.uint64]] = field(
        factory=lambda: np.empty(BATCH_PAGES, np.uint64)
    )
    pages: Pages | None = None

    def add(self, pfns: np.ndarray[tuple[int], np.dtype[np.uint64]], contents: Pages) -> None:
        """:param contents: (n, 4096), or (n, 1) where one byte fills the page."""
        end = self.size + len(pfns)
        self.pfns[self.size : end] = pfns
        if not self.skips:
            if self.pages is None:
                self.pages = np.empty((BATCH_PAGES, PAGE_SIZE), np.uint8)
            self.pages[self.size : end] = contents
        self.size = end

    def finished(self) -> PageBatch:
        pages = None if self.pages is None else self.pages[: self.size]
        return PageBatch(_TYPE, self.pfns[: self.size], pages, self.size, self.offset)


def _refusal(word: int) -> str:
    flags = word & FLAGS_MASK
    known = next((text for bit, text in _REFUSED.items() if flags & ~CONTINUE == bit), "")
    return f"{flags:#x}" + (f" ({known})" if known else f", in the word {word:#x}")
