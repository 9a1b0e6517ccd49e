"""xen.tmem.pool: one pool of a client. Layout: docs/formats/tmem.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from xsave import (
    Domain,
    FieldError,
    Highlight,
    Layout,
    LayoutHandler,
    Phase,
    Redaction,
    layout,
    to_json,
    u32,
    u64,
)

from .client import MAX_POOLS
from .options import DEFAULTS, PERSISTENT, SHARED, TmemOptions

if TYPE_CHECKING:
    from .facet import TmemFacet

PAGE_BYTES = 4096

PRECOMPRESSED = 1 << 2
_RESERVED = 1 << 3 | 0xFFFF << 8
_VERSION_SHIFT = 24
_FLAGS: Final = {
    "persistent": (0, 1),
    "shared": (1, 1),
    "precompressed": (2, 1),
    "unused": (3, 1),
    "page_size": (4, 4),
    "reserved": (8, 16),
    "abi_version": (24, 8),
}


@layout
class TmemPool(Layout):
    """32 bytes. ``flags`` is the word that Xen uses at a pool's creation; ``uuid`` is low
    word, high word. ``n_pages`` is 0 for a pool whose pages do not go along."""

    pool_id: int = u32()
    flags: int = u32(bits=_FLAGS)
    n_pages: int = u64()
    uuid: tuple[int, ...] = u64(2)

    @property
    def is_persistent(self) -> bool:
        return bool(self.flags & PERSISTENT)

    @property
    def is_shared(self) -> bool:
        return bool(self.flags & SHARED)

    @property
    def page_size(self) -> int:
        """Bytes."""
        return 1 << ((self.flags >> 4 & 15) + 12)


class TmemPoolHandler(LayoutHandler):
    name = "xen.tmem.pool"
    summary = "one pool of a guest in tmem"
    version = 2  # 1 has no pages of ephemeral pools; its bodies are the same
    redaction = Redaction.KEPT
    phase = Phase.START_OF_STREAM
    facet = "tmem"
    after = frozenset({"xen.tmem.client"})
    layout = TmemPool

    def __init__(self, options: TmemOptions = DEFAULTS) -> None:
        self._options = options

    def configure(self, options: Mapping[str, str]) -> TmemPoolHandler:
        return TmemPoolHandler(TmemOptions.of(options))

    def decode(self, body: memoryview) -> TmemPool:
        """Refuses what Xen refuses to create, except for the ABI version: many releases
        save another than they create with."""
        pool = TmemPool.decode(body)
        check_pool_id(pool.pool_id)
        _check_flags(pool)
        if pool.n_pages and pool.is_shared:
            raise FieldError(field="n_pages", expected="0 for a shared pool", got=str(pool.n_pages))
        return pool

    def highlights(self, state: Layout, seen: Mapping[str, Any]) -> Iterable[Highlight]:
        assert isinstance(state, TmemPool)
        kind = "persistent" if state.is_persistent else "ephemeral"
        shared = ", shared" if state.flags & SHARED else ""
        text = f"{kind}{shared}, {state.n_pages} pages"
        return (Highlight("devices", f"tmem pool {state.pool_id}", text),)

    def collect(self, domain: Domain) -> Iterable[TmemPool]:
        facet: TmemFacet | None = domain.facet("tmem")
        if facet is None or facet.client() is None:
            return
        for pool_id, flags, n_pages, low, high in facet.pools():
            goes_along = self._options.takes(flags)
            yield TmemPool(pool_id, flags, n_pages if goes_along else 0, (low, high))

    def key(self, state: Layout) -> int:
        assert isinstance(state, TmemPool)
        return state.pool_id

    def apply(self, domain: Domain, state: Layout) -> None:
        """Without the ABI version: the host that creates the pool puts its own there."""
        assert isinstance(state, TmemPool)
        facet: TmemFacet = domain.need_facet("tmem")
        low, high = state.uuid
        facet.create_pool(state.pool_id, state.flags & (1 << _VERSION_SHIFT) - 1, (low, high))

    def describe(self, state: Layout, seen: Mapping[str, Any]) -> Any:
        assert isinstance(state, TmemPool)
        low, high = state.uuid
        return {
            **to_json(state),
            "page_size": state.page_size,
            "uuid": f"{high:016x}{low:016x}",
        }


def check_pool_id(pool_id: int) -> None:
    if pool_id >= MAX_POOLS:
        raise FieldError(field="pool_id", expected=f"below {MAX_POOLS}", got=str(pool_id))


def _check_flags(pool: TmemPool) -> None:
    flags = pool.flags
    if flags & _RESERVED:
        raise FieldError(
            field="flags", expected=f"bits {_RESERVED:#x} clear (reserved)", got=f"{flags:#x}"
        )
    if pool.page_size != PAGE_BYTES:
        raise FieldError(
            field="flags", expected=f"a page size of {PAGE_BYTES}", got=str(pool.page_size)
        )
    if flags & PRECOMPRESSED:
        raise FieldError(field="flags", expected="no precompressed pool", got=f"{flags:#x}")
    if flags & PERSISTENT and flags & SHARED:
        raise FieldError(
            field="flags", expected="a pool that is not both persistent and shared",
            got=f"{flags:#x}",
        )  # fmt: skip
