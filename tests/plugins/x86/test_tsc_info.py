from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.x86.tsc_info import TscInfo, TscInfoHandler

HANDLER = TscInfoHandler()


def test_real_pv_record_field_by_field(golden_body: Callable[[str], memoryview]) -> None:
    assert HANDLER.decode(golden_body("xen.x86.tsc_info.pv")) == TscInfo(
        mode=0, khz=2596128, nsec=22653375575, incarnation=1, reserved=0
    )


def test_real_pvh_record_is_native_without_frequency_and_time(
    golden_body: Callable[[str], memoryview],
) -> None:
    assert HANDLER.decode(golden_body("xen.x86.tsc_info.pvh")) == TscInfo(
        mode=2, khz=0, nsec=0, incarnation=1, reserved=0
    )


@pytest.mark.parametrize(
    ("mode", "name"),
    [(0, "default"), (1, "always_emulate"), (2, "native"), (3, "pvrdtscp"), (4, "unknown")],
)
def test_mode_is_named(mode: int, name: str) -> None:
    state = HANDLER.decode(memoryview(struct.pack("<IIQII", mode, 0, 0, 0, 0)))
    assert HANDLER.describe(state, {})["mode"] == {"value": mode, "name": name}


@given(st.binary(max_size=48))
def test_24_bytes_round_trip_and_any_other_size_is_refused(body: bytes) -> None:
    if len(body) == 24:
        assert b"".join(HANDLER.encode(HANDLER.decode(memoryview(body)))) == body
    else:
        with pytest.raises(FieldError, match="expected 24 bytes"):
            HANDLER.decode(memoryview(body))


@given(st.binary(min_size=24, max_size=24))
def test_every_24_bytes_round_trip(body: bytes) -> None:
    assert b"".join(HANDLER.encode(HANDLER.decode(memoryview(body)))) == body
