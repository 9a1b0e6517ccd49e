"""The page tables that the vcpus of an HVM guest use, found from their control registers.

Source: the processors' manuals, for paging with two, three, four and five levels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from .cpu import Cpu

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xsave import Entries, FindPages, Pages

PAGING = 1 << 31  # of CR0
PAE, LA57 = 1 << 5, 1 << 12  # of CR4
LONG_MODE = 1 << 10  # of EFER, active
PRESENT, LARGE = 1, 1 << 7  # of an entry
ADDRESS = (1 << 52) - (1 << 12)
MAX_TABLES = 1 << 18  # of a guest: 1 GiB of tables


class Root(NamedTuple):
    """:ivar levels: of tables, from 2 to 5; :ivar entry_bytes: 4 with two levels, else 8."""

    pfn: int
    levels: int
    entry_bytes: int


def root_of(cpu: Cpu) -> Root | None:
    """None for a vcpu that does not page."""
    if not cpu.cr0 & PAGING:
        return None
    if not cpu.cr4 & PAE:
        return Root(cpu.cr3 >> 12 & 0xFFFFF, 2, 4)
    if not cpu.msr_efer & LONG_MODE:
        return Root(cpu.cr3 >> 12 & 0xFFFFF, 3, 8)
    return Root((cpu.cr3 & ADDRESS) >> 12, 5 if cpu.cr4 & LA57 else 4, 8)


def tables(cpus: Iterable[Cpu], find: FindPages) -> tuple[Entries, Entries]:
    """pfns of all tables reached, those with entries of 8 bytes and those of 4; large pages
    and pages that are no tables are not. At most ``MAX_TABLES`` in all: what lies beyond is
    not taken for a table."""
    import numpy as np

    roots = {root for cpu in cpus if (root := root_of(cpu)) is not None}
    by_width: dict[int, set[int]] = {8: set(), 4: set()}
    for width, levels in sorted({(root.entry_bytes, root.levels) for root in roots}):
        same = [r.pfn for r in roots if (r.entry_bytes, r.levels) == (width, levels)]
        level = np.unique(np.array(same, np.uint64))
        for depth in range(levels, 0, -1):
            known = by_width[width]
            level = level[: max(0, MAX_TABLES - len(known))]
            pfns, pages = find(level)
            known.update(pfns.tolist())
            if depth > 1:
                level = _below(pages, width, depth)
    return (
        np.array(sorted(by_width[8]), np.uint64),
        np.array(sorted(by_width[4]), np.uint64),
    )


def _below(pages: Pages, width: int, depth: int) -> NDArray[np.uint64]:
    import numpy as np

    entries = pages.view("<u8" if width == 8 else "<u4").astype(np.uint64).reshape(-1)
    entries = entries[(entries & np.uint64(PRESENT)) != 0]
    if depth in (2, 3):  # 4 MiB or 2 MiB; 1 GiB
        entries = entries[(entries & np.uint64(LARGE)) == 0]
    return np.unique((entries & np.uint64(ADDRESS)) >> np.uint64(12))


def keep_present(pages: Pages, entry_bytes: int) -> None:
    """Entries that are not present may hold anything: they become zero."""
    words = pages.view("<u8" if entry_bytes == 8 else "<u4")
    words[(words & 1) == 0] = 0
