"""Pages are found where they lie, and of a pfn that comes again the last mention counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import Entries, LatestEntries, PlacedPages, carries_page
from xsave.testing import MemorySource

Mentions = Sequence[Sequence[tuple[int, int]]]  # batches of (type nibble, pfn)

mentions = st.lists(
    st.lists(st.tuples(st.sampled_from([0, 0, 1, 13, 15]), st.integers(0, 30)), min_size=1),
    max_size=6,
)


def as_entries(batch: Sequence[tuple[int, int]]) -> Entries:
    return np.array([kind << 60 | pfn for kind, pfn in batch], np.uint64)


@given(mentions)
def test_the_latest_entry_of_each_pfn_is_kept(batches: Mentions) -> None:
    latest = LatestEntries()
    expected: dict[int, int] = {}
    for batch in batches:
        latest.see(as_entries(batch))
        expected.update({pfn: kind << 60 | pfn for kind, pfn in batch})
    assert latest.result().tolist() == [expected[pfn] for pfn in sorted(expected)]


def test_a_pfn_that_no_guest_has_costs_no_memory() -> None:
    latest = LatestEntries()
    for start in range(100):
        latest.see(np.array([(1 << 52) - 1 - start], np.uint64))
    assert len(latest.result()) == 100


@settings(deadline=None)
@given(mentions, st.lists(st.integers(0, 35), max_size=6))
def test_a_page_is_found_by_its_pfn_in_whichever_batch_it_is(
    batches: Mentions, asked: Sequence[int]
) -> None:
    """Each batch: its entries, 8 bytes each, then its pages."""
    image = bytearray()
    rows = []
    expected: dict[int, tuple[int, bytes | None]] = {}
    for number, batch in enumerate(batches):
        entries = as_entries(batch)
        table, pages = len(image), len(image) + entries.nbytes
        image += entries.tobytes()
        for at, (kind, pfn) in enumerate(batch):
            page = bytes([number, at, kind]) * 1365 + b"x" if kind < 13 else None
            image += page or b""
            expected[pfn] = kind, page
        assert (len(image) - pages) // 4096 == int(carries_page(entries).sum())
        pfns = [pfn for _, pfn in batch]
        rows.append(((min(pfns), max(pfns)), table, len(batch), pages))
    source = MemorySource(bytes(image))
    finder = PlacedPages(
        source, lambda at, number: np.frombuffer(source.read_at(at, 8 * number, "table"), np.uint64)
    )
    for row in rows:
        finder.add(*row)
    found = finder.find(asked)
    assert set(found) == set(asked) & set(expected)
    for pfn, (kind, page) in found.items():
        assert (kind, None if page is None else page.tobytes()) == expected[pfn]
    assert finder.entries().tolist() == [expected[pfn][0] << 60 | pfn for pfn in sorted(expected)]
