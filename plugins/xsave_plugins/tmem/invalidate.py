"""xen.tmem.invalidate: what is void of the pages sent before. Layout: docs/formats/tmem.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from attrs import field

from xsave import Buffer, Domain, FieldError, Figure, Phase, RecordHandler, Redaction, frozen

from .handles import (
    HandlesHeader,
    as_arrays,
    as_bytes,
    as_handles,
    check_size,
    read_header,
    read_indexes,
    read_oids,
    show_oid,
)

if TYPE_CHECKING:
    from .facet import Handle, TmemFacet
    from .handles import Indexes, Oids

NR_HANDLES_MAX = 1 << 16
PAGES, OBJECTS = 0, 1


@frozen(eq=False)
class TmemInvalidate:
    """:ivar oids: (n, words) u64, words being 1 or 3, in the order of the flushes; the
        same may come again.
    :ivar indexes: (n,) u32 for single pages; None when whole objects are void.
    """

    pool_id: int
    oids: Oids = field(repr=False)
    indexes: Indexes | None = field(repr=False)

    @classmethod
    def of(cls, pool_id: int, handles: Sequence[Handle], *, whole_objects: bool) -> TmemInvalidate:
        oids, indexes = as_arrays(handles)
        return cls(pool_id, oids, None if whole_objects else indexes)


class TmemInvalidateHandler(RecordHandler[TmemInvalidate]):
    name = "xen.tmem.invalidate"
    summary = "pages in tmem that became void during the save"
    redaction = Redaction.KEPT
    phase = Phase.MEMORY
    facet = "tmem"
    after = frozenset({"xen.tmem.pages"})

    def __init__(self) -> None:
        self._nr_arrived: WeakKeyDictionary[Domain, int] = WeakKeyDictionary()

    def decode(self, body: memoryview) -> TmemInvalidate:
        header = read_header(body, nr_max=NR_HANDLES_MAX, field="nr_handles")
        if header.kind not in (PAGES, OBJECTS):
            raise FieldError(
                field="what", expected="0 (pages) or 1 (objects)", got=str(header.kind)
            )
        handle_bytes = 8 * header.oid_words + (4 if header.kind == PAGES else 0)
        check_size(body, HandlesHeader.SIZE + header.nr_handles * handle_bytes, header)
        kept = bytes(body)
        oids = read_oids(kept, header)
        indexes = read_indexes(kept, header) if header.kind == PAGES else None
        return TmemInvalidate(header.pool_id, oids, indexes)

    def encode(self, state: TmemInvalidate) -> Sequence[Buffer]:
        nr_handles, oid_words = state.oids.shape
        what = OBJECTS if state.indexes is None else PAGES
        head = HandlesHeader(state.pool_id, nr_handles, oid_words, what, 0).encode()
        oids = as_bytes(state.oids, "<u8")
        return (
            (head, oids) if state.indexes is None else (head, oids, as_bytes(state.indexes, "<u4"))
        )

    def key(self, state: TmemInvalidate) -> int:
        """Of the pool: each record is applied as it comes, so none replaces another."""
        return state.pool_id

    def apply(self, domain: Domain, state: TmemInvalidate) -> None:
        facet: TmemFacet = domain.need_facet("tmem")
        if state.indexes is None:
            for oid in state.oids.tolist():
                facet.restore_flush(state.pool_id, tuple(oid), None)
        else:
            for oid, index in as_handles(state.oids, state.indexes):
                facet.restore_flush(state.pool_id, oid, index)
        self._nr_arrived[domain] = self._nr_arrived.get(domain, 0) + len(state.oids)

    def figures(self, domain: Domain) -> Sequence[Figure]:
        return (Figure("invalidations", "invalidations", self._nr_arrived.get(domain, 0)),)

    def describe(self, state: TmemInvalidate, seen: Mapping[str, Any]) -> Any:
        oids = [show_oid(oid) for oid in state.oids]
        if state.indexes is None:
            return {"pool_id": state.pool_id, "objects": [{"oid": oid} for oid in oids]}
        return {
            "pool_id": state.pool_id,
            "pages": [
                {"oid": oid, "index": index}
                for oid, index in zip(oids, state.indexes.tolist(), strict=True)
            ],
        }
