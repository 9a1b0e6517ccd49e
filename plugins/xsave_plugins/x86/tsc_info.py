"""X86_TSC_INFO: how the guest's time-stamp counter goes on after the restore.

Layout: libxc stream revision 3, X86_TSC_INFO. The order of the fields is the stream's;
Xen's own control structure and the legacy chunk order them differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from xsave import Highlight, Layout, LayoutHandler, Phase, Redaction, layout, u32, u64

if TYPE_CHECKING:
    from xsave import Domain, X86Facet

MODES = {0: "default", 1: "always_emulate", 2: "native", 3: "pvrdtscp"}


@layout
class TscInfo(Layout):
    """:ivar khz: frequency the guest was promised; 0 in native mode.
    :ivar nsec: nanoseconds the guest has run; 0 in native mode.
    """

    mode: int = u32(names=MODES)
    khz: int = u32()
    nsec: int = u64()
    incarnation: int = u32()
    reserved: int = u32()


class TscInfoHandler(LayoutHandler):
    name = "xen.x86.tsc_info"
    summary = "time-stamp counter: mode, frequency, elapsed time"
    redaction = Redaction.KEPT
    phase = Phase.END_OF_CHECKPOINT
    facet = "x86"
    layout = TscInfo

    def highlights(self, state: Layout, seen: Mapping[str, Any]) -> Iterator[Highlight]:
        assert isinstance(state, TscInfo)
        rate = f", {state.khz} kHz" if state.khz else ""
        mode = MODES.get(state.mode, str(state.mode))
        yield Highlight("needs", "time-stamp counter", f"mode {mode}{rate}")

    def collect(self, domain: Domain) -> Iterator[TscInfo]:
        x86: X86Facet | None = domain.facet("x86")
        if x86 is not None:
            yield TscInfo(*x86.tsc_info(), reserved=0)

    def apply(self, domain: Domain, state: Layout) -> None:
        assert isinstance(state, TscInfo)
        x86: X86Facet = domain.need_facet("x86")
        x86.set_tsc_info(state.mode, state.khz, state.nsec, state.incarnation)
