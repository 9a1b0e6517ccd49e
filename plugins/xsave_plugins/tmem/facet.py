"""What a domain backend offers under the name ``tmem``.

A handle is an object id (one or three u64, by the client's ABI version) and an index, in a
pool. Order of calls:

* saving: :meth:`~TmemFacet.begin` before the first page; then ``handles``, ``read_pages`` and
  ``voids`` as often as wanted; ``end`` in any case.
* restoring, the guest not running yet: ``create_client``, ``create_pool`` for each pool,
  then ``restore_pages`` and ``restore_flush``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

Oid = tuple[int, ...]
Handle = tuple[Oid, int]


class TmemFacet(Protocol):
    """``tmem``: a guest as a client of its host's tmem."""

    def client(self) -> tuple[int, int, int, int, int] | None:
        """``abi_version``, ``max_pools``, ``flags``, ``weight``, ``cap`` as in
        xen.tmem.client; None if the guest is no client. Whether it is frozen is asked for
        as it was before :meth:`begin`."""

    def pools(self) -> Iterable[tuple[int, int, int, int, int]]:
        """``pool_id``, ``flags``, ``n_pages``, low and high word of ``uuid``, as in
        xen.tmem.pool, in order of pool_id. ``n_pages`` is of all pools what they have now."""

    def begin(self, *, live: bool) -> bool:
        """A save begins: until :meth:`end` the guest adds no handle to any of its pools, a put
        onto one that is there fails and drops the page (so no handle ever gets other contents),
        and pools stay. Pools that it shares may change by what others do.

        :param live: the guest runs; what is dropped from persistent pools is remembered.
        :returns: False if there is nothing to save; then there is nothing to end.
        """

    def handles(self, pool_id: int) -> Iterable[Handle]:
        """What is in a pool now."""

    def read_pages(self, pool_id: int, handles: Sequence[Handle]) -> Sequence[bytes | None]:
        """Each page as the host holds it: 4096 bytes are the page itself, fewer are
        compressed as :meth:`held_with` says; None if it is gone."""

    def held_with(self) -> str:
        """Name of the codec of compressed pages; "" if the host compresses none."""

    def voids(self) -> Iterable[tuple[int, Oid, int | None]]:
        """What was dropped since this was last asked: pool, object id, and index, or None
        for the whole object. May name pages that were never read."""

    def end(self) -> None:
        """The client is as before :meth:`begin` again."""

    def create_client(
        self, abi_version: int, max_pools: int, flags: int, weight: int, cap: int
    ) -> None:
        """A client that is to be frozen takes what is restored all the same, and is frozen
        at the latest when the guest first runs.

        :raises XsaveError: there is one already, or the host has no such tmem.
        """

    def create_pool(self, pool_id: int, flags: int, uuid: tuple[int, int]) -> None:
        """:param flags: bits 24-31 clear: the host puts its own ABI version there.
        :param uuid: low word, high word. A shared pool is joined, if the host has it."""

    def accepts(self, codec: str) -> bool:
        """Whether pages compressed with this codec can be restored as they are."""

    def restore_pages(
        self, pool_id: int, handles: Sequence[Handle], pieces: Sequence[bytes], codec: str
    ) -> None:
        """:param pieces: one for each handle: 4096 bytes are the page itself, fewer are
            compressed with ``codec``.
        :param codec: one that it accepts; "" if all are the pages themselves.
        :raises XsaveError: the host has no room for one of them, or it is damaged."""

    def restore_flush(self, pool_id: int, oid: Oid, index: int | None) -> None:
        """Drop a page, or with None the whole object; harmless when it is not there."""
