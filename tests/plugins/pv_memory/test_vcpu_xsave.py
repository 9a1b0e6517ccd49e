from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.pv_memory.vcpu_xsave import VcpuXsaveHandler, Xcr

HANDLER = VcpuXsaveHandler()


def body_of(size: int, seed: int = 0) -> bytes:
    """A vcpu header and so many bytes, of a standard-format area where they hold one."""
    blob = bytearray(Random(seed).randbytes(size))
    blob[536:544] = bytes(len(blob[536:544]))  # xcomp_bv
    return bytes(8) + blob


def test_real_record_field_by_field(golden_body: Callable[[str], memoryview]) -> None:
    body = golden_body("xen.pv.vcpu_xsave.pv")
    state = HANDLER.decode(body)
    assert (state.vcpu_id, state.reserved) == (0, 0)
    assert state.xcr == Xcr(xcr0=7, xcr0_accum=7)
    assert state.area is not None
    assert state.area.legacy[:2] == b"\x7f\x03"  # the x87 control word at rest
    assert (state.area.xstate_bv, state.area.xcomp_bv) == (7, 0)
    assert len(state.components) == 256
    assert b"".join(HANDLER.encode(state)) == body


def test_every_field_lies_where_the_processor_puts_it() -> None:
    body = body_of(16 + 832, seed=4)
    state = HANDLER.decode(memoryview(body))
    assert state.xcr is not None and state.area is not None
    assert (state.xcr.xcr0, state.xcr.xcr0_accum) == struct.unpack_from("<QQ", body, 8)
    assert state.area.legacy == body[24:536]
    assert state.area.xstate_bv == int.from_bytes(body[536:544], "little")
    assert state.area.reserved == body[552:600]
    assert state.components == body[600:]


def test_state_components_are_named() -> None:
    body = struct.pack("<IIQQ", 0, 0, 0b111, 1 << 9 | 0b11)
    shown = HANDLER.describe(HANDLER.decode(memoryview(body)), {})["xcr"]
    for register, names in (
        ("xcr0", ["x87", "sse", "avx"]),
        ("xcr0_accum", ["x87", "sse", "pkru"]),
    ):
        assert [name for name, bit in shown[register]["bits"].items() if bit] == names


def test_nothing_to_restore_is_16_bytes() -> None:
    body = bytes(24)
    state = HANDLER.decode(memoryview(body))
    assert state.xcr == Xcr(xcr0=0, xcr0_accum=0)
    assert state.area is None
    assert b"".join(HANDLER.encode(state)) == body


def test_empty_record_of_old_releases_is_tolerated() -> None:
    body = struct.pack("<II", 77, 5)
    state = HANDLER.decode(memoryview(body))
    assert (state.vcpu_id, state.reserved, state.xcr, state.area) == (77, 5, None, None)
    assert b"".join(HANDLER.encode(state)) == body


@pytest.mark.parametrize("size", [1, 15, 17, 591])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(FieldError, match=f"expected 0, 16 or at least 592 bytes, got {size} bytes"):
        HANDLER.decode(memoryview(bytes(8 + size)))


def test_compacted_area_is_refused() -> None:
    body = bytearray(8 + 592)
    struct.pack_into("<Q", body, 8 + 16 + 520, 1 << 63)
    with pytest.raises(FieldError, match="xcomp_bv: expected 0, got 0x8000000000000000"):
        HANDLER.decode(memoryview(body))


@given(st.one_of(st.sampled_from([0, 16]), st.integers(592, 3000)), st.integers(0))
def test_any_standard_area_round_trips(size: int, seed: int) -> None:
    body = body_of(size, seed)
    assert b"".join(HANDLER.encode(HANDLER.decode(memoryview(body)))) == body


@given(st.binary(max_size=700))
def test_garbage_is_refused_or_round_trips(body: bytes) -> None:
    try:
        state = HANDLER.decode(memoryview(body))
    except FieldError:
        return
    assert b"".join(HANDLER.encode(state)) == body
