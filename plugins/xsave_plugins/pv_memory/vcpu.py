"""The header that all four vcpu records of a PV guest begin with.

Layout: libxc stream revision 3, X86_PV_VCPU_BASIC, EXTENDED, XSAVE, MSRS.
"""

from __future__ import annotations

from xsave import Layout, layout, u32


@layout
class VcpuHeader(Layout):
    vcpu_id: int = u32()
    reserved: int = u32()
