"""PAGE_DATA of a PV guest: ordinary pages, page tables in canonical form, and holes.

Layout and types: libxc stream revision 3, PAGE_DATA. The container has split the body
into entries and pages; what is left to say is which types a PV guest can have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsave import FieldError, GuestType, MemoryHandler

if TYPE_CHECKING:
    from xsave import PageBatch


class PvPageDataHandler(MemoryHandler):
    name = "xen.pv.page_data"
    summary = "memory of a PV guest"
    guest_types = frozenset({GuestType.X86_PV})

    def check(self, batch: PageBatch) -> None:
        """Everything but the reserved types 5 to 8 is legal for PV."""
        import numpy as np
        from xsave import IS_RESERVED

        reserved = IS_RESERVED[batch.types.astype(np.intp)]
        if not reserved.any():
            return
        entry = int(batch.entries[int(reserved.argmax())])
        raise FieldError(
            field=f"type of pfn {entry & ((1 << 52) - 1):#x}",
            expected="0-4 or 9-15",
            got=f"{entry >> 60} (reserved)",
        )
