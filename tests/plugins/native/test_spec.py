"""Tables that are kept as runs say what they say written out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xsave import PageBatch, RawEntries, RecordType, expand_runs
from xsave_plugins.native import spec

# Also runs that leave the pfns and count on into reserved bits and types, or over the end.
STARTS = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([(kind << 60) - back for kind in range(1, 17) for back in (1, 2, 9)]),
    st.sampled_from([(1 << 52) - 3, 0xF << 60 | (1 << 52) - 2]),
)
RUNS = st.lists(st.tuples(STARTS, st.integers(1, 12)), max_size=8)


@given(RUNS)
def test_runs_of_entries_say_what_the_entries_say(runs: list[tuple[int, int]]) -> None:
    first = np.array([start for start, _ in runs], np.uint64)
    lengths = np.array([length for _, length in runs], np.uint32)
    total = sum(length for _, length in runs)
    entries = spec.RunEntries(first, lengths, total)
    plain = RawEntries(expand_runs(first, lengths).astype("<u8").tobytes())
    assert len(entries) == len(plain) == total
    assert entries.type_counts() == plain.type_counts()
    assert entries.nr_pages() == plain.nr_pages()
    assert entries.pfn_range() == plain.pfn_range()
    batch = PageBatch(RecordType("test.page_data"), entries, None, 0)
    assert batch.entries.tolist() == plain.array().tolist()


@given(
    st.lists(st.integers(0, (1 << 64) - 1) | st.integers(0, 20), max_size=30),
    st.lists(st.booleans(), max_size=20),
    st.data(),
)
def test_a_table_comes_back(entries: list[int], zero: list[bool], data: st.DataObject) -> None:
    nr_slots = zero.count(False)
    slots = data.draw(st.lists(st.integers(0, 40), min_size=nr_slots, max_size=nr_slots))
    table = spec.BatchTable(
        np.array(entries, np.uint64), np.array(zero, np.bool_), np.array(slots, np.int64)
    )
    packed, entry_runs, slot_runs = spec.pack_table(table)
    back = spec.unpack_table(memoryview(packed), len(entries), entry_runs, len(zero), slot_runs)
    assert back.entries.array().tolist() == entries
    assert back.zero.tolist() == zero
    assert back.slots.tolist() == slots
    assert back.slot_range() == ((min(slots), max(slots)) if slots else None)
