"""Batches as the items of RAM's sections: the mirror of :mod:`.ram_reader`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from xsave import (
    PAGE_SIZE,
    PFN_MASK,
    Buffer,
    OutputError,
    PageBatch,
    Pages,
    zero_rows,
)

from .ram_blocks import RamBlock, RamBlocks
from .ram_reader import CONTINUE, PAGE, WORD_BYTES, ZERO


class RamWriter:
    """Writes items as QEMU does: of a page that is all zero a single byte, and a block's name
    where it is another one than before."""

    def __init__(self, blocks: RamBlocks) -> None:
        self._blocks = blocks
        self._starts = np.array([one.first_pfn for one in blocks.blocks], np.uint64)
        self._block: RamBlock | None = None  # of the last item

    def items(self, batch: PageBatch) -> list[Buffer]:
        """:raises OutputError: there are no contents, or it is of no block."""
        if batch.pages is None or batch.nr_pages != batch.nr_pfns:
            raise OutputError(f"{batch.name}: a batch without its pages")
        if not batch.nr_pfns:
            return []
        pfns = batch.entries & PFN_MASK
        if (highest := int(pfns.max())) >= self._blocks.nr_pages:
            raise OutputError(
                f"{batch.name}: pfn {highest:#x} is in no block; the last one is "
                f"{self._blocks.nr_pages - 1:#x}"
            )
        pages = np.ascontiguousarray(batch.pages)
        is_zero = zero_rows(pages)
        of_block = np.searchsorted(self._starts, pfns, "right") - 1
        changes = [0, *(np.flatnonzero(np.diff(of_block)) + 1).tolist(), len(pfns)]
        made: list[Buffer] = []
        for start, end in pairwise(changes):
            block = self._blocks.blocks[int(of_block[start])]
            addresses = (pfns[start:end] - np.uint64(block.first_pfn)) << np.uint64(12)
            made += self._of_block(block, addresses, pages[start:end], is_zero[start:end])
        return made

    def _of_block(
        self, block: RamBlock, addresses: NDArray[np.uint64], pages: Pages,
        is_zero: NDArray[np.bool_],
    ) -> list[Buffer]:  # fmt: skip
        made: list[Buffer] = []
        if block is not self._block:
            self._block = block
            name = block.name.encode("latin-1")
            word = int(addresses[0]) | (ZERO if is_zero[0] else PAGE)
            head = word.to_bytes(WORD_BYTES, "big") + bytes([len(name)]) + name
            made.append(head + (b"\0" if is_zero[0] else pages[0].tobytes()))
            addresses, pages, is_zero = addresses[1:], pages[1:], is_zero[1:]
        if len(addresses):
            made.append(_continued(addresses, pages, is_zero).data)
        return made


def _continued(
    addresses: NDArray[np.uint64], pages: Pages, is_zero: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Items one behind the other, runs of one kind at a time."""
    sizes = np.where(is_zero, WORD_BYTES + 1, WORD_BYTES + PAGE_SIZE)
    made = np.empty(int(sizes.sum()), np.uint8)
    words = addresses | np.where(is_zero, ZERO | CONTINUE, PAGE | CONTINUE).astype(np.uint64)
    words = words.astype(">u8")
    edges = [0, *(np.flatnonzero(np.diff(is_zero)) + 1).tolist(), len(addresses)]
    at = 0
    for start, end in pairwise(edges):
        count, distance = end - start, int(sizes[start])
        np.ndarray((count,), ">u8", made.data, at, (distance,))[:] = words[start:end]
        body = np.ndarray(
            (count, distance - WORD_BYTES), np.uint8, made.data, at + WORD_BYTES, (distance, 1)
        )
        body[:] = 0 if distance == WORD_BYTES + 1 else pages[start:end]
        at += count * distance
    return made
