"""Descriptions and offers travel as plain data; what is not one is refused, field by field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import FieldError, GuestOffer, HostDescription
from xsave.negotiation import (
    BODY_MAX,
    Fields,
    OfferedRecord,
    check_plain,
    host_as_data,
    host_from_data,
    offer_as_data,
    offer_from_data,
)

HOST = HostDescription(
    xsave="0.1.0", plugins={"toy": "toy (toy 1)"}, records={"toy.text": 2}, codecs=("flip",),
    formats=("toy",), backend="toy", host="b", guest_types=("x86_hvm",), memory_free_bytes=1 << 40,
    facts={"toy": {"depth": [1, {"a": True}], "none": None}},
)  # fmt: skip
OFFER = GuestOffer(
    name="web", guest_type="x86_pv", p2m_size=4096, nr_vcpus=2, memory_bytes=1 << 24,
    records={"toy.text": OfferedRecord(2, True, "toy", sure=True)},
    bodies={"toy.text": (b"a", b"b")},
)  # fmt: skip
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_what_travels_is_what_was_meant() -> None:
    assert host_from_data(host_as_data(HOST)) == HOST
    assert offer_from_data(offer_as_data(OFFER)) == OFFER


@given(st.sampled_from(sorted(host_as_data(HOST))), PLAIN)
def test_a_description_with_another_value_is_one_or_is_refused(name: str, value: Any) -> None:
    data = {**host_as_data(HOST), name: value}
    try:
        found = host_from_data(data)
    except FieldError as error:
        assert error.field.startswith("host")
    else:
        assert host_as_data(found) == data


@given(st.sampled_from(sorted(offer_as_data(OFFER))), PLAIN)
def test_an_offer_with_another_value_is_one_or_is_refused(name: str, value: Any) -> None:
    data = {**offer_as_data(OFFER), name: value}
    try:
        found = offer_from_data(data)
    except FieldError as error:
        assert error.field.startswith("guest")
    else:
        assert offer_as_data(found) == data


@pytest.mark.parametrize("name", sorted(host_as_data(HOST)))
def test_a_description_without_a_field_is_refused(name: str) -> None:
    data = host_as_data(HOST)
    del data[name]
    if name == "memory_free_bytes":  # as one that does not say
        assert host_from_data(data).memory_free_bytes is None
        return
    with pytest.raises(FieldError, match=name):
        host_from_data(data)


@given(PLAIN)
def test_anything_else_is_refused(value: Any) -> None:
    for read in (host_from_data, offer_from_data):
        with pytest.raises(FieldError):
            read(value)


@pytest.mark.parametrize(
    "value",
    [
        {"a": b"bytes"}, {"a": 0.5}, {1: 2}, {"a": ["x"] * 5000}, {"a": "x" * 200_000},
        {"a": [[[[[[[[[[1]]]]]]]]]]},
    ],
)  # fmt: skip
def test_facts_are_plain_few_and_flat(value: Any) -> None:
    with pytest.raises(FieldError):
        check_plain(value, "facts")


def test_bodies_are_bounded() -> None:
    data = offer_as_data(OFFER)
    data["bodies"] = {"toy.text": [bytes(BODY_MAX + 1)]}
    with pytest.raises(FieldError, match=r"guest\.bodies\.toy\.text"):
        offer_from_data(data)


@pytest.mark.parametrize(
    ("method", "good", "bad"),
    [
        ("text", "a", 1), ("number", 3, -1), ("number", 3, True), ("number", 3, 1 << 64),
        ("flag", True, 1), ("seconds", 0.5, -1.0), ("seconds", 1, float("nan")),
        ("range", [1, 2], [2, 1]), ("range", [1, 2], [1]), ("list", ["a"], "a"),
        ("list", ["a"], [1]),
    ],
)  # fmt: skip
def test_each_field_is_what_it_should_be(method: str, good: Any, bad: Any) -> None:
    assert getattr(Fields({"x": good}, "message"), method)("x") is not None
    with pytest.raises(FieldError, match=r"message\.x: expected "):
        getattr(Fields({"x": bad}, "message"), method)("x")
