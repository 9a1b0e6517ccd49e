"""What the four vcpu records of a PV guest share: their header, their place in the stream, and
how a vcpu is asked.

Layout: libxc stream revision 3, X86_PV_VCPU_BASIC, EXTENDED, XSAVE, MSRS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from xsave import GuestType, Layout, Phase, RecordHandler, layout, u32

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


class _OfVcpu(Protocol):
    @property
    def vcpu_id(self) -> int: ...


S = TypeVar("S", bound=_OfVcpu)


class VcpuHandler(RecordHandler[S]):
    """Of a record without frame numbers in it: a host's bytes are the record's.

    :cvar kind: as in :meth:`xsave.PvFacet.vcpu_state`.
    """

    kind: ClassVar[str]
    phase = Phase.END_OF_CHECKPOINT
    facet = "pv"
    guest_types = frozenset({GuestType.X86_PV})

    def collect(self, domain: Domain) -> Iterator[S]:
        return map(self.decode, collect_bodies(domain, self.kind))

    def apply(self, domain: Domain, state: S) -> None:
        """A body of nothing but its header means nothing: Xen 4.6 to 4.8 wrote such."""
        body = b"".join(self.encode(state))
        if contents := body[VcpuHeader.SIZE :]:
            pv: PvFacet = domain.need_facet("pv")
            pv.set_vcpu_state(state.vcpu_id, self.kind, contents)

    def key(self, state: S) -> int:
        return state.vcpu_id
