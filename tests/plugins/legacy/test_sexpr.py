"""S-expressions are read as data, and no further than any real one goes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.legacy import sexpr
from xsave_plugins.legacy.sexpr import member, parse


def test_words_strings_and_lists() -> None:
    text = (
        b"""( domain (name 'it\\'s\\n "x"')(memory 16)\n (image (hvm (args "a (b) \\\\")) ) () )"""
    )
    assert parse(text) == [
        "domain", ["name", 'it\'s\n "x"'], ["memory", "16"],
        ["image", ["hvm", ["args", "a (b) \\"]]], [],
    ]  # fmt: skip


def test_a_member_by_name() -> None:
    whole = parse(b"(domain name (name a b) (name c))")
    assert member(whole, "name") == ["a", "b"]
    assert member(whole, "image") is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "expected one list, got 0 items"),
        (b"word", "expected one list, got 1 items"),
        (b"(a) (b)", "expected one list, got 2 items"),
        (b"(a", r"byte 2: expected \), got the end"),
        (b"(a))", r"byte 3: expected a list, or the end, got \)"),
        (b"(a 'b)", "byte 3: expected a word, a string"),
        (b"(" * 100, "expected at most 64 lists, one in the other"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: bytes, match: str) -> None:
    with pytest.raises(FieldError, match=match):
        parse(text)


def test_the_number_of_items_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sexpr, "ITEMS_MAX", 10)
    with pytest.raises(FieldError, match=r"at most 10 items"):
        parse(b"(" + b"a " * 10 + b")")


def test_long_strings_and_blanks_take_linear_time() -> None:
    """A regular expression that tries each end again would take minutes."""
    for text in (b"(" + b" " * 300_000, b"('" + b"\\a" * 150_000, b"(" + b"a" * 300_000):
        with pytest.raises(FieldError):
            parse(text)


@settings(max_examples=300, deadline=None)
@given(st.text("()'\" \\ab\n", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(FieldError):
        assert isinstance(parse(text.encode()), list)
