"""Save records of a processor: registers, floating point, MSRs, memory types.

Sizes, offsets and the sources of both are in docs/formats/hvm.md.
"""

from __future__ import annotations

import struct
from typing import Any

from xsave import FieldError, Layout, frozen, layout, nested, raw, to_json, u8, u16, u32, u64

from .save_record import Form, bits, cut, wrong_length

CR0 = bits(pe=0, mp=1, em=2, ts=3, et=4, ne=5, wp=16, am=18, nw=29, cd=30, pg=31)
CR4 = bits(
    vme=0, pvi=1, tsd=2, de=3, pse=4, pae=5, mce=6, pge=7, pce=8, osfxsr=9, osxmmexcpt=10,
    umip=11, la57=12, vmxe=13, smxe=14, fsgsbase=16, pcide=17, osxsave=18, smep=20, smap=21,
    pke=22, cet=23, pks=24, uintr=25, lass=27, lam_sup=28, fred=32,
)  # fmt: skip
EFER = bits(
    sce=0, lme=8, lma=10, nxe=11, svme=12, lmsle=13, ffxse=14, tce=15, mcommit=17, intwb=18,
    uaie=20, aibrse=21,
)  # fmt: skip
RFLAGS = bits(
    cf=0, pf=2, af=4, zf=6, sf=7, tf=8, **{"if": 9}, df=10, of=11, iopl=(12, 2), nt=14, rf=16,
    vm=17, ac=18, vif=19, vip=20, id=21,
)  # fmt: skip
PENDING_EVENT = bits(vector=(0, 8), type=(8, 3), error_valid=11, reserved=(12, 19), valid=31)
ACCESS_RIGHTS = bits(type=(0, 4), s=4, dpl=(5, 2), p=7, avl=8, l=9, db=10, g=11)
XCR0 = bits(
    x87=0, sse=1, avx=2, bndregs=3, bndcsr=4, opmask=5, zmm_hi256=6, hi16_zmm=7, pkru=9,
    tilecfg=17, tiledata=18, lwp=62,
)  # fmt: skip

X87_SSE, AVX = 0b011, 0b100


@layout
class X87Register(Layout):
    """An 80-bit number (or an MMX register) in 16 bytes."""

    significand: int = u64()
    sign_and_exponent: int = u16()
    reserved: bytes = raw(6)


@layout
class Xmm(Layout):
    low: int = u64()
    high: int = u64()


@layout
class Fxsave(Layout):
    """The 512 bytes that FXSAVE64 writes."""

    fcw: int = u16()
    fsw: int = u16()
    ftw: int = u8()  # abridged: a bit for each register in use
    reserved_5: int = u8()
    fop: int = u16()
    fip: int = u64()
    fdp: int = u64()
    mxcsr: int = u32()
    mxcsr_mask: int = u32()
    st: tuple[X87Register, ...] = nested(X87Register, 8)
    xmm: tuple[Xmm, ...] = nested(Xmm, 16)
    reserved_416: bytes = raw(48)
    available: bytes = raw(48)  # for software; processors leave it alone


@layout
class SegmentWords(Layout):
    """A 32-bit value for each segment register, in Xen's order."""

    cs: int = u32()
    ds: int = u32()
    es: int = u32()
    fs: int = u32()
    gs: int = u32()
    ss: int = u32()
    tr: int = u32()
    ldtr: int = u32()


@layout
class SegmentBases(Layout):
    cs: int = u64()
    ds: int = u64()
    es: int = u64()
    fs: int = u64()
    gs: int = u64()
    ss: int = u64()
    tr: int = u64()
    ldtr: int = u64()


@layout
class Cpu(Layout):
    """CPU. Names as in Xen, segment registers grouped as they are stored."""

    fpu_regs: Fxsave = nested(Fxsave)
    rax: int = u64()
    rbx: int = u64()
    rcx: int = u64()
    rdx: int = u64()
    rbp: int = u64()
    rsi: int = u64()
    rdi: int = u64()
    rsp: int = u64()
    r8: int = u64()
    r9: int = u64()
    r10: int = u64()
    r11: int = u64()
    r12: int = u64()
    r13: int = u64()
    r14: int = u64()
    r15: int = u64()
    rip: int = u64()
    rflags: int = u64(bits=RFLAGS)
    cr0: int = u64(bits=CR0)
    cr2: int = u64()
    cr3: int = u64()
    cr4: int = u64(bits=CR4)
    dr0: int = u64()
    dr1: int = u64()
    dr2: int = u64()
    dr3: int = u64()
    dr6: int = u64()
    dr7: int = u64()
    selectors: SegmentWords = nested(SegmentWords)
    limits: SegmentWords = nested(SegmentWords)
    idtr_limit: int = u32()
    gdtr_limit: int = u32()
    bases: SegmentBases = nested(SegmentBases)
    idtr_base: int = u64()
    gdtr_base: int = u64()
    access_rights: SegmentWords = nested(SegmentWords)
    sysenter_cs: int = u64()
    sysenter_esp: int = u64()
    sysenter_eip: int = u64()
    shadow_gs: int = u64()
    msr_flags: int = u64()  # obsolete
    msr_lstar: int = u64()
    msr_star: int = u64()
    msr_cstar: int = u64()
    msr_syscall_mask: int = u64()
    msr_efer: int = u64(bits=EFER)
    msr_tsc_aux: int = u64()
    tsc: int = u64()  # what the guest would read
    pending_event: int = u32(bits=PENDING_EVENT)
    error_code: int = u32()
    flags: int = u32(bits=bits(fpu_initialised=0))
    pad0: int = u32()

    def as_json(self) -> Any:
        shown = to_json(self)
        shown["access_rights"] = {
            name: access_rights_to_json(value) for name, value in shown["access_rights"].items()
        }
        return shown


