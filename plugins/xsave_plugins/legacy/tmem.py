"""Chunks TMEM (-5) and TMEM_EXTRA (-6): what a guest keeps in transcendent memory.

They become the records of plugin ``tmem`` (docs/formats/tmem.md); neither chunk has a length.
Width of object ids: by the version word, which Xen's own reader ignores.

What the releases did wrong, and what is made of it (docs/formats/legacy.md):

* the first page of every persistent pool is missing (all releases), or all are (unmodified
  4.1 to 4.5): the pool keeps the number it announced, and a remark tells what is lost. Where
  TMEM_EXTRA voids exactly one page that was never sent, that was the one: nothing is lost;
* a list without its terminator, because a page vanished while it was written: mended where
  what follows can only be the rest of the chunk;
* a terminator behind a list that was complete: passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

from attrs import field

from xsave import Record, RecordType, Remark, define

from . import layouts as f
from .words import Words, expect

CLIENT = RecordType("xen.tmem.client")
POOL = RecordType("xen.tmem.pool")
PAGES = RecordType("xen.tmem.pages", version=2)
INVALIDATE = RecordType("xen.tmem.invalidate")

OID_WORDS = {0: 1, 1: 3}  # by ABI version
POOLS_MAX = 16
PAGES_MAX = 1024  # in a record
HANDLES_MAX = 1 << 16  # in a record
SENT_MAX = 1 << 16  # handles remembered, to tell which page was lost; 100 bytes each

END_OF_POOLS = 0xFFFFFFFF
SEPARATOR = 0xFFFFFFFF

_HEAD = struct.Struct("<7I")  # version, pools, separator, flags, weight, cap, separator
_POOL = struct.Struct("<III16s")  # pool_id, flags, n_pages, uuid
_HANDLES = struct.Struct("<IIHHI")  # of our records: pool_id, count, oid_words, kind, reserved
_NEVER_SET = 0x00FFFFFC  # in flags of pools that Xen created
_PERSISTENT = 1


@define
class _Pool:
    pool_id: int
    n_pages: int
    persistent: bool
    nr_sent: int = 0
    nr_void: int = 0  # invalidated without having been sent
    sent: set[int] | None = field(factory=set)  # hashes of handles; None when too many


class TmemChunks:
    """Reads the chunks of one stream.

    :ivar pools: by id, of the chunk that came.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        self._source = words.source
        self._oid_bytes = 0
        self._remarks: list[Remark] = []
        self.pools: dict[int, _Pool] = {}

    def read(self, offset: int) -> Iterator[Record]:
        """TMEM, after its number."""
        what = "TMEM"
        expect(what, offset, not self._oid_bytes, "one in a stream", "another")
        version, nr_pools, separator, flags, weight, cap, _ = _HEAD.unpack(
            self._source.take(_HEAD.size, what)
        )
        expect("TMEM: ABI version", offset + 4, version in OID_WORDS, "0 or 1", version)
        expect("TMEM: max pools", offset + 8, 1 <= nr_pools <= POOLS_MAX,
               f"1 to {POOLS_MAX}", nr_pools)  # fmt: skip
        expect("TMEM: separator", offset + 12, separator == SEPARATOR, "-1", f"{separator:#x}")
        self._oid_bytes = 8 * OID_WORDS[version]
        body = struct.pack("<5I", version, nr_pools, flags, weight, cap)
        yield Record(CLIENT, body, offset)
        while (pool := self._pool_head()) is not None:
            yield pool
            yield from self._pages(self.pools[max(self.pools)])

    def read_extra(self, offset: int) -> Iterator[Record]:
        """TMEM_EXTRA, after its number: one record for each run of entries of a pool."""
        expect("TMEM_EXTRA", offset, bool(self._oid_bytes), "TMEM before it", "none")
        oids: list[bytes] = []
        indexes: list[bytes] = []
        pool_id, started = -1, offset
        while True:
            entry_offset = self._source.offset
            at = self._words.number(f.UINT, "pool_id of TMEM_EXTRA")
            if oids and (at != pool_id or len(oids) == HANDLES_MAX):
                yield self._invalidate(pool_id, oids, indexes, started)
                oids, indexes, started = [], [], entry_offset
            if at == END_OF_POOLS:
                return
            expect("TMEM_EXTRA: pool_id", entry_offset, at in self.pools,
                   "a pool of the TMEM chunk", at)  # fmt: skip
            pool_id = at
            handle = bytes(self._source.take(self._oid_bytes + 4, "entry of TMEM_EXTRA"))
            oids.append(handle[:-4])
            indexes.append(handle[-4:])
            self._see_void(self.pools[pool_id], handle)

    def remarks(self) -> list[Remark]:
        """What was lost by the release that saved, and what was mended."""
        lost = [_lost(pool) for pool in self.pools.values() if pool.n_pages > pool.nr_sent]
        return [*self._remarks, *lost]

    def _remark(self, text: str) -> None:
        self._remarks.append(Remark(text))

    # -- pools -----------------------------------------------------------------------

    def _pool_head(self) -> Record | None:
        """None at the end of the list."""
        offset = self._source.offset
        pool_id = self._words.number(f.UINT, "pool_id of TMEM")
        if pool_id == END_OF_POOLS:
            return None
        highest = max(self.pools, default=-1)
        expect("TMEM: pool_id", offset, highest < pool_id < POOLS_MAX,
               f"{highest + 1} to {POOLS_MAX - 1}, or -1", f"{pool_id:#x}")  # fmt: skip
        rest = self._source.take(_POOL.size - 4, "pool of TMEM")
        _, flags, n_pages, uuid = _POOL.unpack(f.UINT.pack(pool_id) + bytes(rest))
        self.pools[pool_id] = _Pool(pool_id, n_pages, bool(flags & _PERSISTENT))
        return Record(POOL, struct.pack("<IIQ", pool_id, flags, n_pages) + uuid, offset)

    # -- pages -----------------------------------------------------------------------

    def _pages(self, pool: _Pool) -> Iterator[Record]:
        """Entries up to the announced number or the terminator, in records of 1024.

        Entry by entry, since only the entry itself tells that the list is over: 2 us each.
        """
        terminator = b"\xff" * self._oid_bytes
        entries: list[bytes] = []
        offset = self._source.offset
        while pool.nr_sent < pool.n_pages:
            ahead = self._source.peek(self._oid_bytes)
            if ahead == terminator:
                self._source.take(self._oid_bytes, "terminator of a TMEM page list")
                break
            if self._is_over(pool, ahead):
                self._remark(
                    f"tmem pool {pool.pool_id}: the list of pages has no terminator after "
                    f"{pool.nr_sent} of {pool.n_pages} pages; mended, for what follows can "
                    "only be the rest of the chunk"
                )
                break
            entries.append(self._entry(pool))
            if len(entries) == PAGES_MAX:
                yield self._record(pool, entries, offset)
                entries, offset = [], self._source.offset
        else:
            self._pass_over_terminator(pool, terminator)
        if entries:
            yield self._record(pool, entries, offset)

    def _entry(self, pool: _Pool) -> bytes:
        size = self._oid_bytes + 4 + f.PAGE_BYTES
        entry = bytes(self._source.take(size, f"page of tmem pool {pool.pool_id}"))
        pool.nr_sent += 1
        if pool.sent is not None:
            pool.sent.add(hash(entry[: self._oid_bytes + 4]))
            if len(pool.sent) > SENT_MAX:
                pool.sent = None
        return entry

    def _record(self, pool: _Pool, entries: list[bytes], offset: int) -> Record:
        oid, page = self._oid_bytes, self._oid_bytes + 4
        body = b"".join(
            (
                _HANDLES.pack(pool.pool_id, len(entries), oid // 8, 0, 0),
                *(entry[:oid] for entry in entries),
                *(entry[oid:page] for entry in entries),
                *(entry[page:] for entry in entries),
            )
        )
        return Record(PAGES, body, offset)

    def _pass_over_terminator(self, pool: _Pool, terminator: bytes) -> None:
        """Xen writes none after a list of as many pages as announced; -1 as a pool's id is
        the end of all pools, and what may follow that is no series of -1."""
        if pool.n_pages and self._source.peek(len(terminator) + 4)[:-4] == terminator:
            self._source.take(len(terminator), "terminator of a TMEM page list")
            self._remark(
                f"tmem pool {pool.pool_id}: a terminator after all {pool.n_pages} pages; "
                "passed over"
            )

    def _is_over(self, pool: _Pool, ahead: bytes) -> bool:
        """Whether the list stopped here without saying so: further pools, all of them
        without pages, the end of the pools, and a chunk that may come then. A page would
        have to begin with all of that to be taken for it."""
        first = int.from_bytes(ahead[:4], "little")
        if first != END_OF_POOLS and not pool.pool_id < first < POOLS_MAX:
            return False  # nearly every entry of a real image
        seen = self._source.peek(f.PAGE_BYTES)
        at, highest = 0, pool.pool_id
        while (found := int.from_bytes(seen[at : at + 4], "little")) != END_OF_POOLS:
            if len(seen) - at < _POOL.size or not highest < found < POOLS_MAX:
                return False
            _, flags, n_pages, _ = _POOL.unpack_from(seen, at)
            if flags & _NEVER_SET or n_pages:
                return False
            highest = found
            at += _POOL.size
        return _is_chunk_after_tmem(seen[at + 4 :], self._words.word_size)

    # -- invalidations ---------------------------------------------------------------

    def _invalidate(
        self, pool_id: int, oids: list[bytes], indexes: list[bytes], offset: int
    ) -> Record:
        head = _HANDLES.pack(pool_id, len(oids), self._oid_bytes // 8, 0, 0)
        return Record(INVALIDATE, b"".join((head, *oids, *indexes)), offset)

    def _see_void(self, pool: _Pool, handle: bytes) -> None:
        if pool.sent is not None and hash(handle) not in pool.sent:
            pool.sent.add(hash(handle))
            pool.nr_void += 1


def _is_chunk_after_tmem(seen: bytes, word_size: int) -> bool:
    """TSC_INFO, or a page batch whose first entries are some."""
    if len(seen) < 4 + f.TSC.size:
        return False
    number = int(f.INT.unpack_from(seen)[0])
    if number == f.TSC_INFO:
        return f.TSC.unpack_from(seen, 4)[0] in f.TSC_MODES
    if not 1 <= number <= f.BATCH_MAX:
        return False
    entries = seen[4 : 4 + number * word_size]
    stored = [
        int.from_bytes(entries[at : at + word_size], "little")
        for at in range(0, len(entries) - word_size + 1, word_size)
    ]
    pfns = [entry & f.PFN_MASK for entry in stored if entry != f.NO_PFN]
    return (
        all(entry >> 32 == 0 and not 5 <= entry >> f.TYPE_SHIFT <= 8 for entry in stored)
        and len(pfns) > 1
        and all(low < high for low, high in pairwise(pfns))
    )


def _lost(pool: _Pool) -> Remark:
    missing = pool.n_pages - pool.nr_sent
    where = f"tmem pool {pool.pool_id}: {missing} of {pool.n_pages} pages"
    if missing == pool.nr_void and pool.sent is not None:
        return Remark(
            f"{where} were not written; the guest gave them up during the save, so nothing is lost"
        )
    which = "all" if not pool.nr_sent else "the first one" if missing == 1 else "some"
    return Remark(
        f"{where} ({which}) were not written by the release that saved: the guest reads bad "
        "data where it asks for them",
        is_loss=True,
    )
