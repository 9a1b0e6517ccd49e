"""Pages by pfn in Xen's streams, which have no index: the stream is passed over once, without
the contents of pages, to learn where each batch is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsave import Cursor, PageBatch, PageMode, PlacedPages, RawEntries, ReadOptions

from . import framing as f
from .reader import XenReader

if TYPE_CHECKING:
    from xsave import ByteSource, Entries, RandomAccess, Reader

_ENTRY_BYTES = 8
_ENTRIES_AT = f.RECORD_HEADER.size + f.PAGE_DATA_HEADER.size  # in a record


class _OtherInsideError(Exception):
    """The stream inside is not libxc's, so where its pages are is not known here."""


def page_finder(image: RandomAccess, format_: str, layers: tuple[str, ...]) -> PlacedPages | None:
    """:raises StreamError: the stream is damaged or cut."""

    def inside(source: ByteSource, pages: PageMode) -> Reader | None:
        raise _OtherInsideError

    def read_entries(at: int, number: int) -> Entries:
        return RawEntries(image.read_at(at, number * _ENTRY_BYTES, "entries of pages")).array()

    options = ReadOptions(PageMode.SKIP, inside=inside)
    try:
        reader = XenReader(Cursor(image), format_, layers, options)
    except _OtherInsideError:
        return None
    finder = PlacedPages(image, read_entries)
    for event in reader:
        if isinstance(event, PageBatch) and (pfns := event.entry_list.pfn_range()) is not None:
            at = event.offset + _ENTRIES_AT
            finder.add(pfns, at, event.nr_pfns, at + event.nr_pfns * _ENTRY_BYTES)
    return finder
