"""xen.hvm.context: framing of the save records, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xsave import FieldError
from xsave.testing import HandlerSuite
from xsave_plugins.hvm_context import HvmContextHandler

HANDLER = HvmContextHandler()
RECORDS = Path(__file__).parents[2] / "golden" / "records"
NR_TYPES = 21

# Typecode to the payload sizes that some release of Xen wrote, oldest first.
HISTORICAL_SIZES = {
    2: (1016, 1024, 1032),
    3: (8,),
    4: (400,),
    5: (16, 24, 32),
    6: (1024,),
    7: (16,),
    8: (8,),
    9: (8,),
    10: (56,),
    11: (16, 24),
    12: (1048,),
    13: (8,),
    14: (240,),
    15: (16, 24, 32),
    16: (600, 856),
    17: (8, 16, 216),
    18: (8, 24, 32),
    19: (8,),
    20: (24, 40),
}
EXTENDED = {5: 32, 11: 24, 15: 32, 17: 216, 18: 32}
VARIABLE = (16, 20)


def decode(body):
    return HANDLER.decode(memoryview(body))


def encode(state):
    return b"".join(HANDLER.encode(state))


def payload_of(typecode, size, fill=0xA5):
    """Some payload that the length rules accept."""
    if typecode == 16:
        accum = 7 if size > 600 else 3
        return struct.pack("<QQQ", 7, 3, accum) + bytes([fill]) * (size - 24)
    if typecode == 20:
        return struct.pack("<II", (size - 8) // 16, 0) + bytes([fill]) * (size - 8)
    return bytes([fill]) * size


def refusal(body):
    with pytest.raises(FieldError) as caught:
        decode(body)
    return caught.value


@pytest.mark.parametrize("guest", ["pvh", "hvm"])
def test_real_context_goes_back_to_the_same_bytes(golden, guest):
    body = golden(f"xen.hvm.context.{guest}")
    assert encode(decode(body)) == body


def test_pvh_context_has_the_save_records_xen_wrote_in_their_order(golden):
    state = decode(golden("xen.hvm.context.pvh"))
    assert [(one.name, one.length) for one in state.save_records] == [
        ("HEADER", 24), ("CPU", 1032), ("LAPIC", 24), ("LAPIC_REGS", 1024), ("PCI_IRQ", 16),
        ("ISA_IRQ", 8), ("PCI_LINK", 8), ("MTRR", 240), ("VMCE_VCPU", 32), ("TSC_ADJUST", 8),
        ("END", 0),
    ]  # fmt: skip
    assert state.trailing == b""


def test_hvm_context_has_a_save_record_per_vcpu_and_device(golden):
    state = decode(golden("xen.hvm.context.hvm"))
    assert [(one.name, one.instance, one.length) for one in state.save_records] == [
        ("HEADER", 0, 24), ("CPU", 0, 1032), ("PIC", 0, 8), ("PIC", 1, 8), ("IOAPIC", 0, 400),
        ("LAPIC", 0, 24), ("LAPIC", 1, 24), ("LAPIC_REGS", 0, 1024), ("LAPIC_REGS", 1, 1024),
        ("PCI_IRQ", 0, 16), ("ISA_IRQ", 0, 8), ("PCI_LINK", 0, 8), ("PIT", 0, 56),
        ("RTC", 0, 24), ("HPET", 0, 1048), ("PMTIMER", 0, 8), ("MTRR", 0, 240),
        ("MTRR", 1, 240), ("VMCE_VCPU", 0, 32), ("VMCE_VCPU", 1, 32), ("TSC_ADJUST", 0, 8),
        ("TSC_ADJUST", 1, 8), ("END", 0, 0),
    ]  # fmt: skip
    assert state.find("CPU", 1) is None, "the second vcpu was offline"


@pytest.mark.parametrize("guest", ["pvh", "hvm"])
def test_description_is_json_and_names_every_save_record(golden, guest):
    state = decode(golden(f"xen.hvm.context.{guest}"))
    shown = json.loads(json.dumps(HANDLER.describe(state, {})))
    assert shown["trailing"] == ""
    for one, stored in zip(shown["save_records"], state.save_records, strict=True):
        assert list(one) == ["type", "typecode", "instance", "offset", "length", "fields"]
        assert (one["type"], one["typecode"]) == (stored.name, stored.type.typecode)
    ioapic_offset = {"pvh": None, "hvm": 0x450}[guest]
    offsets = {one["type"]: one["offset"] for one in shown["save_records"]}
    assert offsets.get("IOAPIC") == ioapic_offset


@pytest.mark.parametrize(
    ("typecode", "size"),
    [(code, size) for code, sizes in HISTORICAL_SIZES.items() for size in sizes],
)
@pytest.mark.parametrize("fill", [0, 0xA5, 0xFF])
def test_every_size_that_xen_ever_wrote_goes_back_to_the_same_bytes(
    context, save_record, typecode, size, fill
):
    body = context(save_record(typecode, payload_of(typecode, size, fill)))
    state = decode(body)
    assert state.save_records[1].length == size
    assert encode(state) == body
    json.dumps(HANDLER.describe(state, {}))


@pytest.mark.parametrize("typecode", range(NR_TYPES))
def test_payload_longer_than_any_known_is_refused(context, save_record, typecode):
    size = max(HISTORICAL_SIZES.get(typecode, (24,) if typecode == 1 else (0,))) + 8
    payload = payload_of(typecode, size)
    if typecode == 1:
        body = save_record(1, payload) + save_record(0)
    elif typecode == 20:
        body = context(save_record(20, struct.pack("<II", 1, 0) + bytes(24)))
    else:
        body = context(save_record(typecode, payload))
    error = refusal(body)
    assert ": length" in error.field or typecode == 16
    assert "at body offset" in error.field


@pytest.mark.parametrize(
    "typecode", [code for code in range(1, NR_TYPES) if code not in EXTENDED and code != 2]
)
def test_payload_shorter_than_a_strict_layout_is_refused(context, save_record, typecode):
    size = HISTORICAL_SIZES.get(typecode, (24,))[0] - 1
    error = refusal(context(save_record(typecode, payload_of(typecode, size))))
    assert error.field.endswith("length")
    assert error.got == f"{size} bytes"


def test_wrong_length_names_save_record_instance_and_offset(context, save_record):
    error = refusal(context(save_record(8, bytes(8)), save_record(14, bytes(7), instance=3)))
    assert str(error) == (
        "save record MTRR, instance 3, at body offset 0x30: length: expected 240 bytes, got 7 bytes"
    )


def test_empty_body_is_refused():
    assert str(refusal(b"")) == "body: expected save records, got 0 bytes"


@pytest.mark.parametrize("typecode", [0, 2, 99])
def test_context_must_begin_with_header(save_record, typecode):
    error = refusal(save_record(typecode) + save_record(0))
    assert error.expected == "1 (HEADER), which comes first"
    assert error.got.startswith(str(typecode))


def test_second_header_is_refused(context, save_record):
    header = context()[8:32]
    error = refusal(context(save_record(1, header)))
    assert error.field == "save record HEADER, instance 0, at body offset 0x20"
    assert error.got == "a second one"


@pytest.mark.parametrize(("at", "field"), [(8, "magic"), (12, "version")], ids=["magic", "version"])
def test_header_of_another_format_is_refused(context, at, field):
    body = bytearray(context())
    body[at] ^= 0x40
    assert refusal(bytes(body)).field.endswith(field)


def test_missing_end_is_refused(context):
    error = refusal(context()[:-8])
    assert str(error) == (
        "save record at body offset 0x20: "
        "expected a descriptor of 8 bytes (END comes last), got 0 bytes"
    )


def test_context_cut_anywhere_is_refused(golden):
    body = golden("xen.hvm.context.hvm")
    for size in range(0, len(body), 7):
        refusal(body[:size])
    assert refusal(body[:0x100]).got == f"{0x100 - 0x28} bytes"


@pytest.mark.parametrize("typecode", [21, 22, 34, 35, 0xFFFF])
def test_unknown_typecode_is_refused(context, save_record, typecode):
    error = refusal(context(save_record(typecode, bytes(8), instance=2)))
    assert error.field == "save record at body offset 0x20, instance 2: typecode"
    assert error.expected == "0 to 20"
    assert error.got.startswith(str(typecode))
    assert ("vendor" in error.got) == (22 <= typecode <= 34)


@pytest.mark.parametrize(("typecode", "instance"), [(7, 1), (3, 2), (2, 8192), (0, 1)], ids=str)
def test_instance_that_makes_no_sense_is_refused(context, save_record, typecode, instance):
    payload = bytes(HISTORICAL_SIZES.get(typecode, (0,))[-1])
    error = refusal(context(save_record(typecode, payload, instance=instance)))
    assert error.field.endswith(": instance")
    assert error.got == str(instance)


@pytest.mark.parametrize("typecode", [2, 3, 11])
def test_two_states_for_one_instance_are_refused(context, save_record, typecode):
    one = save_record(typecode, bytes(HISTORICAL_SIZES[typecode][-1]))
    assert refusal(context(one, one)).got == "a second one"


def test_order_of_types_is_free(context, save_record):
    body = context(save_record(19, bytes(8)), save_record(7, bytes(16)))
    assert encode(decode(body)) == body


def test_bytes_after_end_are_kept_and_shown(context):
    body = context() + b"\x01\x02\x03"
    state = decode(body)
    assert state.trailing == b"\x01\x02\x03"
    assert HANDLER.describe(state, {})["trailing"] == "010203"
    assert encode(state) == body


def test_state_does_not_refer_to_the_body(context, save_record):
    body = bytearray(context(save_record(16, payload_of(16, 856))) + b"tail")
    original = bytes(body)
    state = decode(body)
    body[:] = bytes(len(body))
    assert encode(state) == original


@pytest.mark.parametrize(("typecode", "size"), EXTENDED.items())
def test_fields_without_a_place_in_an_older_size_are_not_dropped_silently(
    context, save_record, typecode, size
):
    """To target an older Xen: fine while the cut bytes are zero."""
    older = HISTORICAL_SIZES[typecode][0]
    zero_tailed = decode(context(save_record(typecode, b"\x01" * older + bytes(size - older))))
    header, one, end = zero_tailed.save_records
    shorter = attrs.evolve(zero_tailed, save_records=(header, attrs.evolve(one, length=older), end))
    assert encode(shorter) == context(save_record(typecode, b"\x01" * older))

    full = decode(context(save_record(typecode, b"\x01" * size)))
    with pytest.raises(FieldError, match="beyond the"):
        attrs.evolve(full.save_records[1], length=older).encode()


@pytest.mark.parametrize(("typecode", "length"), [(7, 8), (5, 40), (16, 601)])
def test_length_that_does_not_fit_the_fields_is_refused_when_writing(
    context, save_record, typecode, length
):
    payload = payload_of(typecode, HISTORICAL_SIZES[typecode][-1])
    one = decode(context(save_record(typecode, payload))).save_records[1]
    with pytest.raises(FieldError, match="length of"):
        attrs.evolve(one, length=length).encode()


payloads = st.one_of(
    *(
        st.tuples(st.just(code), st.binary(min_size=size, max_size=size))
        for code, sizes in HISTORICAL_SIZES.items()
        for size in sizes
        if code not in VARIABLE
    ),
    *(st.tuples(st.just(code), st.binary(max_size=size)) for code, size in EXTENDED.items()),
    st.tuples(
        st.just(16),
        st.builds(
            lambda head, rest: head + rest,
            st.builds(
                lambda mask, xcr0, accum: struct.pack("<QQQ", mask, xcr0, accum | 1 << 9),
                *[st.integers(0, 2**64 - 1)] * 3,
            ),
            st.binary(min_size=832, max_size=1000),
        ),
    ),
    st.tuples(
        st.just(20),
        st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=12).map(
            lambda msrs: struct.pack("<II", len(msrs), 0xABCD) + b"".join(msrs)
        ),
    ),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    parts=st.lists(
        st.tuples(payloads, st.integers(0, 1)),
        max_size=6,
        unique_by=lambda part: (part[0][0], part[1]),
    ),
    trailing=st.binary(max_size=20),
)
def test_any_valid_payloads_go_back_to_the_same_bytes(context, save_record, parts, trailing):
    per_domain = {7, 8, 9, 10, 11, 12, 13, 15}
    body = (
        context(
            *(
                save_record(code, payload, instance=instance)
                for (code, payload), instance in parts
                if not (code in per_domain and instance)
            )
        )
        + trailing
    )
    state = decode(body)
    assert encode(state) == body
    json.dumps(HANDLER.describe(state, {}))


@settings(max_examples=150, deadline=None)
@given(
    descriptors=st.lists(
        st.tuples(st.integers(0, 36), st.integers(0, 3), st.binary(max_size=48)), max_size=4
    ),
    tail=st.binary(max_size=16),
)
def test_garbage_is_refused_or_goes_back_to_the_same_bytes(context, save_record, descriptors, tail):
    parts = [save_record(code, data, instance=instance) for code, instance, data in descriptors]
    for body in (tail, context()[:-8] + b"".join(parts) + tail, b"".join(parts)):
        try:
            state = decode(body)
        except FieldError:
            continue
        assert encode(state) == body
        HANDLER.describe(state, {})


@settings(max_examples=150, deadline=None)
@given(bit=st.integers(0, 5480 * 8 - 1))
def test_any_flipped_bit_is_refused_or_kept(golden, bit):
    body = bytearray(golden("xen.hvm.context.hvm"))
    body[bit // 8] ^= 1 << bit % 8
    try:
        state = decode(body)
    except FieldError:
        return
    assert encode(state) == bytes(body)


class TestHvmContextConformance(HandlerSuite):
    handler = HANDLER
    golden = RECORDS
    refused = (b"", bytes(8), bytes(7))
    max_examples = 60
