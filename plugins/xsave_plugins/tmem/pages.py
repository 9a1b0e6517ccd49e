"""xen.tmem.pages: some pages of one pool. Layout: docs/formats/tmem.md.

Bodies are decoded whole, so a record holds at most 1024 pages, as many as a page batch of
guest memory.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from attrs import field

from xsave import (
    Buffer,
    Domain,
    FieldError,
    Figure,
    Phase,
    RecordHandler,
    Redaction,
    StateStream,
    frozen,
)

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
from .held import make_plain
from .options import DEFAULTS, TmemOptions
from .pool import PAGE_BYTES
from .traffic import TmemTraffic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .facet import Handle, TmemFacet
    from .handles import Indexes, Oids

NR_PAGES_MAX = 1024
PLAIN, COMPRESSED = 0, 1  # encodings: contents as they are, or as the host held them
CODEC_BYTES = 16
_CODEC = re.compile(rb"([a-z][a-z0-9-]{0,14})\0+")
_SHOWN_BYTES = 64

log = logging.getLogger("xsave.tmem")


@frozen(eq=False)
class TmemPages:
    """:ivar oids: (n, words) u64, words being 1 or 3.
    :ivar indexes: (n,) u32; no oid comes twice with the same index.
    :ivar contents: (n, 4096) u8; with a codec, one piece after the other, flat.
    :ivar codec: with which the source held these pages compressed; "" for plain ones.
    :ivar sizes: (n,) u32, bytes of each piece, with a codec only. 4096 are a page that is
        not compressed.
    """

    pool_id: int
    oids: Oids = field(repr=False)
    indexes: Indexes = field(repr=False)
    contents: NDArray[np.uint8] = field(repr=False)
    codec: str = ""
    sizes: NDArray[np.uint32] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, pool_id: int, handles: Sequence[Handle], held: Sequence[bytes], codec: str
    ) -> TmemPages:
        """:param held: each 4096 bytes, or fewer, compressed."""
        import numpy as np

        oids, indexes = as_arrays(handles)
        contents = np.frombuffer(b"".join(held), np.uint8)
        if contents.size == len(held) * PAGE_BYTES:
            return cls(pool_id, oids, indexes, contents.reshape(-1, PAGE_BYTES))
        sizes = np.array([len(data) for data in held], np.uint32)
        return cls(pool_id, oids, indexes, contents, codec, sizes)

    @property
    def nr_compressed(self) -> int:
        return 0 if self.sizes is None else int((self.sizes < PAGE_BYTES).sum())

    def pieces(self) -> Iterator[bytes]:
        """The pages, in the form in which they came."""
        if self.sizes is None:
            for page in self.contents:
                yield page.tobytes()
            return
        start = 0
        for size in self.sizes.tolist():
            yield self.contents[start : start + size].tobytes()
            start += size


class TmemPagesHandler(RecordHandler[TmemPages]):
    name = "xen.tmem.pages"
    summary = "pages of a guest in tmem"
    redaction = Redaction.CLEANED
    version = 2  # 1 has no encoding but PLAIN; its bodies are the same
    phase = Phase.MEMORY
    facet = "tmem"
    before = frozenset({"xen.tmem.invalidate"})

    def __init__(self, options: TmemOptions = DEFAULTS) -> None:
        self._options = options
        self._arrivals: WeakKeyDictionary[Domain, TmemTraffic] = WeakKeyDictionary()

    def configure(self, options: Mapping[str, str]) -> TmemPagesHandler:
        return TmemPagesHandler(TmemOptions.of(options))

    def decode(self, body: memoryview) -> TmemPages:
        import numpy as np

        header = read_header(body, nr_max=NR_PAGES_MAX, field="nr_pages")
        if header.kind not in (PLAIN, COMPRESSED):
            raise FieldError(
                field="encoding", expected="0 (plain) or 1 (compressed)", got=str(header.kind)
            )
        nr_pages = header.nr_handles
        offset = HandlesHeader.SIZE + nr_pages * (8 * header.oid_words + 4)
        if header.kind == COMPRESSED:
            offset += CODEC_BYTES + 4 * nr_pages
            if len(body) < offset:
                check_size(body, offset + nr_pages, header)
        else:
            check_size(body, offset + nr_pages * PAGE_BYTES, header)
        kept = bytes(body)  # the one copy: all arrays are views of it
        oids, indexes = read_oids(kept, header), read_indexes(kept, header)
        _check_distinct(oids, indexes)
        contents = np.frombuffer(kept, np.uint8, offset=offset)
        if header.kind == PLAIN:
            return TmemPages(header.pool_id, oids, indexes, contents.reshape(nr_pages, PAGE_BYTES))
        sizes = np.frombuffer(kept, "<u4", nr_pages, offset - 4 * nr_pages)
        _check_sizes(sizes)
        check_size(body, offset + int(sizes.sum(dtype=np.uint64)), header)
        codec = _read_codec(kept[offset - 4 * nr_pages - CODEC_BYTES :][:CODEC_BYTES])
        return TmemPages(header.pool_id, oids, indexes, contents, codec, sizes)

    def encode(self, state: TmemPages) -> Sequence[Buffer]:
        nr_pages, oid_words = state.oids.shape
        encoding = PLAIN if state.sizes is None else COMPRESSED
        handles = (
            HandlesHeader(state.pool_id, nr_pages, oid_words, encoding, 0).encode(),
            as_bytes(state.oids, "<u8"),
            as_bytes(state.indexes, "<u4"),
        )
        contents = as_bytes(state.contents, "u1")
        if state.sizes is None:
            return (*handles, contents)
        codec = state.codec.encode().ljust(CODEC_BYTES, b"\0")
        return (*handles, codec, as_bytes(state.sizes, "<u4"), contents)

    def stream(self, domain: Domain) -> StateStream | None:
        from .live import begin

        return begin(domain.facet("tmem"), self._options)

    def key(self, state: TmemPages) -> int:
        """Of the pool: each record is applied as it comes, so none replaces another."""
        return state.pool_id

    def apply(self, domain: Domain, state: TmemPages) -> None:
        """Pages stay as the source held them if this host takes them so."""
        facet: TmemFacet = domain.need_facet("tmem")
        arrived = self.arrivals(domain)
        stays = bool(state.codec) and facet.accepts(state.codec)
        if state.codec and not arrived.nr_compressed:
            log.info(
                "pages arrive compressed with %s and are %s",
                state.codec, "held so" if stays else "recoded: this host does not take them so",
            )  # fmt: skip
        handles = as_handles(state.oids, state.indexes)
        pieces = list(state.pieces())
        if state.codec and not stays:
            pieces = make_plain(pieces, state.codec)
        facet.restore_pages(state.pool_id, handles, pieces, state.codec if stays else "")
        arrived.nr_pages += len(handles)
        arrived.nr_compressed += state.nr_compressed
        arrived.nr_recoded += 0 if stays else state.nr_compressed
        arrived.page_bytes += state.contents.size

    def arrivals(self, domain: Domain) -> TmemTraffic:
        """What was restored into this domain so far."""
        return self._arrivals.setdefault(domain, TmemTraffic())

    def redact(self, state: TmemPages, seen: Mapping[str, Any]) -> TmemPages:
        """Handles without contents."""
        import numpy as np

        contents = np.zeros((len(state.indexes), PAGE_BYTES), np.uint8)
        return TmemPages(state.pool_id, state.oids, state.indexes, contents)

    def figures(self, domain: Domain) -> Sequence[Figure]:
        return self.arrivals(domain).restored()

    def describe(self, state: TmemPages, seen: Mapping[str, Any]) -> Any:
        """Contents by their beginning: a record's would be 8 MiB of hex."""
        shown = {
            "pool_id": state.pool_id,
            "encoding": {"value": PLAIN, "name": "plain"},
        }
        if state.sizes is not None:
            shown["encoding"] = {"value": COMPRESSED, "name": "compressed"}
            shown["codec"] = state.codec
        shown["pages"] = [
            {"oid": show_oid(oid), "index": index, **_show_piece(piece, state.codec)}
            for oid, index, piece in zip(
                state.oids, state.indexes.tolist(), state.pieces(), strict=True
            )
        ]
        return shown


def _show_piece(piece: bytes, codec: str) -> Mapping[str, Any]:
    first = piece[:_SHOWN_BYTES].hex()
    if not codec:
        return {"is_zero": not any(piece), "first_bytes": first}
    return {"held_bytes": len(piece), "first_bytes": first}


def _read_codec(name: bytes) -> str:
    if (found := _CODEC.fullmatch(name)) is None:
        raise FieldError(
            field="codec", expected=f"a name and zeroes, {CODEC_BYTES} bytes", got=repr(name)
        )
    return found[1].decode()


def _check_sizes(sizes: NDArray[np.uint32]) -> None:
    import numpy as np

    wrong = np.flatnonzero((sizes == 0) | (sizes > PAGE_BYTES))
    if len(wrong):
        raise FieldError(
            field=f"size {int(wrong[0])}", expected=f"1 to {PAGE_BYTES}",
            got=str(int(sizes[wrong[0]])),
        )  # fmt: skip


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
