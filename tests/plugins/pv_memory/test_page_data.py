from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError, PageBatch, RecordType, count_pages
from xsave_plugins.pv_memory.page_data import PvPageDataHandler

HANDLER = PvPageDataHandler()


def batch_of(*pairs: tuple[int, int], reserved_bits: int = 0) -> PageBatch:
    """Of (type, pfn)."""
    entries = np.array([kind << 60 | reserved_bits << 52 | pfn for kind, pfn in pairs], np.uint64)
    return PageBatch(RecordType(HANDLER.name), entries, None, count_pages(entries))


@pytest.mark.parametrize("kind", [5, 6, 7, 8])
def test_reserved_type_is_refused_with_its_first_pfn(kind: int) -> None:
    with pytest.raises(
        FieldError, match=rf"type of pfn 0x22: expected .*, got {kind} \(reserved\)"
    ):
        HANDLER.check(batch_of((0, 0x11), (kind, 0x22), (0, 0x33), (8, 0x44)))


def test_every_other_type_is_legal() -> None:
    HANDLER.check(batch_of(*((kind, kind) for kind in (*range(5), *range(9, 16)))))


def test_reserved_bits_of_an_entry_are_not_refused() -> None:
    HANDLER.check(batch_of((0, 1), (9, 2), reserved_bits=0xFF))


def test_a_batch_of_nothing_is_no_fault() -> None:
    empty = PageBatch(RecordType(HANDLER.name), np.zeros(0, np.uint64), None, 0)
    HANDLER.check(empty)


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=40))
def test_exactly_the_batches_with_a_reserved_type_are_refused(entries: list[int]) -> None:
    array = np.array(entries, np.uint64)
    batch = PageBatch(RecordType(HANDLER.name), array, None, 0)
    wrong = [entry for entry in entries if 5 <= entry >> 60 <= 8]
    if wrong:
        with pytest.raises(FieldError, match=f"pfn {wrong[0] & (1 << 52) - 1:#x}:"):
            HANDLER.check(batch)
    else:
        HANDLER.check(batch)
