"""Hypothesis strategies for what plugins are given: bodies, entries, page batches, records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from ..batch import PAGE_SIZE, PageBatch
from ..pages import TYPE_SHIFT, Entries, Pages, count_pages
from ..record import Record, RecordType

ALL_TYPES = range(16)
_PFN_MAX = (1 << 52) - 1
_TEST_PAGES = RecordType("test.page_data")
_TEST_RECORD = RecordType("test.record", mandatory=False)


def record_bodies(*examples: bytes, max_size: int = 256) -> st.SearchStrategy[bytes]:
    """Random bytes, and the examples with something wrong with them."""
    random_bodies = st.binary(max_size=max_size)
    if not examples:
        return random_bodies
    return random_bodies | st.sampled_from(examples).flatmap(damaged)


def damaged(body: bytes) -> st.SearchStrategy[bytes]:
    """The body cut, lengthened, or with up to four bytes changed (now and then not at all)."""
    changed = st.lists(
        st.tuples(st.integers(0, max(len(body) - 1, 0)), st.integers(0, 255)), max_size=4
    ).map(lambda changes: _with_changes(body, changes))
    return st.one_of(
        changed,
        st.integers(0, len(body)).map(lambda size: body[:size]),
        st.binary(min_size=1, max_size=24).map(lambda more: body + more),
    )


def _with_changes(body: bytes, changes: Sequence[tuple[int, int]]) -> bytes:
    changed = bytearray(body)
    for offset, value in changes:
        if offset < len(changed):
            changed[offset] = value
    return bytes(changed)


def entries(
    *, max_pfns: int = 32, types: Sequence[int] = ALL_TYPES, pfn_max: int = _PFN_MAX
) -> st.SearchStrategy[Entries]:
    """(n,) u64 with n from 1: type nibbles among ``types``, pfns that often follow each
    other or come twice, reserved bits zero."""
    pfns = st.integers(0, min(40, pfn_max)) | st.integers(0, pfn_max)
    one = st.tuples(pfns, st.sampled_from(types))
    return st.lists(one, min_size=1, max_size=max_pfns).map(_as_entries)


def _as_entries(pairs: Sequence[tuple[int, int]]) -> Entries:
    return np.array([pfn | kind << int(TYPE_SHIFT) for pfn, kind in pairs], np.uint64)


@st.composite
def page_batches(
    draw: st.DrawFn,
    kind: RecordType = _TEST_PAGES,
    *,
    max_pfns: int = 16,
    types: Sequence[int] = ALL_TYPES,
    pfn_max: int = _PFN_MAX,
    page_size: int = PAGE_SIZE,
) -> PageBatch:
    """Batches with zero pages, pages that come twice, and random pages."""
    chosen = draw(entries(max_pfns=max_pfns, types=types, pfn_max=pfn_max))
    nr_pages = count_pages(chosen)
    seeds = draw(st.lists(st.integers(0, 11), min_size=nr_pages, max_size=nr_pages))
    return PageBatch(kind, chosen, pages_of(seeds, page_size), nr_pages)


def pages_of(seeds: Sequence[int], page_size: int = PAGE_SIZE) -> Pages:
    """(n, page_size) u8: equal pages for equal seeds, zero pages for multiples of three.

    Seeds that leave one give pages that compress, those that leave two pages that do not.
    """
    pages = np.zeros((len(seeds), page_size), np.uint8)
    for row, seed in zip(pages, seeds, strict=True):
        generator = np.random.default_rng(seed)
        if seed % 3 == 1:
            row[: page_size // 4] = generator.integers(0, 256, page_size // 4, np.uint8)
        elif seed % 3 == 2:
            row[:] = generator.integers(0, 256, page_size, np.uint8)
    return pages


def records(
    kind: RecordType = _TEST_RECORD, *, max_body_bytes: int = 256
) -> st.SearchStrategy[Record]:
    """Records of one kind with any body."""
    return st.binary(max_size=max_body_bytes).map(lambda body: Record(kind, body))
