"""Messages between a client and served hosts: what is said arrives, and nothing else does."""

from __future__ import annotations

import contextlib
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import DeviceModelFacet, HvmFacet, PvFacet, X86Facet
from xsave_plugins.sim_host.calls import FACETS, HOSTS, find_call
from xsave_plugins.sim_host.wire import (
    HEAD,
    MAGIC,
    MAX_ARRAYS,
    MAX_CALL,
    Message,
    WireError,
    decode,
    decode_head,
    encode,
)
from xsave_plugins.tmem.facet import TmemFacet

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
arrays = (
    st.lists(st.integers(0, (1 << 64) - 1), max_size=9).map(lambda v: np.array(v, np.uint64))
    | st.lists(st.booleans(), max_size=20).map(lambda v: np.array(v, np.bool_))
    | st.integers(0, 3).map(lambda n: np.full((n, 4096), n, np.uint8))
)


def carry(message: Message) -> Message:
    data = b"".join(encode(message))
    nr_cbor, nr_arrays = decode_head(data[: HEAD.size], MAX_CALL)
    assert len(data) == HEAD.size + nr_cbor + nr_arrays
    body = data[HEAD.size : HEAD.size + nr_cbor]
    return decode(body, memoryview(data)[HEAD.size + nr_cbor :])


def same(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(one.dtype == two.dtype and one.shape == two.shape and (one == two).all())
    return bool(one == two)


@given(st.text(max_size=9), st.lists(plain | arrays, max_size=5))
def test_what_is_said_arrives(verb: str, items: list[Any]) -> None:
    found = carry(Message(verb, items))
    assert found.verb == verb
    assert len(found.items) == len(items)
    assert all(map(same, found.items, items))


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (HEAD.pack(b"GET ", 1, 0), "expected magic b'xsim', got b'GET '"),
        (HEAD.pack(MAGIC, MAX_CALL + 1, 0), "at most 16777216 bytes of CBOR, got 16777217"),
        (HEAD.pack(MAGIC, 0, MAX_ARRAYS + 1), "at most 33554432 bytes of arrays"),
    ],
)
def test_a_head_is_refused_before_there_is_a_buffer(head: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        decode_head(head, MAX_CALL)


@pytest.mark.parametrize(
    ("parts", "beside", "says"),
    [
        ("pause", b"", "expected a verb, a list of items"),
        (["pause", []], b"", "expected a verb, a list of items"),
        (["pause", [], [], []], b"", "expected a verb, a list of items"),
        (["pause", [1 << 64], []], b"", "more than 64 bits"),
        (["pause", [cbor2.CBORTag(4000, 1)], []], b"", "got a CBORTag"),
        (["pause", [{1.5: 2}], []], b"", "got a dict"),
        (["pause", [], [[0, "u64", 1]]], bytes(8), "expected place, kind and count"),
        (["pause", [None], [[0, "u64", -1]]], b"", "expected place, kind and count"),
        (["pause", [None], [[0, "u32", 1]]], bytes(4), "expected place, kind and count"),
        (["pause", [None], [[True, "u64", 1]]], bytes(8), "expected place, kind and count"),
        (["pause", [None], [[0, "page", 1 << 31]]], bytes(8), "bytes of page, got fewer"),
        (["pause", [None], [[0, "u64", 1]]], bytes(9), "1 bytes of arrays belong to nothing"),
    ],
)
def test_what_is_no_message_is_refused(parts: Any, beside: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        decode(cbor2.dumps(parts), memoryview(beside))


def test_cbor_that_is_deep_endless_or_double_is_refused() -> None:
    deep = b"\x81" * 100 + b"\x00"
    endless = b"\x83\x61a\x9f\x00\xff\x80"
    double = b"\x83\x61a\x81\xa2\x00\x00\x00\x00\x80"
    for body in (deep, endless, double, b"", b"\xff"):
        with pytest.raises(WireError, match="CBOR: "):
            decode(body, memoryview(b""))


@settings(max_examples=300)
@given(st.binary(max_size=60), st.binary(max_size=20))
def test_any_bytes_are_a_message_or_one_clear_error(body: bytes, beside: bytes) -> None:
    with contextlib.suppress(WireError):
        decode(body, memoryview(beside))


VERBS = [*HOSTS, *(f"{facet}.{method}" for facet, calls in FACETS.items() for method in calls)]


@given(st.sampled_from(VERBS), st.lists(plain | arrays, max_size=5))
def test_a_call_takes_what_it_takes(verb: str, items: list[Any]) -> None:
    """Whatever passes has as many arguments as are listed, of those kinds."""
    call = find_call(verb)
    try:
        call.check(verb, items)
    except WireError as error:
        assert verb in str(error)
    else:
        assert len(items) == len(call.takes)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [("x86", X86Facet), ("pv", PvFacet), ("hvm", HvmFacet), ("device_model", DeviceModelFacet),
     ("tmem", TmemFacet)],
)  # fmt: skip
def test_all_that_is_asked_of_a_facet_can_be_asked_over_a_socket(name: str, protocol: type) -> None:
    asked = {method for method in vars(protocol) if not method.startswith("_")}
    assert asked <= set(FACETS[name])
    properties = {method for method in asked if isinstance(vars(protocol)[method], property)}
    assert {method for method in asked if FACETS[name][method].is_property} == properties


@pytest.mark.parametrize("verb", ["", "explode", "x86", "x86.", "x86.boot", "hvm.m2p", ".pause"])
def test_other_verbs_do_not_exist(verb: str) -> None:
    with pytest.raises(WireError, match="no verb"):
        find_call(verb)
