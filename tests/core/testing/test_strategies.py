"""Generated inputs cover what they say they do."""

from __future__ import annotations

import numpy as np
from hypothesis import Phase, find, given, settings

from xsave import PAGE_SIZE, PageBatch, Record, count_pages, zero_rows
from xsave.testing import strategies

BODY = bytes(range(32))
WITHOUT_SHRINKING = settings(max_examples=3000, phases=[Phase.generate])


@given(strategies.page_batches(max_pfns=8, types=[0, 1, 0xF], pfn_max=99, page_size=512))
def test_batches_keep_to_what_was_asked_for(batch: PageBatch) -> None:
    assert 1 <= len(batch.entries) <= 8
    assert set(batch.types.tolist()) <= {0, 1, 0xF}
    assert batch.pfns.max() <= 99
    assert batch.pages is not None and batch.pages.shape == (count_pages(batch.entries), 512)


def test_batches_have_zero_pages_equal_pages_and_different_ones() -> None:
    def has_all(batch: PageBatch) -> bool:
        assert batch.pages is not None
        different = {page.tobytes() for page in batch.pages if page.any()}
        nr_zero = int(zero_rows(batch.pages).sum())
        return nr_zero >= 1 and 2 <= len(different) < batch.nr_pages - nr_zero

    assert find(strategies.page_batches(), has_all, settings=WITHOUT_SHRINKING)


def test_damage_cuts_lengthens_and_changes() -> None:
    bodies = strategies.record_bodies(BODY)
    wanted = (
        lambda body: body != BODY and BODY.startswith(body) and len(body) > 8,
        lambda body: body != BODY and body.startswith(BODY),
        lambda body: len(body) == len(BODY) and 0 < sum(map(int.__ne__, body, BODY)) < 4,
    )
    for what in wanted:
        assert find(bodies, what, settings=WITHOUT_SHRINKING) is not None


@given(strategies.records(max_body_bytes=9))
def test_records_have_any_body_up_to_the_size(record: Record) -> None:
    assert len(record.body) <= 9


def test_equal_seeds_make_equal_pages() -> None:
    pages = strategies.pages_of([0, 1, 2, 1, 3])
    assert pages.shape == (5, PAGE_SIZE)
    assert np.array_equal(pages[1], pages[3])
    assert zero_rows(pages).tolist() == [True, False, False, False, True]
