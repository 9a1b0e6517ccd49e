"""Rules of a QEMU guest's records together: a handler sees one body only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xsave import FieldError, Record, StreamError

from .devices import DEVICES
from .ram_blocks import RAM_BLOCKS, RAM_PAGES, RAM_SECTION, RamBlocks, RamSection

if TYPE_CHECKING:
    from xsave import PageBatch


class QemuStreamCheck:
    """Pages lie in the blocks that the first section names, in sections of RAM; RAM ends, and
    devices follow. Says nothing of a stream without any of these records."""

    def __init__(self) -> None:
        self._blocks: RamBlocks | None = None
        self._section: RamSection | None = None
        self._last = ""

    def see_record(self, record: Record, state: Any) -> None:
        if not record.name.startswith("qemu."):
            return
        if isinstance(state, RamBlocks):
            if self._blocks is not None:
                raise FieldError(field=RAM_BLOCKS, expected="one a stream", got="another")
            self._blocks = state
        elif isinstance(state, RamSection):
            self._see_section(state)
        elif record.name == DEVICES and (self._section is None or self._section.kind != "end"):
            raise FieldError(field=DEVICES, expected="the last section of ram before", got="none")
        self._last = record.name

    def _see_section(self, section: RamSection) -> None:
        blocks = self._blocks
        if blocks is None or section.section_id != blocks.section_id:
            expected = "the blocks before" if blocks is None else f"number {blocks.section_id}"
            raise FieldError(
                field=RAM_SECTION, expected=expected, got=f"number {section.section_id}"
            )
        if self._section is not None and self._section.kind == "end":
            raise FieldError(field=RAM_SECTION, expected="nothing after the last", got="another")
        self._section = section

    def see_pages(self, batch: PageBatch) -> None:
        if batch.name != RAM_PAGES:
            return
        if self._blocks is None or self._section is None:
            raise FieldError(field=RAM_PAGES, expected="a section of ram before", got="none")
        found = batch.entry_list.pfn_range()
        if found is not None and found[1] >= self._blocks.nr_pages:
            raise FieldError(
                field="pfn", expected=f"at most {self._blocks.nr_pages - 1:#x}, the last one of "
                f"block {self._blocks.blocks[-1].name!r}" if self._blocks.blocks else "no page",
                got=f"{found[1]:#x}",
            )  # fmt: skip
        self._last = RAM_PAGES

    def finish(self) -> None:
        if self._last and self._last != DEVICES:
            raise StreamError(f"the guest is not whole: the last of it is {self._last}, and not "
                              f"{DEVICES}")  # fmt: skip
