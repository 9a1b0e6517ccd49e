"""Small batches, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import xsave

PAGES = xsave.RecordType("xen.hvm.page_data")


def page(seed: int) -> bytes:
    """4096 bytes: zeroes for seed 0, else ones that differ for each seed."""
    if seed == 0:
        return bytes(4096)
    return np.random.default_rng(seed).integers(0, 16, 4096, dtype=np.uint8).tobytes()


def batch(
    entries: Sequence[tuple[int, int]], pages: Sequence[bytes], *, reserved: int = 0
) -> xsave.PageBatch:
    """:param entries: (type nibble, pfn)."""
    words = np.array([kind << 60 | pfn for kind, pfn in entries], np.uint64)
    contents = np.frombuffer(b"".join(pages), np.uint8).reshape(len(pages), 4096)
    return xsave.PageBatch(PAGES, words, contents, len(pages), reserved=reserved)


def ordinary(first_pfn: int, seeds: Sequence[int]) -> xsave.PageBatch:
    """Consecutive ordinary pages with these seeds' contents."""
    return batch([(0, first_pfn + i) for i in range(len(seeds))], [page(seed) for seed in seeds])
