"""PAGE_DATA of HVM and PVH guests: ordinary pages, and pfns without one.

Xen keeps no page-table types for guests that it translates addresses for, so an entry
that names one belongs to another guest or is damaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xsave import BROKEN, NOTAB, TYPE_NAMES, FieldError, GuestType, MemoryHandler

if TYPE_CHECKING:
    from xsave import Entries, FindPages, PageBatch, Pages

_TABLES = {8: "page tables", 4: "page tables of 4-byte entries"}
_OTHER_TYPES = frozenset(range(NOTAB + 1, BROKEN))


class HvmPageDataHandler(MemoryHandler):
    """``xen.hvm.page_data``."""

    name = "xen.hvm.page_data"
    summary = "memory of HVM and PVH guests"
    guest_types = frozenset({GuestType.X86_HVM})
    structure_from = frozenset({"xen.hvm.context"})

    def check(self, batch: PageBatch) -> None:
        """Only NOTAB, BROKEN, XALLOC and XTAB."""
        if (found := batch.entry_list.first_of(_OTHER_TYPES)) is not None:
            _, pfn, kind = found
            raise FieldError(
                field=f"type of pfn {pfn:#x}",
                expected="NOTAB, BROKEN, XALLOC or XTAB, as in every HVM guest",
                got=TYPE_NAMES[kind],
            )

    def structure(
        self, states: Mapping[str, Sequence[Any]], find: FindPages
    ) -> Mapping[str, Entries]:
        """The page tables that its vcpus use."""
        from .cpu import Cpu
        from .page_tables import tables

        contexts = states.get("xen.hvm.context", ())[-1:]
        saved = [one.fields for context in contexts for one in context.save_records]
        wide, narrow = tables([one for one in saved if isinstance(one, Cpu)], find)
        return {_TABLES[8]: wide, _TABLES[4]: narrow}

    def redact(self, kind: str, pages: Pages) -> None:
        from .page_tables import keep_present

        for width, name in _TABLES.items():
            if kind == name:
                keep_present(pages, width)
