from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.pv_memory.vcpu_extended import ExtContext64, VcpuExtendedHandler

HANDLER = VcpuExtendedHandler()

FIELDS = [
    ("vcpu", 0, "I"), ("size", 4, "I"), ("syscall32_callback_eip", 8, "Q"),
    ("sysenter_callback_eip", 16, "Q"), ("syscall32_callback_cs", 24, "H"),
    ("sysenter_callback_cs", 26, "H"), ("syscall32_disables_events", 28, "B"),
    ("sysenter_disables_events", 29, "B"), ("padding", 30, "2s"), ("mcg_cap", 32, "Q"),
    ("mci_ctl2_bank0", 40, "Q"), ("mci_ctl2_bank1", 48, "Q"), ("mcg_ext_ctl", 56, "Q"),
]  # fmt: skip


def test_real_record_field_by_field(golden_body: Callable[[str], memoryview]) -> None:
    body = golden_body("xen.pv.vcpu_extended.pv")
    state = HANDLER.decode(body)
    assert (state.vcpu_id, state.reserved, state.rest) == (0, 0, b"")
    assert state.context == ExtContext64(
        vcpu=0,
        size=64,
        syscall32_callback_eip=0xFFFFFFFF81027F10,
        sysenter_callback_eip=0,
        syscall32_callback_cs=0,
        sysenter_callback_cs=0,
        syscall32_disables_events=1,
        sysenter_disables_events=0,
        padding=bytes(2),
        mcg_cap=2,
        mci_ctl2_bank0=0,
        mci_ctl2_bank1=0,
        mcg_ext_ctl=0,
    )
    assert b"".join(HANDLER.encode(state)) == body


@pytest.mark.parametrize("size", [32, 40, 56, 64])
def test_each_release_s_size_shows_its_fields_and_no_others(size: int) -> None:
    blob = Random(2).randbytes(size)
    state = HANDLER.decode(memoryview(bytes(8) + blob))
    assert state.rest == b""
    for name, offset, code in FIELDS:
        if offset < size:
            assert getattr(state.context, name) == struct.unpack_from("<" + code, blob, offset)[0]
        else:
            assert not hasattr(state.context, name)


@pytest.mark.parametrize(("size", "rest"), [(48, 8), (65, 1), (128, 64)])
def test_bytes_beyond_the_known_form_are_kept(size: int, rest: int) -> None:
    blob = Random(3).randbytes(size)
    state = HANDLER.decode(memoryview(bytes(8) + blob))
    assert state.rest == blob[-rest:]
    assert b"".join(HANDLER.encode(state)) == bytes(8) + blob


def test_empty_record_of_old_releases_is_tolerated() -> None:
    body = struct.pack("<II", 0xFFFFFFFF, 0)
    state = HANDLER.decode(memoryview(body))
    assert (state.vcpu_id, state.context) == (0xFFFFFFFF, None)
    assert b"".join(HANDLER.encode(state)) == body


@pytest.mark.parametrize("size", [1, 31, 129])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(FieldError, match=f"expected 0 or 32 to 128 bytes, got {size} bytes"):
        HANDLER.decode(memoryview(bytes(8 + size)))


@given(st.binary(max_size=150))
def test_garbage_is_refused_or_round_trips(body: bytes) -> None:
    try:
        state = HANDLER.decode(memoryview(body))
    except FieldError:
        assert (len(body) < 40 and len(body) != 8) or len(body) > 136
    else:
        assert b"".join(HANDLER.encode(state)) == body
