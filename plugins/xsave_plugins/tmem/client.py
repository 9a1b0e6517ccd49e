"""xen.tmem.client: a guest as a client of tmem. Layout: docs/formats/tmem.md."""

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
    u32,
)

if TYPE_CHECKING:
    from .facet import TmemFacet

MAX_POOLS = 16
OID_WORDS: Final = {0: 1, 1: 3}  # by ABI version

# What Xen answers in place of a weight or cap when there is an error.
_NO_VALUE = 0xFFFFFFFF


@layout
class TmemClient(Layout):
    """20 bytes.

    ``compress``: the hypervisor held the pages compressed. ``frozen``: the client was
    frozen before the save began.
    """

    abi_version: int = u32()
    max_pools: int = u32()
    flags: int = u32(bits={"compress": (0, 1), "frozen": (1, 1)})
    weight: int = u32()
    cap: int = u32()

    @property
    def oid_words(self) -> int:
        """u64 words in an object id."""
        return OID_WORDS[self.abi_version]


class TmemClientHandler(LayoutHandler):
    name = "xen.tmem.client"
    summary = "a guest as a client of tmem"
    redaction = Redaction.KEPT
    phase = Phase.START_OF_STREAM
    facet = "tmem"
    before = frozenset({"xen.tmem.pool"})
    layout = TmemClient

    def decode(self, body: memoryview) -> TmemClient:
        client = TmemClient.decode(body)
        if client.abi_version not in OID_WORDS:
            raise FieldError(field="abi_version", expected="0 or 1", got=str(client.abi_version))
        if not 1 <= client.max_pools <= MAX_POOLS:
            raise FieldError(
                field="max_pools", expected=f"1 to {MAX_POOLS}", got=str(client.max_pools)
            )
        if client.flags >> 2:
            raise FieldError(field="flags", expected="bits 0 and 1 only", got=f"{client.flags:#x}")
        for field, value in (("weight", client.weight), ("cap", client.cap)):
            if value == _NO_VALUE:
                raise FieldError(field=field, expected="a value", got="-1, which means an error")
        return client

    def highlights(self, state: Layout, seen: Mapping[str, Any]) -> Iterable[Highlight]:
        assert isinstance(state, TmemClient)
        text = f"ABI version {state.abi_version}, room for {state.max_pools} pools"
        return (Highlight("needs", "tmem", text),)

    def collect(self, domain: Domain) -> Iterable[TmemClient]:
        facet: TmemFacet | None = domain.facet("tmem")
        client = None if facet is None else facet.client()
        return () if client is None else (TmemClient(*client),)

    def apply(self, domain: Domain, state: Layout) -> None:
        assert isinstance(state, TmemClient)
        facet: TmemFacet = domain.need_facet("tmem")
        facet.create_client(
            state.abi_version, state.max_pools, state.flags, state.weight, state.cap
        )
