"""xen.tmem.settled: which pages of an ephemeral pool are valid at the pause. Layout:
docs/formats/tmem.md.

Nobody is told what an ephemeral pool drops. So whoever sends its pages has to look again when
the guest stands still, and says by this record that it did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsave import (
    Domain,
    FieldError,
    Layout,
    LayoutHandler,
    Phase,
    Redaction,
    XsaveError,
    layout,
    u32,
    u64,
)

from .pool import check_pool_id

if TYPE_CHECKING:
    from .facet import TmemFacet


@layout
class TmemSettled(Layout):
    """24 bytes.

    ``nr_pages``: pages of the pool that were sent. ``nr_valid``: those of them that are not
    void.
    """

    pool_id: int = u32()
    reserved: int = u32()
    nr_pages: int = u64()
    nr_valid: int = u64()


class TmemSettledHandler(LayoutHandler):
    name = "xen.tmem.settled"
    summary = "how many pages of an ephemeral pool are valid at the pause"
    redaction = Redaction.KEPT
    phase = Phase.MEMORY
    after = frozenset({"xen.tmem.pages", "xen.tmem.invalidate"})
    layout = TmemSettled

    def decode(self, body: memoryview) -> TmemSettled:
        settled = TmemSettled.decode(body)
        check_pool_id(settled.pool_id)
        if settled.reserved:
            raise FieldError(field="reserved", expected="0", got=f"{settled.reserved:#x}")
        if settled.nr_valid > settled.nr_pages:
            raise FieldError(
                field="nr_valid", expected=f"at most {settled.nr_pages}, as were sent",
                got=str(settled.nr_valid),
            )  # fmt: skip
        return settled

    def key(self, state: Layout) -> int:
        assert isinstance(state, TmemSettled)
        return state.pool_id

    def apply(self, domain: Domain, state: Layout) -> None:
        """:raises XsaveError: the pool has more pages than are valid. Fewer are no harm: this
        host, too, may drop them whenever it likes."""
        assert isinstance(state, TmemSettled)
        facet: TmemFacet = domain.need_facet("tmem")
        held = {pool_id: n_pages for pool_id, _, n_pages, *_ in facet.pools()}
        if (got := held.get(state.pool_id, 0)) > state.nr_valid:
            raise XsaveError(
                f"tmem: ephemeral pool {state.pool_id} has {got} pages after the restore, of "
                f"which only {state.nr_valid} are valid: the guest could read stale data"
            )
