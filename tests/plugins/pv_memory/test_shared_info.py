from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.pv_memory.info import PvInfo
from xsave_plugins.pv_memory.shared_info import SharedInfo64, SharedInfoHandler

HANDLER = SharedInfoHandler()
INFO = {
    8: PvInfo(guest_width=8, pt_levels=4, reserved=bytes(6), trailing=b""),
    4: PvInfo(guest_width=4, pt_levels=3, reserved=bytes(6), trailing=b""),
}

# Field, offset and struct code in a 64-bit and in a 32-bit guest.
FIELDS = """
    vcpu_info.0.evtchn_upcall_pending 0 B 0 B; vcpu_info.0.evtchn_upcall_mask 1 B 1 B;
    vcpu_info.0.evtchn_pending_sel 8 Q 4 I; vcpu_info.0.cr2 16 Q 8 I;
    vcpu_info.0.time.version 32 I 32 I; vcpu_info.0.time.tsc_timestamp 40 Q 40 Q;
    vcpu_info.0.time.system_time 48 Q 48 Q; vcpu_info.0.time.tsc_to_system_mul 56 I 56 I;
    vcpu_info.0.time.tsc_shift 60 b 60 b; vcpu_info.0.time.flags 61 B 61 B;
    vcpu_info.31.evtchn_upcall_pending 1984 B 1984 B; vcpu_info.31.time.flags 2045 B 2045 B;
    evtchn_pending.0 2048 Q 2048 I; evtchn_pending.31 2296 Q 2172 I;
    evtchn_mask.0 2560 Q 2176 I; evtchn_mask.31 2808 Q 2300 I;
    wc_version 3072 I 2304 I; wc_sec 3076 I 2308 I; wc_nsec 3080 I 2312 I;
    arch.max_pfn 3088 Q 2316 I; arch.pfn_to_mfn_frame_list_list 3096 Q 2320 I;
    arch.nmi_reason 3104 Q 2324 I; arch.p2m_cr3 3112 Q 2328 I; arch.p2m_vaddr 3120 Q 2332 I;
    arch.p2m_generation 3128 Q 2336 I
"""


def at(shown: Any, path: str) -> Any:
    for step in path.split("."):
        shown = shown[int(step)] if step.isdigit() else shown[step]
    return shown


@pytest.mark.parametrize("width", [8, 4])
def test_every_field_lies_where_the_compiler_puts_it(width: int) -> None:
    page = Random(5).randbytes(4096)
    shown = HANDLER.describe(HANDLER.decode(memoryview(page)), {"xen.pv.info": INFO[width]})
    for row in FIELDS.split(";"):
        path, *places = row.split()
        offset, code = places[:2] if width == 8 else places[2:]
        assert at(shown, path) == struct.unpack_from("<" + code, page, int(offset))[0], path
    high_word = at(shown, "wc_sec_hi" if width == 8 else "arch.wc_sec_hi")
    assert high_word == struct.unpack_from("<I", page, 3084 if width == 8 else 2340)[0]
    assert shown["unused"] == page[3136 if width == 8 else 2344 :].hex()


def test_real_record_field_by_field(golden_body: Callable[[str], memoryview]) -> None:
    body = golden_body("xen.pv.shared_info.pv")
    state = HANDLER.decode(body)
    fields = state.fields(8)
    assert isinstance(fields, SharedInfo64)
    assert fields.arch.max_pfn == 0x6000
    assert fields.arch.pfn_to_mfn_frame_list_list == 0x13B585
    assert fields.arch.p2m_cr3 == 0x131810000
    assert fields.vcpu_info[0].time.tsc_shift == -1
    assert fields.unused == bytes(960)
    assert fields.encode() == body
    assert b"".join(HANDLER.encode(state)) == body


def test_width_is_taken_as_8_where_no_info_was_seen() -> None:
    page = Random(6).randbytes(4096)
    state = HANDLER.decode(memoryview(page))
    assert HANDLER.describe(state, {}) == HANDLER.describe(state, {"xen.pv.info": INFO[8]})
    assert HANDLER.describe(state, {}) != HANDLER.describe(state, {"xen.pv.info": INFO[4]})


@pytest.mark.parametrize("size", [0, 4095, 4097])
def test_any_other_size_is_refused(size: int) -> None:
    with pytest.raises(FieldError, match=f"expected 4096 bytes, got {size} bytes"):
        HANDLER.decode(memoryview(bytes(size)))


@settings(max_examples=25)
@given(st.integers(0), st.sampled_from([4, 8]))
def test_any_page_round_trips_whole_and_by_fields(seed: int, width: int) -> None:
    page = Random(seed).randbytes(4096)
    state = HANDLER.decode(memoryview(page))
    assert b"".join(HANDLER.encode(state)) == page
    assert state.fields(width).encode() == page
