"""Order among records is declared, and contradictions are found at the start."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave import (
    Buffer,
    EmptyHandler,
    FieldError,
    Layout,
    LayoutHandler,
    Phase,
    PluginError,
    RecordHandler,
    layout,
    u32,
)
from xsave.handler import order_handlers


class Plain(RecordHandler[bytes]):
    def __init__(
        self,
        name: str,
        phase: Phase = Phase.END_OF_CHECKPOINT,
        *,
        before: Sequence[str] = (),
        after: Sequence[str] = (),
    ) -> None:
        self.name = name  # type: ignore[misc]  # handlers made by the dozen, for these tests only
        self.phase = phase  # type: ignore[misc]  # the same
        self.before = frozenset(before)  # type: ignore[misc]  # the same
        self.after = frozenset(after)  # type: ignore[misc]  # the same

    def decode(self, body: memoryview) -> bytes:
        return bytes(body)

    def encode(self, state: bytes) -> Sequence[Buffer]:
        return (state,)


def test_phases_come_first_then_declarations_then_names() -> None:
    handlers = [
        Plain("z.first", Phase.HEADER),
        Plain("c.params", before=["b.context"]),
        Plain("b.context"),
        Plain("a.last", Phase.END),
        Plain("d.tsc", after=["b.context"]),
        Plain("e.any"),
        Plain("m.pages", Phase.MEMORY),
    ]
    expected = ["z.first", "m.pages", "c.params", "e.any", "b.context", "d.tsc", "a.last"]
    for order in permutations(handlers, len(handlers)):
        assert order_handlers(order) == expected


def test_names_that_nobody_offers_and_names_of_other_phases_do_not_matter() -> None:
    handlers = [
        Plain("b", before=["nowhere"], after=["end"]),
        Plain("a", after=["nowhere.either"]),
        Plain("end", Phase.END, before=["a"]),
    ]
    assert order_handlers(handlers) == ["a", "b", "end"]


def test_a_cycle_is_named() -> None:
    handlers = [Plain("a", before=["b"]), Plain("b", before=["c"]), Plain("c", before=["a"])]
    with pytest.raises(PluginError, match="contradicts itself: ") as caught:
        order_handlers(handlers)
    names = str(caught.value).partition(": ")[2].split(" before ")
    assert names[0] == names[-1]
    assert "".join(names[:-1]) * 2 in {"abcabc", "bcabca", "cabcab"}


def test_a_record_before_itself_is_a_cycle() -> None:
    with pytest.raises(PluginError, match="a before a"):
        order_handlers([Plain("a", before=["a"])])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_every_declaration_is_kept(pairs: list[tuple[int, int]]) -> None:
    pairs = [(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]]
    handlers = [
        Plain(str(n), before=[str(b) for a, b in pairs if a == n]) for n in reversed(range(10))
    ]
    order = order_handlers(handlers)
    assert sorted(order) == [str(n) for n in range(10)]
    assert all(order.index(str(first)) < order.index(str(second)) for first, second in pairs)


@layout
class Pair(Layout):
    left: int = u32()
    right: int = u32(names={2: "two"})


class PairHandler(LayoutHandler):
    name = "test.pair"
    phase = Phase.END_OF_CHECKPOINT
    layout = Pair


class MarkHandler(EmptyHandler):
    name = "test.mark"
    phase = Phase.END


def test_a_layout_handler_is_its_layout() -> None:
    handler = PairHandler()
    state = handler.decode(memoryview(b"\1\0\0\0\2\0\0\0"))
    assert state == Pair(1, 2)
    assert handler.describe(state, {}) == {"left": 1, "right": {"value": 2, "name": "two"}}
    assert b"".join(handler.encode(state)) == b"\1\0\0\0\2\0\0\0"
    with pytest.raises(FieldError):
        handler.decode(memoryview(b"\1"))


def test_an_empty_handler_takes_no_body() -> None:
    handler = MarkHandler()
    handler.decode(memoryview(b""))
    assert handler.encode(None) == ()
    assert handler.describe(None, {}) is None
    with pytest.raises(FieldError, match="body: expected 0 bytes, got 1 bytes"):
        handler.decode(memoryview(b"x"))
