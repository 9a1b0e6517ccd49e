"""Decoded states as JSON values."""

from __future__ import annotations

import enum
import json
from types import MappingProxyType

import numpy as np
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from xsave import GuestType, Layout, layout, to_json, u8


@frozen
class Pair:
    left: object
    right: object


class Level(enum.IntEnum):
    LOW = 1


@layout
class Modes(Layout):
    modes: tuple[int, ...] = u8(2, names={0: "off", 1: "on"})


def test_bytes_become_hex_and_tuples_lists() -> None:
    assert to_json((b"\x01\xff", bytearray(b"a"), memoryview(b"b"))) == ["01ff", "61", "62"]


def test_classes_become_objects_with_their_field_names_in_order() -> None:
    shown = to_json(Pair(Pair(1, None), {"a": (True, 2.5)}))
    assert shown == {"left": {"left": 1, "right": None}, "right": {"a": [True, 2.5]}}
    assert list(shown) == ["left", "right"]


def test_enumerations_become_their_values() -> None:
    assert json.dumps(to_json([GuestType.X86_PV, Level.LOW])) == '["x86_pv", 1]'


def test_numpy_becomes_plain_numbers() -> None:
    shown = to_json({"array": np.arange(3, dtype=np.uint64), "one": np.uint64(2**63)})
    assert json.dumps(shown) == '{"array": [0, 1, 2], "one": 9223372036854775808}'


def test_keys_become_text() -> None:
    assert to_json(MappingProxyType({1: "a", b"\xab": "b"})) == {"1": "a", "ab": "b"}


def test_what_json_has_no_word_for_becomes_text() -> None:
    assert to_json([float("nan"), float("inf"), 1j]) == ["nan", "inf", "1j"]


def test_every_value_of_an_array_with_names_shows_its_own() -> None:
    assert to_json(Modes((1, 7))) == {
        "modes": [{"value": 1, "name": "on"}, {"value": 7, "name": "unknown"}]
    }


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.builds(Pair, inner, inner)
        | st.dictionaries(st.text() | st.binary() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(ANYTHING)
def test_anything_becomes_json(value: object) -> None:
    json.dumps(to_json(value), allow_nan=False)
