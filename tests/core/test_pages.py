"""Vectorised page arithmetic against the plain way of doing it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import (
    HAS_PAGE,
    IS_RESERVED,
    PAGE_SIZE,
    TYPE_NAMES,
    Entries,
    PageBatch,
    RecordType,
    carries_page,
    count_pages,
    expand_runs,
    runs,
    zero_rows,
)
from xsave.testing import strategies

U64_MAX = 2**64 - 1


def has_page(kind: int) -> bool:
    """Xen's rule: tables with and without the pin bit, and plain pages."""
    return kind in {0, 1, 2, 3, 4, 9, 10, 11, 12}


def test_the_tables_of_types_agree() -> None:
    assert len(TYPE_NAMES) == len(HAS_PAGE) == len(IS_RESERVED) == 16
    for kind in range(16):
        assert bool(HAS_PAGE[kind]) == has_page(kind)
        assert bool(IS_RESERVED[kind]) == TYPE_NAMES[kind].startswith("reserved")


@given(st.lists(st.integers(0, U64_MAX), max_size=40))
def test_pages_are_carried_by_the_types_that_have_them(values: list[int]) -> None:
    entries = np.array(values, np.uint64)
    expected = [has_page(value >> 60) for value in values]
    assert carries_page(entries).tolist() == expected
    assert count_pages(entries) == sum(expected)


@pytest.mark.parametrize("kind", range(16))
def test_a_batch_of_one_type_is_counted_as_any_other(kind: int) -> None:
    entries = np.array([kind << 60 | pfn for pfn in range(7)], np.uint64)
    assert count_pages(entries) == (7 if has_page(kind) else 0)


def test_no_entries_have_no_pages() -> None:
    assert count_pages(np.zeros(0, np.uint64)) == 0


def plain_runs(values: list[int]) -> list[list[int]]:
    if not values:
        return []
    split = [[values[0]]]
    for before, value in pairwise(values):
        if value == before + 1:
            split[-1].append(value)
        else:
            split.append([value])
    return split


@given(st.lists(st.integers(0, 12) | st.integers(0, 2**52 - 1), max_size=60))
def test_runs_go_up_by_one_and_expand_to_what_they_were(values: list[int]) -> None:
    pfns = np.array(values, np.uint64)
    first, lengths = runs(pfns)
    expected = plain_runs(values)
    assert first.tolist() == [run[0] for run in expected]
    assert lengths.tolist() == [len(run) for run in expected]
    expanded = expand_runs(first, lengths)
    assert expanded.dtype == np.uint64
    assert expanded.tolist() == values


@given(st.lists(st.tuples(st.integers(0, U64_MAX - 100), st.integers(0, 9)), max_size=20))
def test_runs_expand_as_ranges_do(pairs: list[tuple[int, int]]) -> None:
    first = np.array([start for start, _ in pairs], np.uint64)
    lengths = np.array([length for _, length in pairs], np.uint32)
    expected = [value for start, length in pairs for value in range(start, start + length)]
    assert expand_runs(first, lengths).tolist() == expected


@given(st.lists(st.integers(0, 11), max_size=12))
def test_zero_pages_are_those_without_a_set_bit(seeds: list[int]) -> None:
    pages = strategies.pages_of(seeds)
    assert zero_rows(pages).tolist() == [not any(page.tobytes()) for page in pages]


@pytest.mark.parametrize("position", [0, 7, 8, PAGE_SIZE // 2, PAGE_SIZE - 1])
def test_one_bit_anywhere_makes_a_page_no_zero_page(position: int) -> None:
    pages = np.zeros((3, PAGE_SIZE), np.uint8)
    pages[1, position] = 0x80
    assert zero_rows(pages).tolist() == [True, False, True]


def test_a_batch_says_pfns_and_types_of_its_entries() -> None:
    entries: Entries = np.array([0x9 << 60 | 0x3F << 52 | 0x123, 0xF << 60 | 0x45], np.uint64)
    batch = PageBatch(RecordType("test.page_data"), entries, None, 1)
    assert batch.pfns.tolist() == [0x123, 0x45]
    assert batch.types.tolist() == [9, 15]
    assert batch.describe_pfns() == "pfns 0x45-0x123"
    assert PageBatch(batch.type, entries[:0], None, 0).describe_pfns() == "no pfns"


@given(strategies.page_batches())
def test_generated_batches_are_consistent(batch: PageBatch) -> None:
    assert batch.pages is not None
    assert batch.pages.shape == (batch.nr_pages, PAGE_SIZE)
    assert batch.nr_pages == count_pages(batch.entries)
