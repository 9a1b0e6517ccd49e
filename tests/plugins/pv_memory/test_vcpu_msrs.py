from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.pv_memory.vcpu_msrs import MAX_ENTRIES, MsrEntry, VcpuMsrsHandler

HANDLER = VcpuMsrsHandler()

NAMES = {
    0x48: "SPEC_CTRL", 0x140: "MISC_FEATURES_ENABLES", 0xC0000103: "TSC_AUX",
    0xC0011027: "DR0_ADDRESS_MASK", 0xC0011019: "DR1_ADDRESS_MASK",
    0xC001101A: "DR2_ADDRESS_MASK", 0xC001101B: "DR3_ADDRESS_MASK", 0x10: "unknown",
}  # fmt: skip


def test_entries_are_index_reserved_value() -> None:
    body = struct.pack("<IIIIQ", 2, 1, 0xC0000103, 6, 1 << 63)
    state = HANDLER.decode(memoryview(body))
    assert (state.vcpu_id, state.reserved) == (2, 1)
    assert state.entries == (MsrEntry(index=0xC0000103, reserved=6, value=1 << 63),)


def test_indices_are_named_and_unknown_ones_carried() -> None:
    body = bytes(8) + b"".join(struct.pack("<IIQ", index, 0, 1) for index in NAMES)
    shown = HANDLER.describe(HANDLER.decode(memoryview(body)), {})
    assert {e["index"]["value"]: e["index"]["name"] for e in shown["entries"]} == NAMES


def test_empty_record_of_old_releases_is_tolerated() -> None:
    body = struct.pack("<II", 9, 0)
    state = HANDLER.decode(memoryview(body))
    assert state.entries == ()
    assert b"".join(HANDLER.encode(state)) == body


@pytest.mark.parametrize("size", [1, 15, 17, 16 * (MAX_ENTRIES + 1)])
def test_ragged_and_absurd_lengths_are_refused(size: int) -> None:
    with pytest.raises(FieldError, match=f"entries of 16 bytes, got {size} bytes"):
        HANDLER.decode(memoryview(bytes(8 + size)))


def test_body_without_a_header_is_refused() -> None:
    with pytest.raises(FieldError, match="got 3 bytes"):
        HANDLER.decode(memoryview(bytes(3)))


@given(st.integers(0, 6).flatmap(lambda n: st.binary(min_size=8 + 16 * n, max_size=8 + 16 * n)))
def test_any_entries_round_trip(body: bytes) -> None:
    assert b"".join(HANDLER.encode(HANDLER.decode(memoryview(body)))) == body


@given(st.binary(max_size=80))
def test_garbage_is_refused_or_round_trips(body: bytes) -> None:
    try:
        state = HANDLER.decode(memoryview(body))
    except FieldError:
        assert len(body) < 8 or len(body) % 16 != 8
    else:
        assert b"".join(HANDLER.encode(state)) == body
