"""What went through one end of a run, for logs and reports."""

from __future__ import annotations

from attrs import define

from .pool import PAGE_BYTES


@define
class TmemTraffic:
    """Of a stream that saves, or of a domain that is being restored.

    :ivar nr_pages: pages that went through; :ivar nr_compressed: of these, in the form in
        which the source holds them.
    :ivar nr_recoded: of these, made plain again for a destination without that codec.
    :ivar page_bytes: that all of them took on the way, handles not counted.
    :ivar nr_gone: handles whose page was gone before it was read.
    :ivar nr_void: invalidations, whole objects counted as one.
    :ivar nr_pages_paused, nr_void_paused: what was left to the pause of each.
    """

    nr_pages: int = 0
    nr_compressed: int = 0
    nr_recoded: int = 0
    page_bytes: int = 0
    nr_gone: int = 0
    nr_void: int = 0
    nr_pages_paused: int = 0
    nr_void_paused: int = 0

    @property
    def saved_bytes(self) -> int:
        """By sending pages in the form in which they are held."""
        return self.nr_pages * PAGE_BYTES - self.page_bytes
