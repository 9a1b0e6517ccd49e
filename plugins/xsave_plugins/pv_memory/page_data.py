"""PAGE_DATA of a PV guest: ordinary pages, page tables in canonical form, and holes.

Layout and types: libxc stream revision 3, PAGE_DATA. The container has split the body
into entries and pages; what is left to say is which types a PV guest can have, and what
becomes of page tables between host and image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xsave import RESERVED_TYPES, FieldError, GuestType, MemoryHandler

from .redaction import STRUCTURE_FROM, TABLE_TYPES, clean, structure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xsave import Domain, Entries, FindPages, PageBatch, Pages


class PvPageDataHandler(MemoryHandler):
    name = "xen.pv.page_data"
    summary = "memory of a PV guest"
    guest_types = frozenset({GuestType.X86_PV})
    structural_types = TABLE_TYPES
    structure_from = STRUCTURE_FROM

    def prepare(self) -> None:
        from . import completion, page_tables  # noqa: F401
        from .check import prepare

        prepare()

    def check(self, batch: PageBatch) -> None:
        """Everything but the reserved types 5 to 8 is legal for PV."""
        if (found := batch.entry_list.first_of(RESERVED_TYPES)) is not None:
            _, pfn, kind = found
            raise FieldError(
                field=f"type of pfn {pfn:#x}", expected="0-4 or 9-15", got=f"{kind} (reserved)"
            )

    def structure(
        self, states: Mapping[str, Sequence[Any]], find: FindPages
    ) -> Mapping[str, Entries]:
        """The p2m, start_info without its command line, and descriptor tables."""
        return structure(states)

    def redact(self, kind: str, pages: Pages) -> None:
        clean(kind, pages)

    def normalise(self, domain: Domain, entries: Entries, pages: Pages) -> NDArray[np.bool_] | None:
        """Page tables in canonical form. False for a table that refers to a frame that is
        not (or no longer) the guest's."""
        from .page_tables import normalise_tables

        return normalise_tables(domain, entries, pages)

    def localise(self, domain: Domain, entries: Entries, pages: Pages) -> None:
        from .page_tables import localise_tables

        localise_tables(domain, entries, pages)

    def finish(self, domain: Domain, entries: Entries) -> None:
        from .completion import complete

        complete(domain, entries)
