"""The tables that a vcpu uses are found from its control registers, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from xsave_plugins.hvm_context.cpu import Cpu
from xsave_plugins.hvm_context.page_tables import PAE, PAGING, keep_present, root_of, tables

LONG = 1 << 10
LA57 = 1 << 12


def cpu(cr3: int, *, cr0: int = PAGING, cr4: int = PAE, efer: int = LONG) -> Cpu:
    empty = Cpu.decode(bytes(Cpu.SIZE))
    return empty.replace(cr0=cr0, cr3=cr3, cr4=cr4, msr_efer=efer)


def memory(entries: Mapping[int, Mapping[int, int]], width: int = 8) -> Any:
    """A finder over tables given as pfn to slot to entry."""
    pages = {}
    for pfn, slots in entries.items():
        words = np.zeros(4096 // width, f"<u{width}")
        for slot, entry in slots.items():
            words[slot] = entry
        pages[pfn] = words.view(np.uint8)

    def find(pfns: Any) -> Any:
        there = [pfn for pfn in pfns.tolist() if pfn in pages]
        rows = np.array([pages[pfn] for pfn in there], np.uint8).reshape(len(there), 4096)
        return np.array(there, np.uint64), rows

    return find


FOUR_LEVELS = {
    1: {0: 2 << 12 | 1, 511: 1 << 63 | 3 << 12 | 7, 5: 9 << 12},  # slot 5 is not present
    2: {7: 4 << 12 | 1, 8: 1 << 30 | 0x81},  # slot 8 is a page of 1 GiB
    3: {0: 4 << 12 | 1},
    4: {1: 5 << 12 | 1, 2: 8 << 20 | 0x81},  # slot 2 is a page of 2 MiB
    5: {0: 6 << 12 | 1},  # refers to an ordinary page
    6: {0: 7 << 12 | 1},
}


def test_tables_of_four_levels_are_found_and_what_they_map_is_not() -> None:
    wide, narrow = tables([cpu(1 << 12)], memory(FOUR_LEVELS))
    assert wide.tolist() == [1, 2, 3, 4, 5]
    assert narrow.tolist() == []


def test_a_table_that_refers_to_itself_ends() -> None:
    wide, _ = tables([cpu(1 << 12)], memory({1: {0: 1 << 12 | 1}}))
    assert wide.tolist() == [1]


def test_tables_of_two_levels_have_entries_of_four_bytes() -> None:
    wide, narrow = tables(
        [cpu(1 << 12, cr4=0, efer=0)],
        memory({1: {0: 2 << 12 | 1, 1: 4 << 20 | 0x81}, 2: {3: 3 << 12 | 1}}, width=4),
    )
    assert (wide.tolist(), narrow.tolist()) == ([], [1, 2])


@pytest.mark.parametrize(
    ("state", "levels"),
    [
        (cpu(0, cr0=0), None),
        (cpu(0, cr4=0, efer=0), 2),
        (cpu(0, efer=0), 3),
        (cpu(0), 4),
        (cpu(0, cr4=PAE | LA57), 5),
    ],
)
def test_the_number_of_levels_follows_from_the_control_registers(
    state: Cpu, levels: int | None
) -> None:
    root = root_of(state)
    assert (None if root is None else root.levels) == levels


def test_tables_that_the_image_lacks_are_none() -> None:
    wide, _ = tables([cpu(1 << 12), cpu(99 << 12)], memory({1: {0: 77 << 12 | 1}}))
    assert wide.tolist() == [1]


def test_entries_that_are_not_present_become_zero() -> None:
    pages = np.zeros((1, 4096), np.uint8)
    pages.view("<u8")[0, :3] = [5, 6, 1 << 63 | 1]
    keep_present(pages, 8)
    assert pages.view("<u8")[0, :3].tolist() == [5, 0, 1 << 63 | 1]
