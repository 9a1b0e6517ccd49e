"""What goes out beside memory is counted with the pass over memory that it went with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.core import toy
from xsave import Figure
from xsave.pipeline.beside import BEFORE, PAUSED, BesideMemory


class Letters:
    """A stream that counts what a test says."""

    def __init__(self) -> None:
        self.sent = self.lost = 0

    def more(self, size_bytes: int) -> Sequence[tuple[str, Any]]:
        return ()

    def final(self) -> Sequence[tuple[str, Any]]:
        return ()

    def figures(self) -> Sequence[Figure]:
        return (
            Figure("sent", "letters sent", self.sent, plotted=True),
            Figure("lost", "letters lost", self.lost),
        )

    def close(self) -> None:
        pass


def test_each_pass_has_its_own_records_and_the_growth_of_each_figure() -> None:
    letters = Letters()
    beside = BesideMemory("post", letters)
    for name, count in (("0", 3), ("1", 0), (PAUSED, 1)):
        for _ in range(count):
            beside.went_out(toy.text("toy.text", "four"))
        letters.sent += count
        beside.mark(name)
    passes = beside.report.passes
    assert [(one.name, one.nr_records, one.body_bytes) for one in passes] == [
        ("0", 3, 12), ("1", 0, 0), (PAUSED, 1, 4),
    ]  # fmt: skip
    assert [dict(one.figures) for one in passes] == [
        {"sent": 3, "lost": 0}, {"sent": 0, "lost": 0}, {"sent": 1, "lost": 0},
    ]  # fmt: skip
    assert [figure.value for figure in beside.report.figures] == [4, 0]
    assert [figure.name for figure in beside.report.plotted] == ["sent"]


def test_what_follows_a_pass_before_the_next_belongs_to_it() -> None:
    letters = Letters()
    beside = BesideMemory("post", letters)
    for count in (2, 5):
        letters.sent += count
        beside.went_out(toy.text("toy.text", "x"))
        beside.mark(BEFORE)
    letters.lost += 1
    beside.mark(PAUSED)
    before, paused = beside.report.passes
    assert (before.name, before.nr_records, before.figures) == (BEFORE, 2, {"sent": 7, "lost": 0})
    assert (paused.name, paused.nr_records, paused.figures) == (PAUSED, 0, {"sent": 0, "lost": 1})
