from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.pv_memory.p2m_frames import P2mFramesHandler, nr_frames

HANDLER = P2mFramesHandler()


def body_of(start: int, end: int, frames: list[int]) -> bytes:
    return struct.pack(f"<II{len(frames)}Q", start, end, *frames)


def test_real_record_field_by_field(golden_body: Callable[[str], memoryview]) -> None:
    body = golden_body("xen.pv.p2m_frames.pv")
    state = HANDLER.decode(body)
    assert (state.start_pfn, state.end_pfn) == (0, 0x5FFF)
    assert len(state.frames) == 48
    assert state.frames[:3].tolist() == [0x5FBA, 0x5FB6, 0x5FB5]
    assert b"".join(HANDLER.encode(state)) == body


@pytest.mark.parametrize(
    ("start", "end", "width", "expected"),
    [
        (0, 0, 8, 1), (0, 511, 8, 1), (0, 512, 8, 2), (0, 0x5FFF, 8, 48), (511, 512, 8, 2),
        (0, 1023, 4, 1), (0, 1024, 4, 2), (1023, 1024, 4, 2), (0, 0xFFFFFFFF, 8, 1 << 23),
    ],
)  # fmt: skip
def test_a_frame_holds_512_or_1024_entries(start: int, end: int, width: int, expected: int) -> None:
    assert nr_frames(start, end, width) == expected


@pytest.mark.parametrize("nr", [1, 2])
def test_a_list_that_fits_either_width_is_taken(nr: int) -> None:
    state = HANDLER.decode(memoryview(body_of(0, 1023, [7] * nr)))
    assert len(state.frames) == nr


@pytest.mark.parametrize("nr", [0, 3])
def test_a_list_that_fits_no_width_is_refused(nr: int) -> None:
    with pytest.raises(FieldError, match=r"expected 16 bytes .* or 8 bytes .* for pfns 0x0-0x3ff"):
        HANDLER.decode(memoryview(body_of(0, 1023, [7] * nr)))


def test_start_after_end_is_refused() -> None:
    with pytest.raises(FieldError, match="start_pfn: expected at most end_pfn 0x4, got 0x5"):
        HANDLER.decode(memoryview(body_of(5, 4, [1])))


def test_short_body_is_refused() -> None:
    with pytest.raises(FieldError, match="got 7 bytes"):
        HANDLER.decode(memoryview(bytes(7)))


def test_state_is_immutable_and_comparable() -> None:
    body = bytearray(body_of(0, 0, [9]))
    state = HANDLER.decode(memoryview(body))
    body[8] = 1
    assert state.frames.tolist() == [9]
    with pytest.raises(ValueError, match="read-only"):
        state.frames[0] = 1
    assert state == HANDLER.decode(memoryview(body_of(0, 0, [9])))
    assert state != HANDLER.decode(memoryview(body))


def test_frames_are_described_as_numbers() -> None:
    state = HANDLER.decode(memoryview(body_of(0, 600, [3, 1 << 63])))
    assert HANDLER.describe(state, {}) == {
        "start_pfn": 0, "end_pfn": 600, "frames": [3, 1 << 63],
    }  # fmt: skip


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 5000), st.sampled_from([4, 8]), st.data())
def test_any_right_sized_list_round_trips(
    start: int, length: int, width: int, data: st.DataObject
) -> None:
    end = min(start + length, 0xFFFFFFFF)
    size = 8 * nr_frames(start, end, width)
    body = struct.pack("<II", start, end) + data.draw(st.binary(min_size=size, max_size=size))
    assert b"".join(HANDLER.encode(HANDLER.decode(memoryview(body)))) == body


@given(st.binary(max_size=64))
def test_garbage_is_refused_or_round_trips(body: bytes) -> None:
    try:
        state = HANDLER.decode(memoryview(body))
    except FieldError:
        return
    assert b"".join(HANDLER.encode(state)) == body
