"""S-expressions, as xend wrote configurations: data to be looked at, never evaluated.

Atoms are bare words or strings in quotes, single or double; lists have parentheses. Inside
quotes a backslash takes the next character as it is (n, t and r: a newline and so on).
"""

from __future__ import annotations

import re
from typing import Any

from xsave import FieldError

# A list of text and lists. Any: the type is recursive, and told apart by isinstance.
Expression = list[Any]

DEPTH_MAX = 64  # real ones have 8
ITEMS_MAX = 1 << 18

_TOKEN = re.compile(
    rb"""\s+|(?P<open>\()|(?P<close>\))|'(?P<single>(?:[^'\\]|\\.)*)'"""
    rb"""|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<word>[^\s()'"]+)""",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r"}


def parse(text: bytes) -> Expression:
    """One list, and nothing but blanks around it.

    :raises FieldError: it is none, or is deeper or longer than any real one.
    """
    stack: list[Expression] = [[]]
    at = nr_items = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise _wrong(at, "a word, a string, ( or )", repr(text[at : at + 8]))
        nr_items += 1
        if nr_items > ITEMS_MAX:
            raise _wrong(at, f"at most {ITEMS_MAX} items", "more")
        if token["open"]:
            stack.append([])
            if len(stack) > DEPTH_MAX:
                raise _wrong(at, f"at most {DEPTH_MAX} lists, one in the other", "more")
        elif token["close"]:
            if len(stack) == 1:
                raise _wrong(at, "a list, or the end", ")")
            closed = stack.pop()
            stack[-1].append(closed)
        elif (atom := _atom(token)) is not None:
            stack[-1].append(atom)
        at = token.end()
    if len(stack) > 1:
        raise _wrong(at, ")", "the end")
    if len(stack[0]) != 1 or not isinstance(stack[0][0], list):
        raise _wrong(0, "one list", f"{len(stack[0])} items")
    whole: Expression = stack[0][0]
    return whole


def member(whole: Expression, name: str) -> Expression | None:
    """The values of the first member ``(name value ...)``; None without one."""
    for item in whole:
        if isinstance(item, list) and item and item[0] == name:
            return item[1:]
    return None


def _atom(token: re.Match[bytes]) -> str | None:
    """None for blanks."""
    if (word := token["word"]) is not None:
        return word.decode("utf-8", "backslashreplace")
    for kind in ("single", "double"):
        if (quoted := token[kind]) is not None:
            plain = _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), quoted)
            return plain.decode("utf-8", "backslashreplace")
    return None


def _wrong(at: int, expected: str, got: str) -> FieldError:
    return FieldError(field=f"s-expression, byte {at}", expected=expected, got=got)
