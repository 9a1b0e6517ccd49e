"""xen.hvm.page_data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import BROKEN, NOTAB, TYPE_NAMES, XALLOC, XTAB, FieldError, PageBatch, RecordType
from xsave.testing import MemoryHandlerSuite
from xsave_plugins.hvm_context import HvmPageDataHandler

HANDLER = HvmPageDataHandler()
ALLOWED = (NOTAB, BROKEN, XALLOC, XTAB)


def batch_of(*types, first_pfn=0x1000, reserved=0):
    entries = np.array(
        [kind << 60 | reserved << 52 | first_pfn + n for n, kind in enumerate(types)], np.uint64
    )
    return PageBatch(RecordType(HANDLER.name), entries, None, 0)


@pytest.mark.parametrize(
    "types",
    [(NOTAB,), (XTAB, XTAB), (BROKEN, XALLOC, XTAB), ALLOWED, (XTAB, NOTAB, BROKEN), ()],
    ids=str,
)
def test_types_of_hvm_guests_are_accepted(types):
    HANDLER.check(batch_of(*types))


@pytest.mark.parametrize("kind", sorted(set(range(16)) - set(ALLOWED)))
@pytest.mark.parametrize("before", [(), (NOTAB,), (XTAB, NOTAB)], ids=str)
def test_other_types_are_refused_with_the_first_such_pfn(kind, before):
    batch = batch_of(*before, kind, NOTAB, kind, first_pfn=0xABC00)
    with pytest.raises(FieldError) as caught:
        HANDLER.check(batch)
    assert caught.value.field == f"type of pfn {0xABC00 + len(before):#x}"
    assert caught.value.got == TYPE_NAMES[kind]


def test_reserved_bits_of_an_entry_are_not_looked_at():
    HANDLER.check(batch_of(NOTAB, XTAB, reserved=0xFF))


@settings(max_examples=100)
@given(st.lists(st.integers(0, 15), max_size=30))
def test_a_batch_is_refused_exactly_when_one_type_is_wrong(types):
    wrong = [n for n, kind in enumerate(types) if kind not in ALLOWED]
    if not wrong:
        HANDLER.check(batch_of(*types))
        return
    with pytest.raises(FieldError, match=f"pfn {0x1000 + wrong[0]:#x}:"):
        HANDLER.check(batch_of(*types))


class TestHvmPageDataConformance(MemoryHandlerSuite):
    handler = HANDLER
    good = ([0, 1, 2], [XTAB << 60 | n for n in range(9)], [BROKEN << 60, 1, XALLOC << 60 | 2])
    refused = ([1 << 60], [0, 9 << 60 | 5], [XTAB << 60, 5 << 60])
    max_examples = 30
