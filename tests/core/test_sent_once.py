"""What goes out once and may become void: nothing is sent twice, no void is missed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import SentOnce

Piece = tuple[str, int]


def test_pieces_go_out_in_the_order_they_were_offered() -> None:
    books: SentOnce[str, int] = SentOnce()
    books.offer("b", [3, 1])
    books.offer("a", [1])
    books.offer("b", [3, 2])
    assert (books.take(3), books.take(3)) == ([("b", 3), ("b", 1), ("a", 1)], [("b", 2)])
    assert (books.nr_waiting, books.nr_sent, books.take(1)) == (0, 4, [])


def test_what_becomes_void_in_time_is_never_sent_and_never_told() -> None:
    books: SentOnce[str, int] = SentOnce()
    books.offer("a", [1, 2])
    books.offer("b", [1, 2])
    books.void("a", 1)
    books.void_all("b")
    assert (books.take(9), books.take_void(9), books.nr_spared) == ([("a", 2)], [], 3)


def test_what_was_sent_is_told_void_once() -> None:
    books: SentOnce[str, int] = SentOnce()
    books.offer("a", [1, 2])
    books.take(2)
    for _ in range(2):
        books.void("a", 2)
    books.void("a", 7)
    books.void("z", 7)
    assert (books.nr_void, books.take_void(9), books.take_void(9)) == (1, [("a", 2)], [])


def test_what_an_owner_has_not_any_more_is_void_though_it_did_not_say_so() -> None:
    books: SentOnce[str, int] = SentOnce()
    books.offer("a", [1, 2, 3, 4])
    books.offer("b", [1, 2])
    books.take(3)
    books.retain("a", [1, 4, 99])
    assert (books.nr_valid("a"), books.nr_waiting, books.nr_spared) == (1, 3, 0)
    books.retain("a", [1])
    assert (books.nr_valid("a"), books.nr_waiting, books.nr_spared) == (1, 2, 1)
    books.retain("a", [])
    books.retain("b", [])
    books.retain("nobody", [7])
    assert books.take_void(9) == [("a", 2), ("a", 3), ("a", None)]
    assert (books.nr_valid("a"), books.nr_valid("b"), books.take(9)) == (0, 0, [])


def test_all_of_an_owner_is_told_as_one_if_anything_of_it_was_sent() -> None:
    books: SentOnce[str, int] = SentOnce()
    books.offer("a", [1, 2, 3])
    books.take(2)
    books.void("a", 1)
    books.void_all("a")
    books.void("a", 2)
    books.void_all("a")
    assert books.nr_waiting == 0
    assert (books.take_void(1), books.take_void(9)) == ([("a", 1)], [("a", None)])


def test_a_piece_void_in_time_may_turn_up_again() -> None:
    books: SentOnce[str, int] = SentOnce()
    books.offer("a", [1])
    books.void("a", 1)
    books.offer("a", [1])
    assert (books.nr_waiting, books.take(9)) == (1, [("a", 1)])


@pytest.mark.parametrize("is_void", [False, True])
def test_what_was_sent_is_not_sent_again(is_void: bool) -> None:
    books: SentOnce[str, int] = SentOnce()
    books.offer("a", [1])
    books.take(1)
    if is_void:
        books.void("a", 1)
    with pytest.raises(ValueError, match="1 of 'a' was sent already"):
        books.offer("a", [1])


owners = st.sampled_from("ab")
keys = st.integers(0, 4)
steps = st.lists(
    st.tuples(st.just("offer"), owners, keys)
    | st.tuples(st.just("void"), owners, st.none() | keys)
    | st.tuples(st.sampled_from(["take", "take_void"]), st.just(""), st.integers(0, 4)),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_a_receiver_that_follows_has_what_is_valid(
    steps: Sequence[tuple[str, str, int | None]],
) -> None:
    books: SentOnce[str, int] = SentOnce()
    valid: set[Piece] = set()
    sent: set[Piece] = set()
    received: set[Piece] = set()

    def tell(count: int) -> None:
        for owner, key in books.take_void(count):
            received.difference_update(
                {p for p in received if p[0] == owner and key in (None, p[1])}
            )

    for what, owner, number in steps:
        if what == "offer" and number is not None:
            if (owner, number) not in sent:
                books.offer(owner, [number])
                valid.add((owner, number))
        elif what == "void":
            valid = {p for p in valid if p[0] != owner or number not in (None, p[1])}
            books.void_all(owner) if number is None else books.void(owner, number)
        elif what == "take":
            tell(99)  # all of an owner is what was sent until then: told before more goes out
            taken = books.take(number or 0)
            assert not sent & set(taken)
            sent |= set(taken)
            received |= set(taken)
        else:
            tell(number or 0)
        assert books.nr_waiting == len(valid - sent)
    received |= set(books.take(99)) if not books.nr_void else set()
    tell(99)
    received |= set(books.take(99))
    assert received == valid
