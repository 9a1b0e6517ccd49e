"""Pages of a running guest in tmem: each is sent once, and told when it is void.

The pages go out while the guest runs, and the host sees to it that none is added or
changed meanwhile (:meth:`TmemFacet.begin`). So nothing but invalidations can be left when
the guest is paused. Of persistent pools the host tells what is dropped. Of ephemeral ones,
sent only when that is asked for, nobody is told; but since nothing is added or changed, what
is void is what is not there any more when the guest stands still.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from xsave import Figure, SentOnce

from .held import make_plain
from .invalidate import NR_HANDLES_MAX, TmemInvalidate
from .options import DEFAULTS, PERSISTENT, TmemOptions
from .pages import NR_PAGES_MAX, TmemPages
from .pool import PAGE_BYTES
from .settled import TmemSettled
from .traffic import TmemTraffic

if TYPE_CHECKING:
    from .facet import Handle, Oid, TmemFacet

PAGES, INVALIDATE, SETTLED = "xen.tmem.pages", "xen.tmem.invalidate", "xen.tmem.settled"
# Fewer voids than this wait for others, or for the pause: there they are a record of at most
# some KiB.
VOIDS_WORTH_A_RECORD = 256

log = logging.getLogger("xsave.tmem")


class TmemStream:
    """A :class:`xsave.CheckpointStream`, made after ``facet.begin``. From there to its end the
    guest's persistent pages only become fewer, so that each checkpoint has what went since the
    last one.

    :ivar traffic: what was sent so far.

    Memory use: the handles of all pages that it sends.
    """

    def __init__(self, facet: TmemFacet, options: TmemOptions = DEFAULTS) -> None:
        self.traffic = TmemTraffic()
        self._facet = facet
        self._options = options
        # An object in its pool is the owner, an index is its key.
        self._pages: SentOnce[tuple[int, Oid], int] = SentOnce()
        self._ephemeral: dict[int, set[Oid]] = {}  # objects of pools that tell nothing
        self._nr_sent: dict[int, int] = {}  # pages of each of these
        pools = [(pool_id, flags) for pool_id, flags, *_ in facet.pools() if options.takes(flags)]
        for pool_id, flags in sorted(pools, key=lambda pool: not pool[1] & PERSISTENT):
            if not flags & PERSISTENT:
                self._ephemeral[pool_id] = set()
                self._nr_sent[pool_id] = 0
            self._offer(pool_id)

    def _offer(self, pool_id: int) -> None:
        for oid, of_object in groupby(self._facet.handles(pool_id), lambda handle: handle[0]):
            self._pages.offer((pool_id, oid), [index for _, index in of_object])
            if pool_id in self._ephemeral:
                self._ephemeral[pool_id].add(oid)

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

    def checkpoint(self) -> Sequence[tuple[str, Any]]:
        return self.final()

    def final(self) -> Sequence[tuple[str, Any]]:
        self._listen()
        self._look_again()
        before = self.traffic.nr_pages, self.traffic.nr_void
        sent: list[tuple[str, Any]] = []
        while self._pages.nr_waiting:  # only if it was not asked for more() until the end
            sent += self._send_pages(NR_PAGES_MAX)
        sent += self._send_voids()
        self.traffic.nr_pages_paused += self.traffic.nr_pages - before[0]
        self.traffic.nr_void_paused += self.traffic.nr_void - before[1]
        return [*sent, *self._settle()]

    def figures(self) -> Sequence[Figure]:
        return self.traffic.sent(self._pages.nr_spared)

    def close(self) -> None:
        self._facet.end()
        it = self.traffic
        log.info(
            "sent %d pages, %d of them as the host holds them (%d bytes saved); "
            "%d invalidations, %d of them in the pause",
            it.nr_pages, it.nr_compressed - it.nr_recoded, it.saved_bytes,
            it.nr_void, it.nr_void_paused,
        )  # fmt: skip

    def _listen(self) -> None:
        for pool_id, oid, index in self._facet.voids():
            if index is None:
                self._pages.void_all((pool_id, oid))
            else:
                self._pages.void((pool_id, oid), index)

    def _look_again(self) -> None:
        """What is not there any more of an ephemeral pool is void."""
        for pool_id, oids in self._ephemeral.items():
            there: dict[Oid, list[int]] = {}
            for oid, index in self._facet.handles(pool_id):
                there.setdefault(oid, []).append(index)
            for oid in oids:
                self._pages.retain((pool_id, oid), there.get(oid, ()))

    def _settle(self) -> Iterator[tuple[str, TmemSettled]]:
        for pool_id, oids in self._ephemeral.items():
            nr_valid = sum(self._pages.nr_valid((pool_id, oid)) for oid in oids)
            if nr_sent := self._nr_sent[pool_id]:
                yield SETTLED, TmemSettled(pool_id, 0, nr_sent, nr_valid)

    def _send_pages(self, count: int) -> Iterator[tuple[str, TmemPages]]:
        taken = self._pages.take(count)
        for pool_id, group in groupby(taken, lambda piece: piece[0][0]):
            handles = [(oid, index) for (_, oid), index in group]
            held = self._facet.read_pages(pool_id, handles)
            there = []
            for handle, data in zip(handles, held, strict=True):
                if data is not None:
                    there.append((handle, data))
                else:  # gone by now; the other end will be told of it for nothing
                    self._pages.void((pool_id, handle[0]), handle[1])
            self.traffic.nr_gone += len(handles) - len(there)
            if there:
                present, contents = zip(*there, strict=True)
                yield PAGES, self._made(pool_id, present, contents)

    def _made(
        self, pool_id: int, handles: Sequence[Handle], held: Sequence[bytes]
    ) -> TmemPages:  # fmt: skip
        codec, traffic = self._facet.held_with(), self.traffic
        nr_compressed = sum(len(data) < PAGE_BYTES for data in held)
        if self._options.recode and nr_compressed:
            held = make_plain(held, codec)
            traffic.nr_recoded += nr_compressed
        made = TmemPages.of(pool_id, handles, held, codec)
        traffic.nr_pages += len(handles)
        traffic.nr_compressed += nr_compressed
        traffic.page_bytes += made.contents.size
        if pool_id in self._ephemeral:
            self._nr_sent[pool_id] += len(handles)
            traffic.nr_ephemeral += len(handles)
        return made

    def _send_voids(self) -> Iterator[tuple[str, TmemInvalidate]]:
        while void := self._pages.take_void(NR_HANDLES_MAX):
            self.traffic.nr_void += len(void)
            for (pool_id, whole), group in groupby(void, lambda one: (one[0][0], one[1] is None)):
                handles = [(oid, index or 0) for (_, oid), index in group]
                yield INVALIDATE, TmemInvalidate.of(pool_id, handles, whole_objects=whole)


def begin(facet: TmemFacet | None, options: TmemOptions = DEFAULTS) -> TmemStream | None:
    """:returns: None for a guest that has nothing there."""
    # The pause comes later, also of a save that is not live: until then the guest runs.
    if facet is None or not facet.begin(live=True):
        return None
    try:
        return TmemStream(facet, options)
    except BaseException:
        facet.end()
        raise
