"""X86_PV_VCPU_MSRS: model-specific registers of a vcpu that are not zero.

Layout: the 8-byte vcpu header, then 16-byte entries (Xen's ``xen_domctl_vcpu_msr``).
"""

from __future__ import annotations

from collections.abc import Sequence

from xsave import (
    Buffer,
    FieldError,
    Layout,
    Redaction,
    frozen,
    layout,
    u32,
    u64,
)

from .vcpu import VcpuHandler, VcpuHeader

# Those that Xen after 4.22 takes; other versions knew others, so none is refused here.
MSR_NAMES = {
    0x48: "SPEC_CTRL",
    0x140: "MISC_FEATURES_ENABLES",
    0xC0000103: "TSC_AUX",
    0xC0011019: "DR1_ADDRESS_MASK",
    0xC001101A: "DR2_ADDRESS_MASK",
    0xC001101B: "DR3_ADDRESS_MASK",
    0xC0011027: "DR0_ADDRESS_MASK",
}
# Ours, so that a hostile body cannot become millions of objects.
MAX_ENTRIES = 4096


@layout
class MsrEntry(Layout):
    index: int = u32(names=MSR_NAMES)
    reserved: int = u32()
    value: int = u64()


@frozen
class VcpuMsrs:
    """:ivar entries: empty in the record without contents that Xen 4.6 to 4.8 could write."""

    vcpu_id: int
    reserved: int
    entries: tuple[MsrEntry, ...]


class VcpuMsrsHandler(VcpuHandler[VcpuMsrs]):
    kind = "msrs"
    name = "xen.pv.vcpu_msrs"
    summary = "model-specific registers of a vcpu"
    redaction = Redaction.KEPT
    after = frozenset({"xen.pv.vcpu_xsave"})

    def decode(self, body: memoryview) -> VcpuMsrs:
        header = VcpuHeader.decode_at(body, 0)
        size_bytes = len(body) - VcpuHeader.SIZE
        if size_bytes % MsrEntry.SIZE or size_bytes > MAX_ENTRIES * MsrEntry.SIZE:
            raise FieldError(
                field="entries",
                expected=f"up to {MAX_ENTRIES} entries of {MsrEntry.SIZE} bytes",
                got=f"{size_bytes} bytes",
            )
        offsets = range(VcpuHeader.SIZE, len(body), MsrEntry.SIZE)
        entries = tuple(MsrEntry.decode_at(body, offset) for offset in offsets)
        return VcpuMsrs(header.vcpu_id, header.reserved, entries)

    def encode(self, state: VcpuMsrs) -> Sequence[Buffer]:
        header = VcpuHeader(vcpu_id=state.vcpu_id, reserved=state.reserved)
        return [header.encode(), *(entry.encode() for entry in state.entries)]
