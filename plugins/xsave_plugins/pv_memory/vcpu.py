"""What the four vcpu records of a PV guest share: their header, and how a vcpu is asked.

Layout: libxc stream revision 3, X86_PV_VCPU_BASIC, EXTENDED, XSAVE, MSRS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xsave import Layout, layout, u32

if TYPE_CHECKING:
    from xsave import Domain, PvFacet


@layout
class VcpuHeader(Layout):
    vcpu_id: int = u32()
    reserved: int = u32()


def collect_bodies(domain: Domain, kind: str) -> Iterator[memoryview]:
    """A record's body for each online vcpu that has state of this kind, as the host gives
    it, ascending.

    :param kind: as in :meth:`xsave.PvFacet.vcpu_state`.
    """
    pv: PvFacet | None = domain.facet("pv")
    if pv is None:
        return
    for vcpu in sorted(pv.online_vcpus()):
        if state := pv.vcpu_state(vcpu, kind):
            yield memoryview(VcpuHeader(vcpu_id=vcpu, reserved=0).encode() + state)


def apply_body(domain: Domain, kind: str, body: bytes) -> None:
    """The inverse, for a body without frame numbers in it. One of nothing but its header
    means nothing: Xen 4.6 to 4.8 wrote such."""
    header = VcpuHeader.decode_at(body, 0)
    if state := body[VcpuHeader.SIZE :]:
        pv: PvFacet = domain.need_facet("pv")
        pv.set_vcpu_state(header.vcpu_id, kind, state)
