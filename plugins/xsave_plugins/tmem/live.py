"""Persistent pages of a running guest: each is sent once, and told when it is void.

The pages go out while the guest runs, and the host sees to it that none is added or
changed meanwhile (:meth:`TmemFacet.begin`). So nothing but invalidations can be left when
the guest is paused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from xsave import Figure, SentOnce

from .invalidate import NR_HANDLES_MAX, TmemInvalidate
from .pages import NR_PAGES_MAX, TmemPages
from .pool import PAGE_BYTES, PERSISTENT
from .traffic import TmemTraffic

if TYPE_CHECKING:
    from .facet import Oid, TmemFacet

PAGES, INVALIDATE = "xen.tmem.pages", "xen.tmem.invalidate"
# Fewer voids than this wait for others, or for the pause: there they are a record of at most
# some KiB.
VOIDS_WORTH_A_RECORD = 256

log = logging.getLogger("xsave.tmem")


class TmemStream:
    """A :class:`xsave.StateStream`, made after ``facet.begin``.

    :ivar traffic: what was sent so far.

    Memory use: the handles of all persistent pages.
    """

    def __init__(self, facet: TmemFacet) -> None:
        self.traffic = TmemTraffic()
        self._facet = facet
        # An object in its pool is the owner, an index is its key.
        self._pages: SentOnce[tuple[int, Oid], int] = SentOnce()
        for pool_id, flags, *_ in facet.pools():
            if flags & PERSISTENT:
                for oid, of_object in groupby(facet.handles(pool_id), lambda handle: handle[0]):
                    self._pages.offer((pool_id, oid), [index for _, index in of_object])

    def more(self, size_bytes: int) -> Sequence[tuple[str, Any]]:
        self._listen()
        sent: list[tuple[str, Any]] = []
        while self._pages.nr_waiting and size_bytes > 0:
            count = min(NR_PAGES_MAX, max(1, size_bytes // PAGE_BYTES))
            sent += self._send_pages(count)
            size_bytes -= count * PAGE_BYTES
        if self._pages.nr_void >= VOIDS_WORTH_A_RECORD:
            sent += self._send_voids()
        return sent

    def final(self) -> Sequence[tuple[str, Any]]:
        self._listen()
        before = self.traffic.nr_pages, self.traffic.nr_void
        sent: list[tuple[str, Any]] = []
        while self._pages.nr_waiting:  # only if it was not asked for more() until the end
            sent += self._send_pages(NR_PAGES_MAX)
        sent += self._send_voids()
        self.traffic.nr_pages_paused += self.traffic.nr_pages - before[0]
        self.traffic.nr_void_paused += self.traffic.nr_void - before[1]
        return sent

    def figures(self) -> Sequence[Figure]:
        return self.traffic.sent(self._pages.nr_spared)

    def close(self) -> None:
        self._facet.end()
        it = self.traffic
        log.info(
            "sent %d pages, %d of them as the host holds them (%d bytes saved); "
            "%d invalidations, %d of them in the pause",
            it.nr_pages, it.nr_compressed, it.saved_bytes, it.nr_void, it.nr_void_paused,
        )  # fmt: skip

    def _listen(self) -> None:
        for pool_id, oid, index in self._facet.voids():
            if index is None:
                self._pages.void_all((pool_id, oid))
            else:
                self._pages.void((pool_id, oid), index)

    def _send_pages(self, count: int) -> Iterator[tuple[str, TmemPages]]:
        taken = self._pages.take(count)
        for pool_id, group in groupby(taken, lambda piece: piece[0][0]):
            handles = [(oid, index) for (_, oid), index in group]
            held = self._facet.read_pages(pool_id, handles)
            # One that is gone by now is void too, so the other end is told of it for nothing.
            there = [
                (handle, data)
                for handle, data in zip(handles, held, strict=True)
                if data is not None
            ]
            self.traffic.nr_gone += len(handles) - len(there)
            if there:
                present, contents = zip(*there, strict=True)
                made = TmemPages.of(pool_id, present, contents, self._facet.held_with())
                self._count(made)
                yield PAGES, made

    def _send_voids(self) -> Iterator[tuple[str, TmemInvalidate]]:
        while void := self._pages.take_void(NR_HANDLES_MAX):
            self.traffic.nr_void += len(void)
            for (pool_id, whole), group in groupby(void, lambda one: (one[0][0], one[1] is None)):
                handles = [(oid, index or 0) for (_, oid), index in group]
                yield INVALIDATE, TmemInvalidate.of(pool_id, handles, whole_objects=whole)

    def _count(self, made: TmemPages) -> None:
        self.traffic.nr_pages += len(made.indexes)
        self.traffic.nr_compressed += made.nr_compressed
        self.traffic.page_bytes += made.contents.size


def begin(facet: TmemFacet | None) -> TmemStream | None:
    """:returns: None for a guest that has nothing there."""
    # The pause comes later, also of a save that is not live: until then the guest runs.
    if facet is None or not facet.begin(live=True):
        return None
    try:
        return TmemStream(facet)
    except BaseException:
        facet.end()
        raise
