"""Transcendent memory as Xen 4.0 to 4.12 had it: a guest's pools, kept by its host.

A guest creates pools and puts pages into them by handle: an object id of 64 or 192 bits, and
an index. What it put into a *persistent* pool it will get back; what is in an *ephemeral* one
may vanish at any time. Ephemeral pools may be *shared*: the guests of one host that know its
uuid use the same one.

While a guest is being saved, as in Xen: new handles are not taken, a page put over another
one is not taken and the other one goes, and what goes is remembered. The ``tmem`` facet is a
:class:`Tmem`; what a guest does with it is in :mod:`.tmem_workload`.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from attrs import field

from xsave import XsaveError, define

from .tmem_workload import TmemWorkload

if TYPE_CHECKING:
    from .address import SimAddress
    from .guest import Guest
    from .host import Host

    Oid = tuple[int, ...]

PAGE_BYTES = 4096
MAX_POOLS = 16  # of a client; and as many shared ones of a host
CODECS = ("zlib",)  # with which a host may hold pages; "" for as they are
COMPRESS, FROZEN = 1 << 0, 1 << 1  # client flags
PERSISTENT, SHARED = 1 << 0, 1 << 1  # pool flags
VERSION_SHIFT = 24
_OTHER_FLAGS = ~(PERSISTENT | SHARED)
_ALL_ONES = (1 << 64) - 1
_NO_UUID = (_ALL_ONES, _ALL_ONES)  # asks for a private pool, shared or not


@define(eq=False)
class Pool:
    """:ivar objects: object id to index to the page as it is held: 4096 bytes are the page
    itself, fewer are compressed."""

    flags: int
    uuid: tuple[int, int]
    codec: str
    objects: dict[Oid, dict[int, bytes]] = field(factory=dict, repr=False)
    nr_pages: int = 0

    @property
    def is_persistent(self) -> bool:
        return bool(self.flags & PERSISTENT)

    def find(self, oid: Oid, index: int) -> bytes | None:
        return self.objects.get(oid, {}).get(index)

    def put(self, oid: Oid, index: int, held: bytes) -> None:
        pages = self.objects.setdefault(oid, {})
        self.nr_pages += index not in pages
        pages[index] = held

    def drop(self, oid: Oid, index: int | None) -> bool:
        """One page, or the whole object. :returns: whether there was anything."""
        pages = self.objects.get(oid, {})
        gone = list(pages) if index is None else [index] if index in pages else []
        for one in gone:
            del pages[one]
        if not pages:
            self.objects.pop(oid, None)
        self.nr_pages -= len(gone)
        return bool(gone)


# By uuid; each is there as long as a client has joined it.
_shared_pools: WeakKeyDictionary[Host, WeakValueDictionary[tuple[int, int], Pool]] = (
    WeakKeyDictionary()
)


class Tmem:
    """A guest as a client of its host's tmem; no client at all until one is created.

    All of it takes the host's lock: tmem is one thing for all its guests.

    :param codec: with which the host holds pages of clients that are compressed; "" if it
        cannot.
    """

    def __init__(self, guest: Guest, codec: str = "") -> None:
        self._guest = guest
        self._host = guest.host
        self._lock = guest.host.lock
        self._workload = TmemWorkload(guest, self)
        self.codec = codec
        self.abi_version: int | None = None  # None: no client
        self._max_pools = MAX_POOLS
        self._compress = self._frozen = False
        self._weight = self._cap = 0
        self._pools: dict[int, Pool] = {}
        self._saving: str = ""  # "", or "live" or "stopped"
        self._voids: list[tuple[int, Oid, int | None]] = []

    def boot(self, wanted: SimAddress) -> None:
        """Become a client, with pools and pages, as the address says. A guest for which it
        asks for none has no tmem at all."""
        if not wanted.tmem:
            del self._guest.facets["tmem"]
            return
        flags = COMPRESS if self.codec else 0
        self.create_client(0 if wanted.tmem_ids == 64 else 1, MAX_POOLS, flags, 0, 0)
        for kind in wanted.tmem_pools:
            word = {"persistent": PERSISTENT, "ephemeral": 0, "shared": SHARED}[kind]
            self.new_pool(word, (0x7368617265, wanted.seed) if kind == "shared" else (0, 0))
        self._workload.boot(wanted.tmem, wanted.tmem_rate)

    def check_runnable(self) -> None:
        """A guest that was restored and became no client has no tmem at all."""
        if self.abi_version is None:
            self._guest.facets.pop("tmem", None)

    def leave(self) -> None:
        """The guest is no more; a shared pool is left to the others that joined it."""
        with self._lock:
            self._saving = ""
            self._pools.clear()
            self._voids.clear()

    def run(self, slice_ns: int) -> None:
        """The guest runs for so long."""
        self._workload.run(slice_ns)

    # -- what the guest asks for -----------------------------------------------------

    def new_pool(self, flags: int, uuid: tuple[int, int] = (0, 0)) -> int:
        """:returns: its number, the lowest that is free.
        :raises XsaveError: the host refuses."""
        with self._lock:
            free = [number for number in range(self._max_pools) if number not in self._pools]
            if not free:
                raise XsaveError(f"tmem: {self._guest.name} has {len(self._pools)} pools already")
            self.create_pool(free[0], flags, uuid)
            return free[0]

    def destroy_pool(self, pool_id: int) -> None:
        """:raises XsaveError: not while the guest is being saved."""
        with self._lock:
            self._pool(pool_id)
            if self._saving:
                raise XsaveError("tmem: no pool can go while its client is being saved")
            del self._pools[pool_id]

    def put(self, pool_id: int, oid: Oid, index: int, page: bytes) -> bool:
        """:returns: whether the page was taken. If not, no other page is left of that handle,
        unless the client is frozen: then nothing changes."""
        with self._lock:
            pool = self._pool(pool_id)
            self._check_oid(oid)
            if self._frozen:
                return False
            if self._saving:
                self._drop(pool_id, oid, index)
                return False
            if pool.find(oid, index) is None and not self._make_room():
                return False
            pool.put(oid, index, _hold(page, pool.codec))
            return True

    def get(self, pool_id: int, oid: Oid, index: int) -> bytes | None:
        """The page, or None. A page of a private ephemeral pool is given back for good."""
        with self._lock:
            pool = self._pool(pool_id)
            if (held := pool.find(oid, index)) is None:
                return None
            if not pool.flags & (PERSISTENT | SHARED):
                pool.drop(oid, index)
            return _contents(held, pool.codec)

    def flush(self, pool_id: int, oid: Oid, index: int) -> bool:
        """:returns: whether there was such a page, and it is gone."""
        with self._lock:
            self._pool(pool_id)
            return not self._frozen and self._drop(pool_id, oid, index)

    def flush_object(self, pool_id: int, oid: Oid) -> bool:
        """All pages of it. :returns: whether there were any, and they are gone."""
        with self._lock:
            self._pool(pool_id)
            return not self._frozen and self._drop(pool_id, oid, None)

    # -- administration --------------------------------------------------------------

    def set_weight(self, weight: int) -> None:
        self._weight = weight

    def set_cap(self, pages: int) -> None:
        """So many pages at most, 0 for no limit. (Xen kept the number and did nothing.)"""
        self._cap = pages

    def freeze(self, frozen: bool) -> None:
        """A frozen client keeps what it has: it takes and drops nothing."""
        self._frozen = frozen

    # -- being saved -----------------------------------------------------------------

    def client(self) -> tuple[int, int, int, int, int] | None:
        with self._lock:
            if self.abi_version is None:
                return None
            flags = COMPRESS * self._compress | FROZEN * self._frozen
            return self.abi_version, self._max_pools, flags, self._weight, self._cap

    def pools(self) -> Sequence[tuple[int, int, int, int, int]]:
        with self._lock:
            version = (self.abi_version or 0) << VERSION_SHIFT
            return [
                (pool_id, pool.flags | version, pool.nr_pages, *pool.uuid)
                for pool_id, pool in sorted(self._pools.items())
            ]

    def begin(self, *, live: bool) -> bool:
        with self._lock:
            if not self._pools:
                return False
            # Whoever began before and did not end was killed; as in Xen, this begins anew.
            self._saving = "live" if live else "stopped"
            self._voids.clear()
            return True

    def handles(self, pool_id: int) -> Sequence[tuple[Oid, int]]:
        with self._lock:
            objects = self._pool(pool_id).objects
            return [(oid, index) for oid, pages in objects.items() for index in pages]

    def read_pages(
        self, pool_id: int, handles: Sequence[tuple[Oid, int]]
    ) -> Sequence[bytes | None]:
        with self._lock:
            pool = self._pool(pool_id)
            return [pool.find(*handle) for handle in handles]

    def held_with(self) -> str:
        return self.codec if self._compress else ""

    def voids(self) -> Sequence[tuple[int, Oid, int | None]]:
        with self._lock:
            voids, self._voids = self._voids, []
            return voids

    def end(self) -> None:
        with self._lock:
            self._saving = ""
            self._voids.clear()

    # -- being restored --------------------------------------------------------------

    def create_client(
        self, abi_version: int, max_pools: int, flags: int, weight: int, cap: int
    ) -> None:
        with self._lock:
            if self.abi_version is not None:
                raise XsaveError(f"tmem: {self._guest.name} is a client already")
            if self._host.lacks.tmem != "yes":
                raise XsaveError(f"tmem: host {self._host.name} has it switched off")
            if abi_version not in (0, 1) or not 1 <= max_pools <= MAX_POOLS:
                raise XsaveError(f"tmem: no client of version {abi_version}, {max_pools} pools")
            self.abi_version, self._max_pools = abi_version, max_pools
            self._compress, self._frozen = bool(flags & COMPRESS), bool(flags & FROZEN)
            self._weight, self._cap = weight, cap

    def create_pool(self, pool_id: int, flags: int, uuid: tuple[int, int]) -> None:
        with self._lock:
            if self.abi_version is None:
                raise XsaveError(f"tmem: {self._guest.name} is no client")
            if pool_id >= self._host.lacks.tmem_pools:
                raise XsaveError(
                    f"tmem: host {self._host.name} gives a guest {self._host.lacks.tmem_pools} "
                    f"pools at most, none has number {pool_id}"
                )
            if not 0 <= pool_id < self._max_pools or pool_id in self._pools:
                raise XsaveError(f"tmem: pool {pool_id} is there already, or too many")
            if flags & _OTHER_FLAGS or (flags & PERSISTENT and flags & SHARED):
                raise XsaveError(f"tmem: no pool has flags {flags:#x}")
            pool = Pool(flags & (PERSISTENT | SHARED), uuid, self.held_with())
            if flags & SHARED and uuid != _NO_UUID:
                pool = self._join(pool)
            self._pools[pool_id] = pool

    def accepts(self, codec: str) -> bool:
        return bool(codec) and codec == self.held_with()

    def restore_pages(
        self, pool_id: int, handles: Sequence[tuple[Oid, int]], pieces: Sequence[bytes], codec: str
    ) -> None:
        with self._lock:
            pool = self._pool(pool_id)
            if codec and codec != pool.codec:
                raise XsaveError(f"tmem: pages held with {codec!r} are not taken here")
            for (oid, index), piece in zip(handles, pieces, strict=True):
                self._check_oid(oid)
                page = _contents(piece, codec)
                pool.put(oid, index, bytes(piece) if codec else _hold(page, pool.codec))

    def restore_flush(self, pool_id: int, oid: Oid, index: int | None) -> None:
        with self._lock:
            self._pool(pool_id).drop(oid, index)

    # -- proof -----------------------------------------------------------------------

    def fingerprint(self) -> bytes:
        """What must arrive: all but ephemeral pages, and how the host holds them."""
        with self._lock:
            return b"".join(self._told())

    def _told(self) -> Iterator[bytes]:
        if self.abi_version is None:
            return
        yield repr((self.abi_version, self._max_pools, self._weight, self._cap)).encode()
        yield bytes([self._frozen])
        for pool_id, pool in sorted(self._pools.items()):
            yield struct.pack("<II2Q", pool_id, pool.flags, *pool.uuid)
            if pool.is_persistent:
                for oid, pages in sorted(pool.objects.items()):
                    yield struct.pack(f"<{len(oid)}Q", *oid)
                    for index, held in sorted(pages.items()):
                        page = _contents(held, pool.codec)
                        yield struct.pack("<I", index) + hashlib.sha256(page).digest()

    # ---------------------------------------------------------------------------------

    def _pool(self, pool_id: int) -> Pool:
        try:
            return self._pools[pool_id]
        except KeyError:
            raise XsaveError(f"tmem: {self._guest.name} has no pool {pool_id}") from None

    def _check_oid(self, oid: Oid) -> None:
        words = 3 if self.abi_version else 1
        if len(oid) != words or all(word == _ALL_ONES for word in oid):
            raise XsaveError(f"tmem: expected {words} words of an object id, got {oid}")

    def _drop(self, pool_id: int, oid: Oid, index: int | None) -> bool:
        pool = self._pools[pool_id]
        dropped = pool.drop(oid, index)
        if dropped and pool.is_persistent and self._saving == "live":
            self._voids.append((pool_id, oid, index))
        return dropped

    def _make_room(self) -> bool:
        """For one page, below the cap: ephemeral ones give way."""
        if not self._cap or sum(pool.nr_pages for pool in self._pools.values()) < self._cap:
            return True
        for pool in self._pools.values():
            if not pool.is_persistent and pool.objects:
                oid, pages = next(iter(pool.objects.items()))
                return pool.drop(oid, next(iter(pages)))
        return False

    def _join(self, pool: Pool) -> Pool:
        shared = _shared_pools.setdefault(self._host, WeakValueDictionary())
        if pool.uuid not in shared and len(shared) >= MAX_POOLS:
            raise XsaveError(f"tmem: host {self._host.name} has {len(shared)} shared pools already")
        return shared.setdefault(pool.uuid, pool)


def _hold(page: bytes, codec: str) -> bytes:
    """As it is held: compressed, if that makes it smaller."""
    if len(page) != PAGE_BYTES:
        raise XsaveError(f"tmem: expected a page of {PAGE_BYTES} bytes, got {len(page)}")
    made = zlib.compress(page, 1) if codec else page
    return made if len(made) < PAGE_BYTES else bytes(page)


def _contents(held: bytes, codec: str) -> bytes:
    if len(held) == PAGE_BYTES or not codec:
        page = held
    else:
        stream = zlib.decompressobj()
        try:
            page = stream.decompress(held, PAGE_BYTES + 1)
        except zlib.error as error:
            raise XsaveError(f"tmem: a page held with {codec} is damaged: {error}") from None
        if len(page) == PAGE_BYTES and not stream.eof:
            raise XsaveError(f"tmem: a page held with {codec} is cut")
    if len(page) != PAGE_BYTES:
        raise XsaveError(f"tmem: expected a page of {PAGE_BYTES} bytes, got {len(page)}")
    return bytes(page)
