"""xen.hvm.params."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import FieldError
from xsave.testing import HandlerSuite
from xsave_plugins.hvm_context import HvmParamsHandler
from xsave_plugins.hvm_context.params import PARAM_NAMES

HANDLER = HvmParamsHandler()


def decode(body):
    return HANDLER.decode(memoryview(body))


def encode(state):
    return b"".join(HANDLER.encode(state))


def body_of(*pairs, count=None, reserved=0):
    head = struct.pack("<II", len(pairs) if count is None else count, reserved)
    return head + b"".join(struct.pack("<QQ", *pair) for pair in pairs)


@pytest.mark.parametrize("guest", ["pvh", "hvm"])
def test_real_params_go_back_to_the_same_bytes(golden, guest):
    body = golden(f"xen.hvm.params.{guest}")
    assert encode(decode(body)) == body


PVH = {
    "STORE_PFN": 0xFEFFC, "IOREQ_PFN": 0xFEFFD, "BUFIOREQ_PFN": 0xFEFFB,
    "PAGING_RING_PFN": 0xFEFF8, "MONITOR_RING_PFN": 0xFEFF9, "SHARING_RING_PFN": 0xFEFFA,
    "CONSOLE_PFN": 0xFEFFF, "IDENT_PT": 0xFEFFE000,
}  # fmt: skip


def test_params_of_real_guests_by_name_in_xens_order(golden):
    assert list(decode(golden("xen.hvm.params.pvh")).by_name().items()) == list(PVH.items())
    hvm = decode(golden("xen.hvm.params.hvm")).by_name()
    assert hvm == PVH | {
        "VM86_TSS_SIZED": 0x180FC100280, "ACPI_IOPORTS_LOCATION": 1,
        "IOREQ_SERVER_PFN": 0xFEFF0, "NR_IOREQ_SERVER_PAGES": 8,
    }  # fmt: skip


def test_description_names_each_param_and_its_parts(golden):
    shown = HANDLER.describe(decode(golden("xen.hvm.params.hvm")), {})
    by_name = {one["name"]: one for one in json.loads(json.dumps(shown))["params"]}
    assert by_name["STORE_PFN"] == {"index": 1, "name": "STORE_PFN", "value": 0xFEFFC}
    assert by_name["VM86_TSS_SIZED"]["bits"] == {"address": 0xFC100280, "size": 0x180}


def test_viridian_features_are_named():
    (shown,) = HANDLER.describe(decode(body_of((9, 1 << 5 | 1 << 8))), {})["params"]
    assert [name for name, bit in shown["bits"].items() if bit] == ["apic_assist", "stimer"]
    assert len(shown["bits"]) == 13


def test_unassigned_indices_are_named_by_number():
    names = [param.name for param in decode(body_of((3, 1), (39, 1), (7, 1), (8, 1))).params]
    assert names == ["unknown_03", "unknown_39", "unknown_07", "unknown_08"]
    assert set(range(39)) - set(PARAM_NAMES) == {3, 7, 8}


def test_retired_params_are_named():
    names = [param.name for param in decode(body_of((4, 1), (15, 1), (24, 1))).params]
    assert names == ["PAE_ENABLED", "VM86_TSS", "NESTEDHVM"]


def test_record_without_params_is_accepted():
    """Xen 4.6 to 4.8 wrote such records."""
    state = decode(body_of())
    assert state.params == ()
    assert encode(state) == body_of()


def test_the_later_of_two_values_has_effect():
    assert decode(body_of((1, 2), (1, 3))).by_name() == {"STORE_PFN": 3}


def test_reserved_word_is_kept():
    body = body_of((1, 2), reserved=0xDEAD)
    assert encode(decode(body)) == body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "header: expected 8 bytes, got 0 bytes"),
        (bytes(7), "header: expected 8 bytes, got 7 bytes"),
        (body_of((1, 2), count=2), "params: expected 2 of 16 bytes, got 16 bytes"),
        (body_of((1, 2), count=0), "params: expected 0 of 16 bytes, got 16 bytes"),
        (body_of((1, 2))[:-1], "params: expected 1 of 16 bytes, got 15 bytes"),
        (body_of(count=0xFFFFFFFF), "params: expected 4294967295 of 16 bytes, got 0 bytes"),
        (body_of(*[(1, 2)] * 4097), "count: expected at most 4096, got 4097"),
    ],
)
def test_count_that_contradicts_the_length_is_refused(body, message):
    with pytest.raises(FieldError) as caught:
        decode(body)
    assert str(caught.value) == message


u64s = st.integers(0, 2**64 - 1)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 45) | u64s, u64s)), st.integers(0, 2**32 - 1))
def test_any_params_go_back_to_the_same_bytes(pairs, reserved):
    body = body_of(*pairs, reserved=reserved)
    state = decode(body)
    assert encode(state) == body
    json.dumps(HANDLER.describe(state, {}))


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_garbage_is_refused_or_goes_back_to_the_same_bytes(body):
    try:
        state = decode(body)
    except FieldError:
        return
    assert encode(state) == body


class TestHvmParamsConformance(HandlerSuite):
    handler = HANDLER
    bodies = (body_of(),)
    golden = Path(__file__).parents[2] / "golden" / "records"
    refused = (b"", body_of(count=1))
