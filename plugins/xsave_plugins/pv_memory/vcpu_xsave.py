"""X86_PV_VCPU_XSAVE: the extended processor state of a vcpu.

Layout: the 8-byte vcpu header, xcr0, xcr0_accum, then (unless the guest never enabled
anything) an XSAVE area in the processor's standard format, not compacted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve

from xsave import (
    Buffer,
    FieldError,
    Layout,
    Redaction,
    frozen,
    layout,
    raw,
    u64,
)

from .vcpu import VcpuHandler, VcpuHeader

# State components by bit, as the processor manuals number them.
COMPONENTS = {
    "x87": (0, 1),
    "sse": (1, 1),
    "avx": (2, 1),
    "bndregs": (3, 1),
    "bndcsr": (4, 1),
    "opmask": (5, 1),
    "zmm_hi256": (6, 1),
    "hi16_zmm": (7, 1),
    "pkru": (9, 1),
    "tilecfg": (17, 1),
    "tiledata": (18, 1),
    "lwp": (62, 1),
}


@layout
class Xcr(Layout):
    """:ivar xcr0_accum: every component the guest has ever enabled."""

    xcr0: int = u64(bits=COMPONENTS)
    xcr0_accum: int = u64(bits=COMPONENTS)


@layout
class XsaveArea(Layout):
    """The part of an XSAVE area that lies the same on every processor."""

    legacy: bytes = raw(512)
    xstate_bv: int = u64(bits=COMPONENTS)
    xcomp_bv: int = u64()
    reserved: bytes = raw(48)


@frozen
class VcpuXsave:
    """:ivar xcr: None for the record without contents that Xen 4.6 to 4.8 could write.
    :ivar area: None if there is nothing to restore.
    :ivar components: what follows the area's header. Each processor says through CPUID
        leaf 0xD where in it a component lies, so it is not cut up here.
    """

    vcpu_id: int
    reserved: int
    xcr: Xcr | None
    area: XsaveArea | None
    components: bytes


class VcpuXsaveHandler(VcpuHandler[VcpuXsave]):
    kind = "xsave"
    name = "xen.pv.vcpu_xsave"
    summary = "extended processor state (XSAVE) of a vcpu"
    redaction = Redaction.CLEANED
    after = frozenset({"xen.pv.vcpu_extended"})

    def decode(self, body: memoryview) -> VcpuXsave:
        header = VcpuHeader.decode_at(body, 0)
        blob = body[VcpuHeader.SIZE :]
        if not len(blob):
            return VcpuXsave(header.vcpu_id, header.reserved, None, None, b"")
        with_area = Xcr.SIZE + XsaveArea.SIZE
        if len(blob) != Xcr.SIZE and len(blob) < with_area:
            raise FieldError(
                field="area",
                expected=f"0, {Xcr.SIZE} or at least {with_area} bytes",
                got=f"{len(blob)} bytes",
            )
        xcr = Xcr.decode_at(blob, 0)
        if len(blob) == Xcr.SIZE:
            return VcpuXsave(header.vcpu_id, header.reserved, xcr, None, b"")
        area = XsaveArea.decode_at(blob, Xcr.SIZE)
        if area.xcomp_bv:  # a compacted area; Xen loads none
            raise FieldError(field="xcomp_bv", expected="0", got=hex(area.xcomp_bv))
        return VcpuXsave(header.vcpu_id, header.reserved, xcr, area, bytes(blob[with_area:]))

    def encode(self, state: VcpuXsave) -> Sequence[Buffer]:
        header = VcpuHeader(vcpu_id=state.vcpu_id, reserved=state.reserved)
        xcr = state.xcr.encode() if state.xcr is not None else b""
        area = state.area.encode() if state.area is not None else b""
        return (header.encode(), xcr, area, state.components)

    def redact(self, state: VcpuXsave, seen: Mapping[str, Any]) -> VcpuXsave:
        """Which components there are, and none of their contents."""
        if state.area is None:
            return state
        area = state.area.replace(legacy=bytes(512), reserved=bytes(48))
        return evolve(state, area=area, components=bytes(len(state.components)))
