"""The bounded memory of pages, against a plain list of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsave_plugins.native.window import Fingerprints, Window, survey


def pages(values: list[int]) -> np.ndarray:
    return np.array([[value] * 512 for value in values], np.uint64).view(np.uint8)


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=12), st.integers(1, 10))
def test_the_last_pages_are_kept_and_no_older_ones_are_promised(
    parts: list[list[int]], size: int
) -> None:
    window = Window(size)
    stored: list[int] = []
    for part in parts:
        window.add(len(stored), pages(part).reshape(-1, 4096))
        stored += part
    numbers = np.arange(max(len(stored) - size, 0), len(stored))
    out = np.zeros((len(numbers), 4096), np.uint8)
    rows = np.arange(len(numbers))
    window.fill(numbers, rows, out)
    assert out[:, 0].tolist() == [stored[n] for n in numbers]
    assert window.equal(numbers, out, rows).all()
    assert sum(len(part) for _, part in window._parts) <= size + 6


def test_a_page_that_is_not_kept_is_an_error_not_a_guess() -> None:
    window = Window(2)
    window.add(0, pages([1, 2]))
    window.add(2, pages([3, 4]))
    with pytest.raises(KeyError):
        window.fill(np.array([1]), np.array([0]), np.zeros((1, 4096), np.uint8))
    assert not window.equal(np.array([1]), pages([2]), np.array([0])).any()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_equal_pages_have_equal_fingerprints_and_zero_is_zero(values: list[int]) -> None:
    zero, prints = survey(pages(values))
    assert zero.tolist() == [value == 0 for value in values]
    for value, one in zip(values, prints, strict=True):
        assert all(p == one for v, p in zip(values, prints, strict=True) if v == value)


def test_the_table_of_fingerprints_forgets_what_is_out_of_reach() -> None:
    table = Fingerprints(16)
    prints = np.array([5, 6, 7], np.uint64)
    table.add(prints, 100)
    assert table.find(prints, 0).tolist() == [100, 101, 102]
    assert table.find(prints, 102).tolist() == [-1, -1, 102]
    assert table.find(np.array([99], np.uint64), 0).tolist() == [-1]
