"""What went through one end of a run, for logs and reports."""

from __future__ import annotations

from collections.abc import Sequence

from xsave import Figure, define

from .pool import PAGE_BYTES


@define
class TmemTraffic:
    """Of a stream that saves, or of a domain that is being restored.

    :ivar nr_pages: pages that went through; :ivar nr_compressed: of these, those that the
        source's host holds compressed.
    :ivar nr_recoded: of these, those made plain at this end.
    :ivar page_bytes: that all of them took on the way, handles not counted.
    :ivar nr_ephemeral: pages of ephemeral pools among them.
    :ivar nr_gone: handles whose page was gone before it was read.
    :ivar nr_void: invalidations, whole objects counted as one.
    :ivar nr_pages_paused, nr_void_paused: what was left to the pause of each.
    """

    nr_pages: int = 0
    nr_compressed: int = 0
    nr_recoded: int = 0
    page_bytes: int = 0
    nr_ephemeral: int = 0
    nr_gone: int = 0
    nr_void: int = 0
    nr_pages_paused: int = 0
    nr_void_paused: int = 0

    @property
    def saved_bytes(self) -> int:
        """On the way, by sending pages in the form in which they are held."""
        return self.nr_pages * PAGE_BYTES - self.page_bytes

    def sent(self, nr_spared: int) -> Sequence[Figure]:
        """For the report of a source.

        :param nr_spared: pages that became void in time, and were never sent.
        """
        return (
            Figure("pages", "pages sent", self.nr_pages, plotted=True),
            Figure("invalidations", "invalidations", self.nr_void, plotted=True),
            *self._by_form("sent as the host holds them, compressed", "recoded before they went"),
            Figure("ephemeral", "pages of ephemeral pools", self.nr_ephemeral),
            Figure("spared", "void before they were sent", nr_spared + self.nr_gone),
            *self._in_bytes(),
        )

    def restored(self) -> Sequence[Figure]:
        """For the report of a destination."""
        return (
            Figure("pages", "pages restored", self.nr_pages),
            *self._by_form("kept as they came, compressed", "recoded: not taken so by this host"),
            *self._in_bytes(),
        )

    def _by_form(self, as_held: str, recoded: str) -> Sequence[Figure]:
        return (
            Figure("as_held", as_held, self.nr_compressed - self.nr_recoded),
            Figure("recoded", recoded, self.nr_recoded),
            Figure("plain", "plain at the source already", self.nr_pages - self.nr_compressed),
        )

    def _in_bytes(self) -> Sequence[Figure]:
        return (
            Figure("page_bytes", "of page contents on the way", self.page_bytes, "bytes"),
            Figure(
                "saved_bytes",
                "saved on the way by sending them as they are held",
                self.saved_bytes,
                "bytes",
            ),
        )
