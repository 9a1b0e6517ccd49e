"""PAGE_DATA of HVM and PVH guests: ordinary pages, and pfns without one.

Xen keeps no page-table types for guests that it translates addresses for, so an entry
that names one belongs to another guest or is damaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsave import BROKEN, NOTAB, TYPE_NAMES, FieldError, GuestType, MemoryHandler

if TYPE_CHECKING:
    from xsave import PageBatch

_OTHER_TYPES = frozenset(range(NOTAB + 1, BROKEN))


class HvmPageDataHandler(MemoryHandler):
    """``xen.hvm.page_data``."""

    name = "xen.hvm.page_data"
    summary = "memory of HVM and PVH guests"
    guest_types = frozenset({GuestType.X86_HVM})

    def check(self, batch: PageBatch) -> None:
        """Only NOTAB, BROKEN, XALLOC and XTAB."""
        if (found := batch.entry_list.first_of(_OTHER_TYPES)) is not None:
            _, pfn, kind = found
            raise FieldError(
                field=f"type of pfn {pfn:#x}",
                expected="NOTAB, BROKEN, XALLOC or XTAB, as in every HVM guest",
                got=TYPE_NAMES[kind],
            )
