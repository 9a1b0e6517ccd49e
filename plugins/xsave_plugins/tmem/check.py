"""Rules across the tmem records of one stream.

What is remembered is one client and at most 16 pools with a counter each. So that a
handle is sent only once is checked by the count (a pool never gets more pages than it
announced) and within each record, not across records: that would take memory in
proportion to the pages.

Pages of ephemeral pools are refused where they could be stale: nobody is told what such a pool
drops, so the stream has to say that somebody looked when the guest stood still
(xen.tmem.settled). Of shared pools, which others change, no pages can be sound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xsave import FieldError, Record, StreamError

from .client import TmemClient
from .invalidate import TmemInvalidate
from .pages import TmemPages
from .pool import TmemPool
from .settled import TmemSettled

if TYPE_CHECKING:
    from xsave import PageBatch


class TmemCheck:
    """Client, then pools, then their pages and invalidations."""

    def __init__(self) -> None:
        self._client: TmemClient | None = None
        self._pools: dict[int, TmemPool] = {}
        self._nr_pages: dict[int, int] = {}
        self._unsettled: set[int] = set()  # ephemeral pools with pages that may be stale

    def see_record(self, record: Record, state: Any) -> None:
        match state:
            case TmemClient():
                self._see_client(state)
            case TmemPool():
                self._see_pool(state)
            case TmemPages():
                self._see_handles(state)
                self._count(state)
                if not self._pools[state.pool_id].is_persistent:
                    self._unsettled.add(state.pool_id)
            case TmemInvalidate():
                self._see_handles(state)
            case TmemSettled():
                self._see_settled(state)

    def see_pages(self, batch: PageBatch) -> None:
        """Guest memory is none of tmem's."""

    def finish(self) -> None:
        """No page can be missing: releases before us lost pages (see n_pages in
        docs/formats/tmem.md), and a client may have no pool."""
        if self._unsettled:
            which = ", ".join(map(str, sorted(self._unsettled)))
            raise StreamError(
                f"tmem: pages of ephemeral pool {which} came, and nothing says after them which "
                "are valid still (xen.tmem.settled): the guest could read stale data"
            )

    def _see_client(self, client: TmemClient) -> None:
        if self._client is not None:
            raise FieldError(field="client", expected="one in a stream", got="another")
        self._client = client

    def _see_pool(self, pool: TmemPool) -> None:
        if self._client is None:
            raise FieldError(field="pool", expected="xen.tmem.client before it", got="none")
        if pool.pool_id >= self._client.max_pools:
            raise FieldError(
                field="pool_id", expected=f"below the client's {self._client.max_pools} pools",
                got=str(pool.pool_id),
            )  # fmt: skip
        if pool.pool_id in self._pools:
            raise FieldError(field="pool_id", expected="a new one", got=f"{pool.pool_id} again")
        self._pools[pool.pool_id] = pool
        self._nr_pages[pool.pool_id] = 0

    def _see_handles(self, handles: TmemPages | TmemInvalidate) -> None:
        pool = self._announced(handles.pool_id)
        if pool.is_shared:
            raise FieldError(
                field="pool_id", expected="a pool that is not shared", got=f"{pool.pool_id}, shared"
            )
        assert self._client is not None  # it came before the pool
        if (words := handles.oids.shape[1]) != self._client.oid_words:
            raise FieldError(
                field="oid_words",
                expected=f"{self._client.oid_words} with the client's ABI", got=str(words),
            )  # fmt: skip

    def _announced(self, pool_id: int) -> TmemPool:
        if (pool := self._pools.get(pool_id)) is None:
            known = ", ".join(map(str, sorted(self._pools))) or "none"
            raise FieldError(
                field="pool_id", expected=f"a pool announced before ({known})", got=str(pool_id)
            )
        return pool

    def _see_settled(self, settled: TmemSettled) -> None:
        pool = self._announced(settled.pool_id)
        if pool.is_persistent:
            raise FieldError(
                field="pool_id", expected="an ephemeral pool", got=f"{pool.pool_id}, persistent"
            )
        if settled.nr_pages != (seen := self._nr_pages[pool.pool_id]):
            raise FieldError(
                field="nr_pages", expected=f"{seen}, as came of pool {pool.pool_id}",
                got=str(settled.nr_pages),
            )  # fmt: skip
        self._unsettled.discard(pool.pool_id)

    def _count(self, pages: TmemPages) -> None:
        pool = self._pools[pages.pool_id]
        self._nr_pages[pool.pool_id] += len(pages.indexes)
        if (got := self._nr_pages[pool.pool_id]) > pool.n_pages:
            raise FieldError(
                field="nr_pages", expected=f"at most {pool.n_pages} in pool {pool.pool_id}",
                got=f"{got} so far",
            )  # fmt: skip
