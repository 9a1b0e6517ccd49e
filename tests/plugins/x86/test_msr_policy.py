from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.x86.msr_policy import MAX_ENTRIES, MsrPolicyEntry, MsrPolicyHandler

HANDLER = MsrPolicyHandler()


def test_real_records_field_by_field(golden_body: Callable[[str], memoryview]) -> None:
    for guest, platform_info in (("pv", 0), ("pvh", 0x80000000)):
        body = golden_body(f"xen.x86.msr_policy.{guest}")
        state = HANDLER.decode(body)
        assert state.entries == (
            MsrPolicyEntry(index=0xCE, flags=0, value=platform_info),
            MsrPolicyEntry(index=0x10A, flags=0, value=0),
        )
        assert b"".join(HANDLER.encode(state)) == body


def test_indices_are_named_and_unknown_ones_carried() -> None:
    body = b"".join(struct.pack("<IIQ", index, 0, 0) for index in (0xCE, 0x10A, 0x1234))
    shown = HANDLER.describe(HANDLER.decode(memoryview(body)), {})
    assert [entry["index"] for entry in shown["entries"]] == [
        {"value": 0xCE, "name": "PLATFORM_INFO"},
        {"value": 0x10A, "name": "ARCH_CAPABILITIES"},
        {"value": 0x1234, "name": "unknown"},
    ]


@pytest.mark.parametrize("size_bytes", [0, 1, 15, 17, 16 * (MAX_ENTRIES + 1)])
def test_empty_ragged_and_absurd_lengths_are_refused(size_bytes: int) -> None:
    with pytest.raises(FieldError, match=f"got {size_bytes} bytes"):
        HANDLER.decode(memoryview(bytes(size_bytes)))


@given(st.binary(max_size=100))
def test_garbage_is_refused_or_round_trips(body: bytes) -> None:
    try:
        state = HANDLER.decode(memoryview(body))
    except FieldError:
        assert not body or len(body) % 16
    else:
        assert b"".join(HANDLER.encode(state)) == body


@given(st.integers(1, 5).flatmap(lambda n: st.binary(min_size=16 * n, max_size=16 * n)))
def test_any_entries_round_trip(body: bytes) -> None:
    assert b"".join(HANDLER.encode(HANDLER.decode(memoryview(body)))) == body
