"""xen.tmem.pages: some pages of one persistent pool. Layout: docs/formats/tmem.md.

Bodies are decoded whole, so a record holds at most 1024 pages, as many as a page batch of
guest memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from xsave import Buffer, FieldError, Phase, RecordHandler

from .handles import (
    HandlesHeader,
    as_bytes,
    check_size,
    read_header,
    read_indexes,
    read_oids,
    show_oid,
)
from .pool import PAGE_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .handles import Indexes, Oids

NR_PAGES_MAX = 1024
PLAIN = 0  # the only encoding of version 1: contents as they are
_SHOWN_BYTES = 64


@frozen(eq=False)
class TmemPages:
    """:ivar oids: (n, words) u64, words being 1 or 3.
    :ivar indexes: (n,) u32; no oid comes twice with the same index.
    :ivar contents: (n, 4096) u8.
    """

    pool_id: int
    oids: Oids = field(repr=False)
    indexes: Indexes = field(repr=False)
    contents: NDArray[np.uint8] = field(repr=False)


class TmemPagesHandler(RecordHandler[TmemPages]):
    name = "xen.tmem.pages"
    summary = "pages of a guest in tmem"
    phase = Phase.MEMORY
    before = frozenset({"xen.tmem.invalidate"})

    def decode(self, body: memoryview) -> TmemPages:
        import numpy as np

        header = read_header(body, nr_max=NR_PAGES_MAX, field="nr_pages")
        if header.kind != PLAIN:
            raise FieldError(field="encoding", expected="0 (plain)", got=str(header.kind))
        nr_pages = header.nr_handles
        contents_offset = HandlesHeader.SIZE + nr_pages * (8 * header.oid_words + 4)
        check_size(body, contents_offset + nr_pages * PAGE_BYTES, header)
        kept = bytes(body)  # the one copy: all arrays are views of it
        oids, indexes = read_oids(kept, header), read_indexes(kept, header)
        _check_distinct(oids, indexes)
        contents = np.frombuffer(kept, np.uint8, offset=contents_offset)
        return TmemPages(header.pool_id, oids, indexes, contents.reshape(nr_pages, PAGE_BYTES))

    def encode(self, state: TmemPages) -> Sequence[Buffer]:
        nr_pages, oid_words = state.oids.shape
        return (
            HandlesHeader(state.pool_id, nr_pages, oid_words, PLAIN, 0).encode(),
            as_bytes(state.oids, "<u8"),
            as_bytes(state.indexes, "<u4"),
            as_bytes(state.contents, "u1"),
        )

    def describe(self, state: TmemPages, seen: Mapping[str, Any]) -> Any:
        """Contents by their beginning: a record's would be 8 MiB of hex."""
        return {
            "pool_id": state.pool_id,
            "encoding": {"value": PLAIN, "name": "plain"},
            "pages": [
                {
                    "oid": show_oid(oid),
                    "index": index,
                    "is_zero": not page.any(),
                    "first_bytes": page[:_SHOWN_BYTES].tobytes().hex(),
                }
                for oid, index, page in zip(
                    state.oids, state.indexes.tolist(), state.contents, strict=True
                )
            ],
        }


def _check_distinct(oids: Oids, indexes: Indexes) -> None:
    """Which of two pages with one handle is meant would depend on the order of restoring."""
    import numpy as np

    handles = np.column_stack((oids, indexes.astype(np.uint64)))
    order = np.lexsort(handles.T)
    same = (handles[order[1:]] == handles[order[:-1]]).all(axis=1)
    if same.any():
        first = int(order[:-1][same][0])
        raise FieldError(
            field="handles", expected="each once in a record",
            got=f"oid {' '.join(show_oid(oids[first]))} index {int(indexes[first])} again",
        )  # fmt: skip
