from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.x86.cpuid_policy import (
    MAX_LEAVES,
    NO_SUBLEAF,
    CpuidLeaf,
    CpuidPolicyHandler,
)

HANDLER = CpuidPolicyHandler()


@pytest.mark.parametrize("guest", ["pv", "pvh"])
def test_real_record_holds_52_leaves_in_ascending_order(
    guest: str, golden_body: Callable[[str], memoryview]
) -> None:
    body = golden_body(f"xen.x86.cpuid_policy.{guest}")
    state = HANDLER.decode(body)
    places = [
        (leaf.leaf, -1 if leaf.subleaf == NO_SUBLEAF else leaf.subleaf) for leaf in state.leaves
    ]
    assert len(places) == 52
    assert places == sorted(places)
    assert b"".join(HANDLER.encode(state)) == body


def test_real_record_field_by_field(golden_body: Callable[[str], memoryview]) -> None:
    leaves = HANDLER.decode(golden_body("xen.x86.cpuid_policy.pv")).leaves
    first = leaves[0]
    assert (first.leaf, first.subleaf, first.eax) == (0, NO_SUBLEAF, 13)
    assert struct.pack("<III", first.ebx, first.edx, first.ecx) == b"AuthenticAMD"
    ymm = CpuidLeaf(leaf=0xD, subleaf=2, eax=256, ebx=576, ecx=0, edx=0)
    assert ymm in leaves


def test_a_leaf_without_subleaves_shows_none() -> None:
    body = struct.pack("<12I", 1, NO_SUBLEAF, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0)
    shown = HANDLER.describe(HANDLER.decode(memoryview(body)), {})
    assert [leaf["subleaf"] for leaf in shown["leaves"]] == [None, 3]


@pytest.mark.parametrize("size_bytes", [0, 1, 23, 25, 24 * (MAX_LEAVES + 1)])
def test_empty_ragged_and_absurd_lengths_are_refused(size_bytes: int) -> None:
    with pytest.raises(FieldError, match=f"got {size_bytes} bytes"):
        HANDLER.decode(memoryview(bytes(size_bytes)))


@given(st.integers(1, 5).flatmap(lambda n: st.binary(min_size=24 * n, max_size=24 * n)))
def test_any_leaves_round_trip(body: bytes) -> None:
    assert b"".join(HANDLER.encode(HANDLER.decode(memoryview(body)))) == body


@given(st.binary(max_size=100))
def test_garbage_is_refused_or_round_trips(body: bytes) -> None:
    try:
        state = HANDLER.decode(memoryview(body))
    except FieldError:
        assert not body or len(body) % 24
    else:
        assert b"".join(HANDLER.encode(state)) == body
