"""Layouts: what a class declares is what the bytes are."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError, Layout, i8, i16, i32, i64, layout, nested, raw, to_json

from xsave import u8, u16, u32, u64  # fmt: skip  # isort: skip


@layout
class Segment(Layout):
    base: int = u64()
    limit: int = u32()
    flags: int = u16(bits={"type": (0, 4), "present": (7, 1)})
    padding: bytes = raw(2)


@layout
class Everything(Layout):
    a: int = u8()
    b: int = u16()
    c: int = u32(names={1: "one"})
    d: int = u64()
    e: int = i8()
    f: int = i16()
    g: int = i32()
    h: int = i64()
    name: bytes = raw(5)
    regs: tuple[int, ...] = u32(3)
    cs: Segment = nested(Segment)
    others: tuple[Segment, ...] = nested(Segment, 2)


def test_a_layout_is_packed_and_little_endian() -> None:
    assert Segment.SIZE == 16
    assert Everything.SIZE == 15 + 15 + 5 + 12 + 3 * 16
    segment = Segment.decode(struct.pack("<QIH2s", 0x1122334455667788, 7, 0x8B, b"xy"))
    assert segment == Segment(0x1122334455667788, 7, 0x8B, b"xy")


@given(st.binary(min_size=Everything.SIZE, max_size=Everything.SIZE))
def test_any_body_of_the_right_size_comes_back(body: bytes) -> None:
    assert Everything.decode(body).encode() == body


@given(st.binary(max_size=3 * Segment.SIZE))
def test_another_size_is_refused(body: bytes) -> None:
    if len(body) == Segment.SIZE:
        body += b"x"
    with pytest.raises(FieldError, match=f"Segment: expected 16 bytes, got {len(body)} bytes"):
        Segment.decode(body)


def test_decoding_at_an_offset_takes_just_what_it_needs() -> None:
    body = b"\xff" * 3 + struct.pack("<QIH2s", 1, 2, 3, b"ab") + b"\xff"
    assert Segment.decode_at(body, 3) == Segment(1, 2, 3, b"ab")
    with pytest.raises(FieldError, match="expected 16 bytes at offset 5, got 15 bytes"):
        Segment.decode_at(body, 5)
    with pytest.raises(FieldError, match="got 0 bytes"):
        Segment.decode_at(body, 500)


def test_a_decoded_layout_does_not_change_with_the_buffer() -> None:
    buffer = bytearray(Segment.SIZE)
    segment = Segment.decode(memoryview(buffer))
    buffer[:] = b"\xff" * Segment.SIZE
    assert segment == Segment(0, 0, 0, b"\0\0")


def test_a_layout_cannot_be_changed() -> None:
    segment = Segment(1, 2, 3, b"ab")
    with pytest.raises(AttributeError):
        segment.base = 5  # type: ignore[misc]  # that it is refused is what is tested
    with pytest.raises(AttributeError):
        del segment.base
    assert segment.base == 1


def test_layouts_are_equal_by_class_and_values() -> None:
    @layout
    class Lookalike(Segment):
        pass

    one = Segment(1, 2, 3, b"ab")
    assert one == Segment(base=1, limit=2, flags=3, padding=b"ab")
    assert hash(one) == hash(Segment(1, 2, 3, b"ab"))
    assert one != one.replace(limit=3)
    assert one != Lookalike(1, 2, 3, b"ab")
    assert repr(one) == "Segment(base=1, limit=2, flags=3, padding=b'ab')"


def test_a_layout_takes_each_field_once() -> None:
    for values, by_name in (((1, 2, 3), {}), ((1, 2, 3, b"", 5), {}), ((1, 2, 3), {"base": 4})):
        with pytest.raises(TypeError, match="Segment takes base, limit, flags, padding, each once"):
            Segment(*values, **by_name)
    with pytest.raises(TypeError, match="each once"):
        Segment(1, 2, 3, b"ab").replace(colour=1)


def test_a_layout_has_the_fields_of_its_base_first() -> None:
    @layout
    class Longer(Segment):
        more: int = u16()

    assert list(Longer.FIELDS) == ["base", "limit", "flags", "padding", "more"]
    assert Longer.decode(bytes(16) + b"\1\0").more == 1
    assert Longer.SIZE == Segment.SIZE + 2


def test_a_field_without_a_size_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.field"):

        @layout
        class Wrong(Layout):
            field: int


def test_a_wrong_number_of_values_is_refused_by_name() -> None:
    everything = Everything.decode(bytes(Everything.SIZE))
    values = {name: getattr(everything, name) for name in Everything.FIELDS}
    with pytest.raises(FieldError, match="regs: expected 3 values, got 2"):
        Everything(**values | {"regs": (1, 2)}).encode()


def test_named_bits_and_values_are_shown_beside_the_number() -> None:
    shown = to_json(Everything.decode(b"\0\0\0\1" + bytes(Everything.SIZE - 4)))
    assert shown["c"] == {"value": 1, "name": "one"}
    assert shown["cs"]["flags"] == {"value": 0, "bits": {"type": 0, "present": 0}}
    flags = to_json(Segment(0, 0, 0x8B, b"\0\1"))["flags"]
    assert flags == {"value": 0x8B, "bits": {"type": 0xB, "present": 1}}
