"""X86_PV_INFO: width of the guest and depth of its page tables.

Layout: libxc stream revision 3, X86_PV_INFO.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xsave import (
    Buffer,
    FieldError,
    GuestType,
    Highlight,
    Layout,
    Phase,
    RecordHandler,
    Redaction,
    frozen,
    layout,
    raw,
    u8,
)

if TYPE_CHECKING:
    from xsave import Domain, PvFacet

# What Xen runs: guest_width in bytes with pt_levels.
LEGAL = ((4, 3), (8, 4))


@layout
class _Fixed(Layout):
    guest_width: int = u8()
    pt_levels: int = u8()
    reserved: bytes = raw(6)


@frozen
class PvInfo:
    """:ivar guest_width: bytes of an ``unsigned long`` of the guest, 4 or 8.
    :ivar trailing: what follows the eight bytes the layout knows; b"" from every Xen.
    """

    guest_width: int
    pt_levels: int
    reserved: bytes
    trailing: bytes


class PvInfoHandler(RecordHandler[PvInfo]):
    name = "xen.pv.info"
    summary = "guest width and page-table levels"
    redaction = Redaction.KEPT
    phase = Phase.STATIC_DATA
    facet = "pv"
    before = frozenset({"xen.x86.cpuid_policy", "xen.x86.msr_policy", "xen.libxc.static_data_end"})
    guest_types = frozenset({GuestType.X86_PV})

    def decode(self, body: memoryview) -> PvInfo:
        fixed = _Fixed.decode_at(body, 0)
        if (fixed.guest_width, fixed.pt_levels) not in LEGAL:
            raise FieldError(
                field="guest_width, pt_levels",
                expected="4, 3 or 8, 4",
                got=f"{fixed.guest_width}, {fixed.pt_levels}",
            )
        return PvInfo(
            fixed.guest_width, fixed.pt_levels, fixed.reserved, bytes(body[_Fixed.SIZE :])
        )

    def encode(self, state: PvInfo) -> Sequence[Buffer]:
        fixed = _Fixed(
            guest_width=state.guest_width, pt_levels=state.pt_levels, reserved=state.reserved
        )
        return (fixed.encode(), state.trailing)

    def collect(self, domain: Domain) -> Iterator[PvInfo]:
        pv: PvFacet | None = domain.facet("pv")
        if pv is not None:
            width = pv.guest_width
            yield PvInfo(width, dict(LEGAL)[width], bytes(6), b"")

    def highlights(self, state: PvInfo, seen: Mapping[str, Any]) -> Iterator[Highlight]:
        bits, levels = 8 * state.guest_width, state.pt_levels
        yield Highlight("needs", "PV guests", f"of {bits} bits with {levels} levels of page tables")

    def apply(self, domain: Domain, state: PvInfo) -> None:
        pv: PvFacet = domain.need_facet("pv")
        pv.set_guest_width(state.guest_width)
