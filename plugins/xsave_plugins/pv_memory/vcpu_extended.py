"""X86_PV_VCPU_EXTENDED: system-call entry points and machine-check state of a vcpu.

Layout: the 8-byte vcpu header, then as much of Xen's ``ext_vcpucontext`` as the saving
Xen knew (xen/include/public/domctl.h): 32 bytes without virtual machine checks, 40 with
their capabilities, 56 with their banks' controls, 64 since Xen 4.10.
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
    raw,
    u8,
    u16,
    u32,
    u64,
)

from .vcpu import VcpuHandler, VcpuHeader

MAX_SIZE = 128  # bytes: the room Xen's restorer has for one


@layout
class ExtContext32(Layout):
    """:ivar size: bytes that mean something, as the saving Xen counted them."""

    vcpu: int = u32()
    size: int = u32()
    syscall32_callback_eip: int = u64()
    sysenter_callback_eip: int = u64()
    syscall32_callback_cs: int = u16()
    sysenter_callback_cs: int = u16()
    syscall32_disables_events: int = u8()
    sysenter_disables_events: int = u8()
    padding: bytes = raw(2)


@layout
class ExtContext40(ExtContext32):
    mcg_cap: int = u64()


@layout
class ExtContext56(ExtContext40):
    mci_ctl2_bank0: int = u64()
    mci_ctl2_bank1: int = u64()


@layout
class ExtContext64(ExtContext56):
    mcg_ext_ctl: int = u64()


CONTEXTS: tuple[type[ExtContext32], ...] = (ExtContext64, ExtContext56, ExtContext40, ExtContext32)


@frozen
class VcpuExtended:
    """:ivar context: the largest known form that fits; None for the record without one
        that Xen 4.6 to 4.8 could write.
    :ivar rest: bytes after that form; b"" from every Xen so far.
    """

    vcpu_id: int
    reserved: int
    context: ExtContext32 | None
    rest: bytes


class VcpuExtendedHandler(VcpuHandler[VcpuExtended]):
    kind = "extended"
    name = "xen.pv.vcpu_extended"
    summary = "system-call entry points and machine-check state of a vcpu"
    redaction = Redaction.KEPT
    after = frozenset({"xen.pv.vcpu_basic"})

    def decode(self, body: memoryview) -> VcpuExtended:
        header = VcpuHeader.decode_at(body, 0)
        blob = body[VcpuHeader.SIZE :]
        if not len(blob):
            return VcpuExtended(header.vcpu_id, header.reserved, None, b"")
        if not ExtContext32.SIZE <= len(blob) <= MAX_SIZE:
            raise FieldError(
                field="context",
                expected=f"0 or {ExtContext32.SIZE} to {MAX_SIZE} bytes",
                got=f"{len(blob)} bytes",
            )
        kind = next(kind for kind in CONTEXTS if len(blob) >= kind.SIZE)
        context = kind.decode_at(blob, 0)
        return VcpuExtended(header.vcpu_id, header.reserved, context, bytes(blob[kind.SIZE :]))

    def encode(self, state: VcpuExtended) -> Sequence[Buffer]:
        header = VcpuHeader(vcpu_id=state.vcpu_id, reserved=state.reserved)
        context = state.context.encode() if state.context is not None else b""
        return (header.encode(), context, state.rest)
