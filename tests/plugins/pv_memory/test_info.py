from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.pv_memory.info import PvInfo, PvInfoHandler

HANDLER = PvInfoHandler()


def test_real_record_field_by_field(golden_body: Callable[[str], memoryview]) -> None:
    body = golden_body("xen.pv.info.pv")
    state = HANDLER.decode(body)
    assert state == PvInfo(guest_width=8, pt_levels=4, reserved=bytes(6), trailing=b"")
    assert b"".join(HANDLER.encode(state)) == body


def test_32_bit_guest_has_three_levels() -> None:
    state = HANDLER.decode(memoryview(b"\4\3" + bytes(6)))
    assert (state.guest_width, state.pt_levels) == (4, 3)


def test_longer_body_is_tolerated_and_kept() -> None:
    body = b"\10\4abcdef" + b"more"
    state = HANDLER.decode(memoryview(body))
    assert (state.reserved, state.trailing) == (b"abcdef", b"more")
    assert b"".join(HANDLER.encode(state)) == body


@pytest.mark.parametrize("pair", [(4, 4), (8, 3), (4, 2), (0, 0), (8, 5), (2, 3)])
def test_illegal_combination_is_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(FieldError, match=f"expected 4, 3 or 8, 4, got {pair[0]}, {pair[1]}"):
        HANDLER.decode(memoryview(bytes(pair) + bytes(6)))


def test_short_body_is_refused() -> None:
    with pytest.raises(FieldError, match="got 7 bytes"):
        HANDLER.decode(memoryview(b"\10\4" + bytes(5)))


@given(st.sampled_from([b"\4\3", b"\10\4", b""]), st.binary(max_size=30))
def test_garbage_is_refused_or_round_trips(start: bytes, rest: bytes) -> None:
    body = start + rest
    try:
        state = HANDLER.decode(memoryview(body))
    except FieldError:
        assert len(body) < 8 or body[:2] not in (b"\4\3", b"\10\4")
    else:
        assert b"".join(HANDLER.encode(state)) == body