def pack_access_rights(stored: int) -> int:
    """The 12 attribute bits of a segment, from either form they are stored in.

    Old Xen on Intel hosts stored them as VMX has them, with AVL, L, D/B and G in bits
    15-12; the rule by which Xen tells the forms apart when loading is followed here.
    """
    if stored & 0xF000 and not stored & 0x0F00:
        return (stored & 0xFF) | (stored >> 4 & 0xF00)
    return stored


def access_rights_to_json(stored: int) -> dict[str, Any]:
    packed = pack_access_rights(stored)
    named = {
        name: packed >> low & ((1 << width) - 1) for name, (low, width) in ACCESS_RIGHTS.items()
    }
    return {"value": stored, "form": "packed" if packed == stored else "vmx", "bits": named}


CPU_SIZE = Cpu.SIZE  # since 4.7
_TAIL = 1024  # flags and pad0 follow; the size from 4.0 to 4.6
_OLDEST = 1016  # up to 3.4: as before, without msr_tsc_aux
_TSC_AUX = 1000
_FPU_IN_USE = struct.pack("<II", 1, 0)  # flags and pad0 where they are not stored


class CpuForm(Form):
    """Shorter payloads are extended by zeroes, with two exceptions: in a payload of 1016
    bytes a field is missing in the middle, and ``flags`` counts as 1 where it is absent.
    """

    def decode(self, payload: memoryview) -> Cpu:
        size = len(payload)
        if size == CPU_SIZE:
            return Cpu.decode(payload)
        if size > _TAIL:
            # 1025 to 1031 bytes hold a part of flags, which Xen overwrites: nobody writes
            # that, and it could not be written back.
            raise wrong_length(f"{_OLDEST}, {_TAIL} (or fewer) or {CPU_SIZE}", size)
        stored = bytes(payload)
        if size == _OLDEST:
            stored = stored[:_TSC_AUX] + bytes(8) + stored[_TSC_AUX:]
        return Cpu.decode(stored.ljust(_TAIL, b"\0") + _FPU_IN_USE)

    def encode(self, fields: Any, length: int) -> bytes:
        whole: bytes = fields.encode()
        if length == CPU_SIZE:
            return whole
        if whole[_TAIL:] != _FPU_IN_USE:
            raise FieldError(
                field=f"flags and pad0, which {length} bytes have no place for",
                expected="1 and 0",
                got=f"{fields.flags} and {fields.pad0}",
            )
        if length == _OLDEST:
            return cut(whole[:_TSC_AUX], _TSC_AUX) + _without_tsc_aux(whole)
        return cut(whole[:_TAIL], length)


def _without_tsc_aux(whole: bytes) -> bytes:
    cut(whole[_TSC_AUX : _TSC_AUX + 8], 0)
    return whole[_TSC_AUX + 8 : _TAIL]


@layout
class XsaveHead(Layout):
    """The part of CPU_XSAVE that every one has."""

    xfeature_mask: int = u64(bits=XCR0)  # of the saving host
    xcr0: int = u64(bits=XCR0)
    xcr0_accum: int = u64(bits=XCR0)  # every bit that the guest has ever set
    fpu_regs: Fxsave = nested(Fxsave)
    xstate_bv: int = u64(bits=XCR0)
    xcomp_bv: int = u64()
    reserved: tuple[int, ...] = u64(6)


@frozen
class CpuXsave:
    """CPU_XSAVE: an XSAVE area in the standard format.

    :ivar extended: from byte 576 of the area on, components at the offsets that CPUID
        leaf 0xD gave on the saving host. AVX is first on all processors; the others are
        not at the same place everywhere.
    """

    head: XsaveHead
    extended: bytes

    @property
    def ymm_high(self) -> tuple[bytes, ...]:
        """The upper halves of ymm0 to ymm15, 16 bytes each; empty without AVX."""
        if not self.head.xcr0_accum & AVX:
            return ()
        return tuple(self.extended[at : at + 16] for at in range(0, _AVX_SIZE, 16))

    def as_json(self) -> Any:
        return {
            **to_json(self.head),
            "ymm_high": to_json(self.ymm_high),
            "extended": self.extended.hex(),
        }


