"""Frames and messages: what is written is read, and anything else is refused in words."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import PeerError
from xsave.link.frame import (
    BODY_LIMITS,
    HEAD,
    NUMBER_MAX,
    Kind,
    decode_head,
    decode_message,
    encode_head,
    encode_message,
)
from xsave.testing.strategies import damaged

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False)
    | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
MESSAGES = st.dictionaries(st.text(max_size=9), PLAIN, max_size=5)


@pytest.mark.parametrize("kind", Kind)
def test_a_head_comes_back_as_it_was(kind: Kind) -> None:
    for length in BODY_LIMITS[kind]:
        for more in {False, kind is Kind.DATA}:
            head = decode_head(encode_head(kind, length, NUMBER_MAX, more=more), "x")
            assert (head.kind, head.length, head.number, head.more) == (
                kind, length, NUMBER_MAX, more,
            )  # fmt: skip


@settings(deadline=None)
@given(st.binary(min_size=HEAD.size, max_size=HEAD.size) | damaged(encode_head(Kind.DATA, 9, 1)))
def test_any_bytes_are_a_head_within_bounds_or_refused(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        head = decode_head(data[: HEAD.size].ljust(HEAD.size, b"\0"), "x")
        shortest, longest = BODY_LIMITS[head.kind]
        assert shortest <= head.length <= longest


@settings(max_examples=40, deadline=None)
@given(MESSAGES)
def test_a_message_comes_back_as_it_was(message: dict[str, Any]) -> None:
    assert decode_message(encode_message(message), "x") == message


@settings(max_examples=60, deadline=None)
@given(MESSAGES.flatmap(lambda message: damaged(encode_message(message))) | st.binary(max_size=60))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        message = decode_message(data, "x")
        assert decode_message(encode_message(message), "x") == message or "nan" in str(message)
