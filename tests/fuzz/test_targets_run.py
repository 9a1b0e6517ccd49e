"""Each fuzz target, without a fuzzer, over its corpus and over changes of it.

What the fuzzers find becomes a test of its own; this one keeps the targets running, and
looks at a few inputs more each time.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import CORPUS, NAMES, Finder, corpus, no_sums
from xsave.testing.strategies import damaged
from xsave_plugins.native import spec

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def finder() -> Finder:
    return Finder()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus_is_understood(name: str, finder: Finder) -> None:
    found = corpus(name)
    assert found
    for data in found:
        assert finder.recognises(name, data)
        finder.target(name)(data)


@pytest.mark.parametrize("name", NAMES)
def test_changes_of_the_corpus_find_nothing(name: str, finder: Finder) -> None:
    target, inputs = finder.target(name), corpus(name)

    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        target(data.draw(st.sampled_from(inputs).flatmap(damaged)))

    check()


@pytest.mark.parametrize("name", NAMES)
def test_pieces_of_the_corpus_put_together_find_nothing(name: str, finder: Finder) -> None:
    target, inputs = finder.target(name), corpus(name)

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        one, other = data.draw(st.sampled_from(inputs)), data.draw(st.sampled_from(inputs))
        here = 8 * data.draw(st.integers(0, len(one) // 8))
        there = 8 * data.draw(st.integers(0, len(other) // 8))
        target(one[:here] + other[there:])

    check()


def test_every_target_has_a_program_and_a_small_corpus() -> None:
    for name in NAMES:
        tree = ast.parse((HERE / f"fuzz_{name}.py").read_text())
        called = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        assert name in {node.value for node in called}
        assert all(len(data) < 1 << 16 for data in corpus(name))
    assert sum(path.stat().st_size for path in CORPUS.rglob("*.bin")) <= 300_000


def test_checksums_are_on_again_afterwards() -> None:
    real = spec.head_sum, spec.checksum
    with no_sums():
        assert (spec.head_sum(b"x"), spec.checksum("sha256", b"x")) == (0, bytes(32))
    assert (spec.head_sum, spec.checksum) == real
    assert spec.head_sum(b"x") != 0
