"""X86_TSC_INFO: how the guest's time-stamp counter goes on after the restore.

Layout: libxc stream revision 3, X86_TSC_INFO. The order of the fields is the stream's;
Xen's own control structure and the legacy chunk order them differently.
"""

from __future__ import annotations

from xsave import Layout, LayoutHandler, Phase, layout, u32, u64

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
    phase = Phase.END_OF_CHECKPOINT
    layout = TscInfo