_AVX_SIZE = 256


class CpuXsaveForm(Form):
    """As long as the components need that the guest has ever enabled.

    For x87, SSE and AVX that length is the same everywhere and can be held against the
    payload; beyond those it depends on the saving host. Xen up to 4.2.3 and 4.3.0 wrote
    more than needed: the excess must be zero.
    """

    def decode(self, payload: memoryview) -> CpuXsave:
        if len(payload) < XsaveHead.SIZE:
            raise wrong_length(f"at least {XsaveHead.SIZE}", len(payload))
        head = XsaveHead.decode_at(payload, 0)
        needed = XsaveHead.SIZE + (_AVX_SIZE if head.xcr0_accum & AVX else 0)
        if len(payload) < needed:
            raise wrong_length(
                f"at least {needed} for xcr0_accum {head.xcr0_accum:#x}", len(payload)
            )
        if not head.xcr0_accum & ~(X87_SSE | AVX) and any(payload[needed:]):
            raise FieldError(
                field="extended",
                expected=f"zeroes from {needed} on, for xcr0_accum {head.xcr0_accum:#x}",
                got="other bytes",
            )
        return CpuXsave(head, bytes(payload[XsaveHead.SIZE :]))

    def encode(self, fields: Any, length: int) -> bytes:
        head: bytes = fields.head.encode()
        return head + bytes(fields.extended)


MSR_NAMES = {
    0x48: "SPEC_CTRL",
    0x140: "MISC_FEATURES_ENABLES",
    0x6E1: "PKRS",
    0xD90: "BNDCFGS",
    0xDA0: "XSS",
    0xC001011F: "VIRT_SPEC_CTRL",
    0xC0011027: "DR0_ADDRESS_MASK",
    0xC0011019: "DR1_ADDRESS_MASK",
    0xC001101A: "DR2_ADDRESS_MASK",
    0xC001101B: "DR3_ADDRESS_MASK",
}


@layout
class Msr(Layout):
    index: int = u32(names=MSR_NAMES)
    reserved: int = u32()
    value: int = u64()


@frozen
class CpuMsr:
    """CPU_MSR: those of the tracked MSRs that are not zero."""

    padding: int
    msrs: tuple[Msr, ...]


_MSR_HEAD = struct.Struct("<II")  # count, padding
# Xen tracks ten. The bound keeps a hostile body from being built into millions.
_MAX_MSRS = 64


class CpuMsrForm(Form):
    def decode(self, payload: memoryview) -> CpuMsr:
        if len(payload) < _MSR_HEAD.size + Msr.SIZE:
            raise wrong_length(f"at least {_MSR_HEAD.size + Msr.SIZE}", len(payload))
        count, padding = _MSR_HEAD.unpack_from(payload)
        if not 1 <= count <= _MAX_MSRS:
            raise FieldError(field="count", expected=f"1 to {_MAX_MSRS} MSRs", got=str(count))
        if len(payload) != _MSR_HEAD.size + count * Msr.SIZE:
            raise wrong_length(
                f"{_MSR_HEAD.size + count * Msr.SIZE} for {count} MSRs", len(payload)
            )
        offsets = range(_MSR_HEAD.size, len(payload), Msr.SIZE)
        return CpuMsr(padding, tuple(Msr.decode_at(payload, at) for at in offsets))

    def encode(self, fields: Any, length: int) -> bytes:
        head = _MSR_HEAD.pack(len(fields.msrs), fields.padding)
        return head + b"".join(msr.encode() for msr in fields.msrs)


@layout
class VariableRange(Layout):
    base: int = u64(bits=bits(type=(0, 8)))
    mask: int = u64(bits=bits(valid=11))


@layout
class Mtrr(Layout):
    """MTRR: the memory type range registers, and the page attribute table."""

    msr_pat_cr: int = u64()
    msr_mtrr_var: tuple[VariableRange, ...] = nested(VariableRange, 8)
    msr_mtrr_fixed: tuple[int, ...] = u64(11)
    msr_mtrr_cap: int = u64(bits=bits(vcnt=(0, 8), fix=8, wc=10, smrr=11))
    msr_mtrr_def_type: int = u64(bits=bits(default_type=(0, 8), fixed_enable=10, enable=11))


@layout
class VmceVcpu(Layout):
    """VMCE_VCPU: virtual machine checks. 8 bytes in 4.2, 24 from 4.3 to 4.9."""

    caps: int = u64(
        bits=bits(count=(0, 8), ctl_p=8, ext_p=9, cmci_p=10, tes_p=11, ser_p=24, lmce_p=27)
    )
    mci_ctl2_bank0: int = u64()
    mci_ctl2_bank1: int = u64()
    mcg_ext_ctl: int = u64()


@layout
class TscAdjust(Layout):
    tsc_adjust: int = u64()
