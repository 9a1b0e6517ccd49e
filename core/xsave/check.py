"""Contract: rules that span several records.

A handler sees one body. Some rules need more: the page that CR3 names must be a page
table, vcpu 0 must have a context. A plugin offers a check for those; the pipeline shows
it every event in order and asks it at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .record import Record

if TYPE_CHECKING:
    from .batch import PageBatch


class StreamCheck(Protocol):
    """Watches one stream go by. Made anew for each stream.

    Keep what is remembered bounded by the guest's configuration, not by the stream.
    """

    def see_record(self, record: Record, state: Any) -> None:
        """A record that was understood, with what its handler decoded.

        :raises FieldError: it contradicts what went before; the pipeline adds the
            record's name and offset.
        """

    def see_pages(self, batch: PageBatch) -> None:
        """A batch that its memory handler found good. Look at entries, not at contents."""

    def finish(self) -> None:
        """The stream is over.

        :raises StreamError: something is missing, or does not fit together.
        """
