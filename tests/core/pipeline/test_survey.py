"""An image at a glance: what counts is what a guest restored from it would have."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tests.core import toy
from xsave import FormatError, Highlight, PluginManager, survey
from xsave.pipeline.survey import (
    CELLS,
    DATA,
    PINNED_TABLE,
    ROWS_MAX,
    TABLE,
    ZERO,
    by_topic,
    make_map,
)

XTAB, XALLOC, L1TAB, PINNED_L1 = 0xF, 0xE, 1, 9


class Telling(toy.Text):
    name = "plain.telling"

    def highlights(self, state: str, seen: Mapping[str, Any]) -> Iterable[Highlight]:
        return (Highlight("vcpus", "vcpu 0", state),)


@pytest.fixture
def manager() -> PluginManager:
    return toy.make_manager(toy.Plugin("plain", Telling()))


def of(manager: PluginManager, events: Sequence[Any]) -> Any:
    return survey(io.BytesIO(toy.image(events)), manager=manager)


def test_memory_is_counted_by_contents_and_by_type(manager: PluginManager) -> None:
    types = [0, 0, L1TAB, PINNED_L1, XTAB, XALLOC]
    found = of(manager, [toy.pages(0, 1, 2, 3, 4, 5, types=types, seeds=[0, 1, 2, 4])])
    assert found.contents == {
        "zero": 1, "data": 1, "memory without contents": 1, "page table": 1,
        "pinned page table": 1,
    }  # fmt: skip
    assert found.types == {"NOTAB": 2, "L1TAB": 1, "L1TAB+PIN": 1, "XALLOC": 1}
    assert found.nr_present == 5
    assert found.map.rows[0].cells[:6] == bytes([ZERO, DATA, TABLE, PINNED_TABLE, 0, 3])


def test_the_last_mention_of_a_pfn_counts(manager: PluginManager) -> None:
    gone = toy.pages(1, types=[XTAB], seeds=[])
    found = of(manager, [toy.pages(0, 1, seeds=[1, 1]), toy.pages(0, seeds=[0]), gone])
    assert found.contents == {"zero": 1}
    assert found.statistics.nr_pages == 3


def test_records_and_what_handlers_say_of_them(manager: PluginManager) -> None:
    found = of(manager, [
        toy.text("plain.telling", "early"), toy.text("plain.telling", "late"),
        toy.text("odd.thing", "x", mandatory=False),
    ])  # fmt: skip
    assert [(one.name, one.number) for one in found.records] == [
        ("plain.telling", 0), ("plain.telling", 1), ("odd.thing", 0),
    ]  # fmt: skip
    assert by_topic(found.highlights) == {"vcpus": [Highlight("vcpus", "vcpu 0", "late")]}
    assert found.needs_plugins == {"plain": 1}


def test_an_image_without_memory_has_an_empty_map(manager: PluginManager) -> None:
    found = of(manager, [toy.text("toy.text")])
    assert found.map.rows == ()
    assert found.nr_present == 0


def test_a_pfn_that_no_guest_has_is_refused(manager: PluginManager) -> None:
    with pytest.raises(FormatError, match=r"expected below 0x100000000, got 0xfffffffffffff"):
        of(manager, [toy.pages((1 << 52) - 1, seeds=[1])])


def test_a_map_has_so_many_rows_at_most_and_none_that_is_empty() -> None:
    what = np.zeros(1 << 20, np.uint8)
    what[: 1 << 19] = DATA
    what[-1] = ZERO
    made = make_map(what)
    assert 2 <= len(made.rows) <= ROWS_MAX
    span = made.pfns_per_cell * CELLS
    covered = [(row.first_pfn, row.first_pfn + span) for row in made.rows]
    assert covered[0][0] == 0
    assert covered[-1][0] <= len(what) - 1 < covered[-1][1]
    assert all(any(row.cells) for row in made.rows[:-1])


def test_page_tables_among_data_are_seen() -> None:
    what = np.full(CELLS * 8 * ROWS_MAX, DATA, np.uint8)
    what[:2] = TABLE
    made = make_map(what)
    assert made.pfns_per_cell == 8
    assert made.rows[0].cells[0] == TABLE
    assert set(made.rows[0].cells[1:]) == {DATA}
