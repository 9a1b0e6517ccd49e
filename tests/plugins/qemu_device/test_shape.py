"""Shapes measure and decode data as QEMU does, and are put together without guessing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.qemu_device.streams import subsection
from xsave_plugins.qemu_device.shape import (
    MAX_VALUES,
    VARIES,
    Field,
    Fitting,
    MisfitError,
    Shape,
    Subsection,
    described_size,
    from_data,
    from_description,
    merge,
    to_data,
    with_counters,
)

POWER = Subsection("toy/power", 2, Shape((Field("on", "bool", 1),)))
INNER = Shape((Field("level", "int16", 2),), (POWER,))
TOY = Shape(
    (
        Field("number", "uint32", 4),
        Field("clock", "timer", 8),
        Field("one", "struct", 0, None, INNER),
        Field("bytes", "uint8", 1, 3),
        Field("buffer", "buffer", 2),
        Field("words", "int8 equal", 1, 2),
    ),
    (Subsection("toy/more", 1, Shape((Field("x", "uint16 le", 2),))),),
)


def fitted(shape: Shape, data: bytes, start: int = 0) -> tuple[int, dict[str, Any]]:
    fitting = Fitting(data, len(data), start)
    values = fitting.structure(shape)
    return fitting.at, values


def test_fields_stand_one_behind_the_other_and_are_big_endian() -> None:
    data = b"\0\0\1\2" + bytes(7) + b"\x09" + b"\xff\xfe" + b"abc" + b"\xca\xfe" + b"\1\xff" + b"?"
    end, values = fitted(TOY, data)
    assert end == len(data) - 1
    assert values == {
        "number": 258, "clock": 9, "one": {"level": -2}, "bytes": "616263", "buffer": "cafe",
        "words": [1, -1],
    }  # fmt: skip


def test_sub_sections_are_where_their_structure_ends_if_they_are_there() -> None:
    head = bytes(14)
    power, more = subsection(b"toy/power", b"\1", 2), subsection(b"toy/more", b"\0\7")
    _, values = fitted(TOY, head + power + bytes(7) + more)
    assert values["one"] == {"level": 0, "toy/power": {"on": True}}
    assert values["toy/more"] == {"x": 7}
    end, values = fitted(TOY, head + bytes(7) + more)
    assert "toy/power" not in values["one"] and values["toy/more"] == {"x": 7}
    assert end == 21 + len(more)


def test_what_only_looks_like_a_sub_section_is_data() -> None:
    shape = Shape((Field("one", "struct", 0, None, INNER), Field("rest", "buffer", 4)))
    _, values = fitted(shape, b"\0\0" + b"\5\2ab")
    assert values == {"one": {"level": 0}, "rest": "05026162"}


@pytest.mark.parametrize(
    "data",
    [
        bytes(13),
        bytes(14) + subsection(b"toy/power", b"\1", 3) + bytes(7),
        bytes(14) + subsection(b"toy/power", b"", 2),
    ],
)
def test_data_of_another_shape_does_not_fit(data: bytes) -> None:
    with pytest.raises(MisfitError):
        fitted(TOY, data)


@pytest.mark.parametrize(
    "field",
    [
        Field("a", "uint32", 4, 1 << 40),
        Field("a", "buffer", 0, 2),
        Field("a", "struct", 0, 1 << 40, Shape()),
        Field("a", "buffer", 1 << 60),
    ],
)
def test_what_a_hostile_description_claims_is_not_made(field: Field) -> None:
    with pytest.raises(MisfitError):
        fitted(Shape((field,)), bytes(100))


def test_no_section_becomes_more_values_than_anybody_looks_at() -> None:
    with pytest.raises(MisfitError):
        fitted(Shape((Field("", "buffer", 0),) * (MAX_VALUES + 1)), b"")


def test_a_name_that_comes_twice_is_told_twice() -> None:
    byte = Field("union", "uint8", 1)
    assert fitted(Shape((byte, byte, byte)), b"\1\2\3")[1] == {
        "union": 1, "union (2)": 2, "union (3)": 3,
    }  # fmt: skip


def test_a_description_of_qemus_becomes_a_shape_of_the_same_size() -> None:
    described = {
        "name": "toy", "instance_id": 0, "version": 1,
        "fields": [
            {"name": "regs", "type": "uint64", "size": 8, "array_len": 2},
            {"name": "drives", "index": 0, "type": "struct", "size": 9 + 2,
             "struct": {"vmsd_name": "d", "version": 1, "fields": [
                 {"name": "level", "type": "int16", "size": 2}], "subsections": [
                 {"vmsd_name": "x/y", "version": 1, "fields": []}]}},
            {"name": "halves", "type": "tmp", "size": 10, "vmsd_name": "t", "version": 1,
             "fields": [{"name": "mantissa", "type": "uint64", "size": 8},
                        {"name": "exponent", "type": "uint16", "size": 2}]},
        ],
        "subsections": [{"vmsd_name": "toy/s", "version": 3, "fields": [
            {"name": "on", "type": "bool", "size": 1}]}],
    }  # fmt: skip
    data = (
        bytes(16) + b"\0\5" + subsection(b"x/y", b"") + bytes(9) + b"\3"
        + subsection(b"toy/s", b"\1", 3)
    )  # fmt: skip
    end, values = fitted(from_description(described), data)
    assert end == len(data) == described_size(described)
    assert values["drives[0]"] == {"level": 5, "x/y": {}}
    assert values["halves"] == {"mantissa": 0, "exponent": 3}
    assert values["toy/s"] == {"on": True}


def test_a_count_that_a_field_tells_is_found_in_two_guests_and_not_in_one() -> None:
    def bus(nr_irqs: int) -> tuple[Shape, dict[str, Any]]:
        shape = Shape((
            Field("nirq", "int32", 4), Field("other", "int32", 4),
            Field("irqs", "int32", 4, nr_irqs),
        ))  # fmt: skip
        data = nr_irqs.to_bytes(4, "big") + (4).to_bytes(4, "big") + bytes(4 * nr_irqs)
        return shape, fitted(shape, data)[1]

    small, large = with_counters(*bus(4)), with_counters(*bus(8))
    assert small.fields[2].counted_by == ("nirq", "other")
    merged = merge(small, large)
    assert merged is not None
    assert (merged.fields[2].count, merged.fields[2].counted_by) == (VARIES, ("nirq",))
    kept = from_data(to_data(merged))
    huge = bus(128)[1]
    data = (128).to_bytes(4, "big") + bytes(4) + bytes(512)
    assert fitted(kept, data)[1]["irqs"] == huge["irqs"]
    with pytest.raises(MisfitError):
        fitted(kept, b"\xff" * 99)
    assert merge(small, small) == small
    assert merge(bus(4)[0], bus(8)[0]) is None


def test_shapes_with_the_same_fields_become_one_with_the_sub_sections_of_both() -> None:
    one = Shape((Field("a", "u", 1),), (Subsection("s", 1, Shape()),))
    other = Shape((Field("a", "u", 1),), (Subsection("t", 1, Shape()),))
    merged = merge(one, other)
    assert merged is not None and [sub.name for sub in merged.subsections] == ["s", "t"]
    for different in (
        Shape(), Shape((Field("b", "u", 1),)), Shape((Field("a", "u", 2),)),
        Shape((Field("a", "u", 1),), (Subsection("s", 2, Shape()),)),
        Shape((Field("a", "u", 0, None, Shape()),)),
    ):  # fmt: skip
        assert merge(one, different) is None


names = st.text("ab/", max_size=3)
shapes = st.recursive(
    st.just(Shape()),
    lambda inner: st.builds(
        Shape,
        st.lists(st.one_of(
            st.builds(Field, names, st.sampled_from(["uint8", "bool", "buffer", "int64"]),
                      st.integers(0, 8), st.none() | st.integers(0, 3)),
            st.builds(Field, names, st.just("struct"), st.just(0), st.none() | st.integers(0, 3),
                      inner),
        ), max_size=4).map(tuple),
        st.lists(st.builds(Subsection, names, st.integers(0, 9), inner), max_size=2).map(tuple),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(shapes, st.binary(max_size=60))
def test_any_shape_is_kept_and_any_data_fits_it_or_not(shape: Shape, data: bytes) -> None:
    assert from_data(to_data(shape)) == shape
    try:
        end, _ = fitted(shape, data)
    except MisfitError:
        return
    assert 0 <= end <= len(data)
