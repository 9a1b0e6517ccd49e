"""What a batch says of its entries is the same in every form they have."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xsave import RESERVED_TYPES, TYPES_WITH_PAGE, PageBatch, RawEntries, RecordType, count_pages

U64 = st.integers(0, (1 << 64) - 1)
TYPES = RecordType("test.page_data")


@given(st.lists(U64, max_size=40))
def test_raw_entries_and_an_array_say_the_same(words: list[int]) -> None:
    array = np.array(words, np.uint64)
    raw = PageBatch(TYPES, RawEntries(memoryview(array.astype("<u8").tobytes())), None, 0)
    for batch in (
        raw,
        PageBatch(TYPES, array, None, 0),
        PageBatch(TYPES, np.repeat(array, 2)[::2], None, 0),
    ):
        listed = batch.entry_list
        assert batch.nr_pfns == len(listed) == len(words)
        assert batch.entries.tolist() == words
        assert listed.type_counts() == Counter(word >> 60 for word in words)
        assert listed.nr_pages() == count_pages(array)
        pfns = [word & (1 << 52) - 1 for word in words]
        assert listed.pfn_range() == ((min(pfns), max(pfns)) if pfns else None)
        assert batch.pfns.tolist() == pfns
        assert batch.types.tolist() == [word >> 60 for word in words]


@given(st.lists(U64, max_size=40), st.sets(st.integers(0, 15)))
def test_the_first_entry_of_some_types_is_found(words: list[int], types: set[int]) -> None:
    found = RawEntries(np.array(words, "<u8").tobytes()).first_of(types)
    wanted = [(at, w & (1 << 52) - 1, w >> 60) for at, w in enumerate(words) if w >> 60 in types]
    assert found == (wanted[0] if wanted else None)


def test_no_type_is_both_reserved_and_followed_by_a_page() -> None:
    assert not RESERVED_TYPES & TYPES_WITH_PAGE
    assert frozenset(range(13, 16)) == frozenset(range(16)) - RESERVED_TYPES - TYPES_WITH_PAGE


def test_the_array_is_made_once() -> None:
    entries = RawEntries(bytes(80))
    assert entries.array() is entries.array()
