"""X86_PV_VCPU_BASIC: registers, traps, descriptor tables and control registers of a vcpu.

Layout: the 8-byte vcpu header, then Xen's public ``vcpu_guest_context``, 5168 bytes for a
64-bit and 2800 for a 32-bit guest, with pfns where the running guest has mfns
(xen/include/public/arch-x86/xen.h, xen-x86_64.h, xen-x86_32.h).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import evolve

from xsave import (
    Buffer,
    FieldError,
    GuestType,
    Highlight,
    Layout,
    Phase,
    RecordHandler,
    Redaction,
    SourceError,
    frozen,
    layout,
    nested,
    raw,
    u8,
    u16,
    u32,
    u64,
)

from .frames import mfn_of, pfn_of
from .vcpu import VcpuHeader, collect_bodies

if TYPE_CHECKING:
    from xsave import Domain, PvFacet

ONLINE = 1 << 5  # of flags
GDT_ENTS_PER_FRAME = 512
MAX_GDT_ENTS = 14 * GDT_ENTS_PER_FRAME  # the last two of 16 frames are Xen's own

FLAGS = {
    "i387_valid": (0, 1),
    "in_kernel": (2, 1),
    "failsafe_disables_events": (3, 1),
    "syscall_disables_events": (4, 1),  # 64-bit guests only
    "online": (5, 1),
    "in_syscall": (8, 1),
}
_GENERAL_REGS = frozenset(
    f"{width}{name}" for width in "re" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp")
) | {f"r{number}" for number in range(8, 16)}
VM_ASSIST_32 = {
    "4gb_segments": (0, 1),
    "4gb_segments_notify": (1, 1),
    "writable_pagetables": (2, 1),
    "pae_extended_cr3": (3, 1),
    "architectural_iopl": (4, 1),
    "runstate_update_flag": (5, 1),
}
VM_ASSIST_64 = {**VM_ASSIST_32, "m2p_strict": (32, 1)}
TRAP_FLAGS = {"dpl": (0, 2), "clear_event": (2, 1)}


@layout
class TrapInfo64(Layout):
    vector: int = u8()
    flags: int = u8(bits=TRAP_FLAGS)
    cs: int = u16()
    reserved: int = u32()
    address: int = u64()


@layout
class TrapInfo32(Layout):
    vector: int = u8()
    flags: int = u8(bits=TRAP_FLAGS)
    cs: int = u16()
    address: int = u32()


@layout
class UserRegs64(Layout):
    """:ivar rdx: of vcpu 0: pfn of the start-info page, the third argument of the
    hypercall by which the guest suspends itself."""

    r15: int = u64()
    r14: int = u64()
    r13: int = u64()
    r12: int = u64()
    rbp: int = u64()
    rbx: int = u64()
    r11: int = u64()
    r10: int = u64()
    r9: int = u64()
    r8: int = u64()
    rax: int = u64()
    rcx: int = u64()
    rdx: int = u64()
    rsi: int = u64()
    rdi: int = u64()
    error_code: int = u32()
    entry_vector: int = u32()
    rip: int = u64()
    cs: int = u16()
    reserved_cs: int = u16()
    saved_upcall_mask: int = u8()
    reserved_mask: bytes = raw(3)
    rflags: int = u64()
    rsp: int = u64()
    ss: int = u16()
    reserved_ss: bytes = raw(6)
    es: int = u16()
    reserved_es: bytes = raw(6)
    ds: int = u16()
    reserved_ds: bytes = raw(6)
    fs: int = u16()
    reserved_fs: bytes = raw(6)
    gs: int = u16()
    reserved_gs: bytes = raw(6)


@layout
class UserRegs32(Layout):
    """:ivar edx: of vcpu 0: pfn of the start-info page."""

    ebx: int = u32()
    ecx: int = u32()
    edx: int = u32()
    esi: int = u32()
    edi: int = u32()
    ebp: int = u32()
    eax: int = u32()
    error_code: int = u16()
    entry_vector: int = u16()
    eip: int = u32()
    cs: int = u16()
    saved_upcall_mask: int = u8()
    reserved_mask: int = u8()
    eflags: int = u32()
    esp: int = u32()
    ss: int = u16()
    reserved_ss: int = u16()
    es: int = u16()
    reserved_es: int = u16()
    ds: int = u16()
    reserved_ds: int = u16()
    fs: int = u16()
    reserved_fs: int = u16()
    gs: int = u16()
    reserved_gs: int = u16()


@layout
class VcpuContext64(Layout):
    """:ivar gdt_frames: pfns; only the first ceil(gdt_ents / 512) mean anything.
    :ivar ctrlreg: CR0 to CR7; see ``cr1_pfn`` and ``cr3_pfn``.
    """

    GUEST_WIDTH: ClassVar[int] = 8

    fpu_ctxt: bytes = raw(512)
    flags: int = u64(bits=FLAGS)
    user_regs: UserRegs64 = nested(UserRegs64)
    trap_ctxt: tuple[TrapInfo64, ...] = nested(TrapInfo64, 256)
    ldt_base: int = u64()
    ldt_ents: int = u64()
    gdt_frames: tuple[int, ...] = u64(16)
    gdt_ents: int = u64()
    kernel_ss: int = u64()
    kernel_sp: int = u64()
    ctrlreg: tuple[int, ...] = u64(8)
    debugreg: tuple[int, ...] = u64(8)
    event_callback_eip: int = u64()
    failsafe_callback_eip: int = u64()
    syscall_callback_eip: int = u64()
    vm_assist: int = u64(bits=VM_ASSIST_64)
    fs_base: int = u64()
    gs_base_kernel: int = u64()
    gs_base_user: int = u64()

    @property
    def start_info_pfn(self) -> int:
        """Means something for vcpu 0 only."""
        return self.user_regs.rdx

    @property
    def cr3_pfn(self) -> int:
        """The kernel's top page table."""
        return self.ctrlreg[3] >> 12

    @property
    def cr1_pfn(self) -> int | None:
        """The user mode's top page table; None where bit 0 says there is none."""
        return self.ctrlreg[1] >> 12 if self.ctrlreg[1] & 1 else None

    @staticmethod
    def make_cr3(frame: int) -> int:
        return frame << 12

    def with_start_info(self, frame: int) -> VcpuContext64:
        return self.replace(user_regs=self.user_regs.replace(rdx=frame))


@layout
class VcpuContext32(Layout):
    """As :class:`VcpuContext64`, for a guest of 32 bits with three-level page tables."""

    GUEST_WIDTH: ClassVar[int] = 4

    fpu_ctxt: bytes = raw(512)
    flags: int = u32(bits=FLAGS)
    user_regs: UserRegs32 = nested(UserRegs32)
    trap_ctxt: tuple[TrapInfo32, ...] = nested(TrapInfo32, 256)
    ldt_base: int = u32()
    ldt_ents: int = u32()
    gdt_frames: tuple[int, ...] = u32(16)
    gdt_ents: int = u32()
    kernel_ss: int = u32()
    kernel_sp: int = u32()
    ctrlreg: tuple[int, ...] = u32(8)
    debugreg: tuple[int, ...] = u32(8)
    event_callback_cs: int = u32()
    event_callback_eip: int = u32()
    failsafe_callback_cs: int = u32()
    failsafe_callback_eip: int = u32()
    vm_assist: int = u32(bits=VM_ASSIST_32)

    @property
    def start_info_pfn(self) -> int:
        return self.user_regs.edx

    @property
    def cr3_pfn(self) -> int:
        """The frame is rotated by 12 bits, so that frames of 32 bits fit a CR3 of 32."""
        return (self.ctrlreg[3] >> 12 | self.ctrlreg[3] << 20) & 0xFFFFFFFF

    @property
    def cr1_pfn(self) -> int | None:
        """A 32-bit guest has one page table for both modes."""
        return None

    @staticmethod
    def make_cr3(frame: int) -> int:
        return (frame << 12 | frame >> 20) & 0xFFFFFFFF

    def with_start_info(self, frame: int) -> VcpuContext32:
        return self.replace(user_regs=self.user_regs.replace(edx=frame))


CONTEXTS: dict[int, type[VcpuContext64] | type[VcpuContext32]] = {
    VcpuContext64.SIZE: VcpuContext64,
    VcpuContext32.SIZE: VcpuContext32,
}


def decode_context(blob: memoryview) -> VcpuContext64 | VcpuContext32:
    """By its size, one of both widths."""
    kind = CONTEXTS.get(len(blob))
    if kind is None:
        raise FieldError(
            field="context",
            expected=f"{VcpuContext64.SIZE} bytes (64-bit guest)"
            f" or {VcpuContext32.SIZE} bytes (32-bit guest)",
            got=f"{len(blob)} bytes",
        )
    return kind.decode(blob)


@frozen
class VcpuBasic:
    vcpu_id: int
    reserved: int
    context: VcpuContext64 | VcpuContext32


class VcpuBasicHandler(RecordHandler[VcpuBasic]):
    """Tells the two contexts apart by their size; the check over the stream holds that
    against the guest's width."""

    name = "xen.pv.vcpu_basic"
    summary = "registers, traps, descriptor tables and control registers of a vcpu"
    redaction = Redaction.CLEANED
    phase = Phase.END_OF_CHECKPOINT
    facet = "pv"
    after = frozenset({"xen.pv.shared_info"})
    guest_types = frozenset({GuestType.X86_PV})

    def decode(self, body: memoryview) -> VcpuBasic:
        header = VcpuHeader.decode_at(body, 0)
        context = decode_context(body[VcpuHeader.SIZE :])
        return VcpuBasic(header.vcpu_id, header.reserved, context)

    def encode(self, state: VcpuBasic) -> Sequence[Buffer]:
        header = VcpuHeader(vcpu_id=state.vcpu_id, reserved=state.reserved)
        return (header.encode(), state.context.encode())

    def collect(self, domain: Domain) -> Iterator[VcpuBasic]:
        """With pfns for the host's mfns."""
        for body in collect_bodies(domain, "basic"):
            state = self.decode(body)
            pv: PvFacet = domain.need_facet("pv")
            if state.context.gdt_ents > MAX_GDT_ENTS:
                raise SourceError(f"vcpu {state.vcpu_id}: {state.context.gdt_ents} GDT entries")
            context = _turn(state, partial(pfn_of, pv))
            if user := context.ctrlreg[1] if context.GUEST_WIDTH == 8 else 0:
                pfn = pfn_of(pv, user >> 12, f"vcpu {state.vcpu_id}: CR1")
                context = _with_ctrlreg(context, 1, pfn << 12 | 1)
            yield evolve(state, context=context)

    def apply(self, domain: Domain, state: VcpuBasic) -> None:
        """With this host's mfns for the pfns. Only online vcpus are saved, so it is one."""
        pv: PvFacet = domain.need_facet("pv")
        context, width = state.context, pv.guest_width
        if width != context.GUEST_WIDTH:
            raise FieldError(
                field=f"vcpu {state.vcpu_id}: context", expected=f"that of width {width}",
                got=f"that of width {context.GUEST_WIDTH}",
            )  # fmt: skip
        if context.gdt_ents > MAX_GDT_ENTS:
            raise FieldError(
                field=f"vcpu {state.vcpu_id}: gdt_ents", expected=f"at most {MAX_GDT_ENTS}",
                got=str(context.gdt_ents),
            )  # fmt: skip
        new = _turn(state, partial(mfn_of, pv))
        if (user := context.cr1_pfn) is not None:
            mfn = mfn_of(pv, user, f"vcpu {state.vcpu_id}: CR1")
            new = _with_ctrlreg(new, 1, mfn << 12)
        new = new.replace(flags=new.flags | ONLINE)
        pv.set_vcpu_state(state.vcpu_id, "basic", new.encode())

    def highlights(self, state: VcpuBasic, seen: Mapping[str, Any]) -> Iterator[Highlight]:
        context, regs = state.context, state.context.user_regs
        ip = regs.rip if isinstance(regs, UserRegs64) else regs.eip
        mode = "kernel" if context.flags >> FLAGS["in_kernel"][0] & 1 else "user"
        text = f"at {ip:#x} in {mode} mode, page tables from pfn {context.cr3_pfn:#x}"
        yield Highlight("vcpus", f"vcpu {state.vcpu_id}", text)

    def redact(self, state: VcpuBasic, seen: Mapping[str, Any]) -> VcpuBasic:
        """Without what programs left in registers: those of general use and of the FPU. Of
        vcpu 0 the pfn of start_info stays, which is in one of them."""
        context = state.context
        regs = context.user_regs
        cleaned = context.replace(
            fpu_ctxt=bytes(len(context.fpu_ctxt)),
            user_regs=regs.replace(**dict.fromkeys(_GENERAL_REGS & regs.FIELDS.keys(), 0)),
        )
        if state.vcpu_id == 0:
            cleaned = cleaned.with_start_info(context.start_info_pfn)
        return evolve(state, context=cleaned)

    def key(self, state: VcpuBasic) -> int:
        return state.vcpu_id


def _turn(state: VcpuBasic, turn: Callable[[int, str], int]) -> VcpuContext64 | VcpuContext32:
    """The context with other frame numbers, but for CR1.

    :param turn: a frame number and what holds it to the new frame number.
    """
    context, where = state.context, f"vcpu {state.vcpu_id}"
    if state.vcpu_id == 0:
        frame = turn(context.start_info_pfn, f"{where}: start_info")
        context = context.with_start_info(frame)
    nr_frames = -(-context.gdt_ents // GDT_ENTS_PER_FRAME)
    gdt = tuple(turn(frame, f"{where}: GDT") for frame in context.gdt_frames[:nr_frames])
    context = context.replace(gdt_frames=gdt + context.gdt_frames[nr_frames:])
    cr3 = context.make_cr3(turn(context.cr3_pfn, f"{where}: CR3"))
    return _with_ctrlreg(context, 3, cr3)


def _with_ctrlreg(
    context: VcpuContext64 | VcpuContext32, number: int, value: int
) -> VcpuContext64 | VcpuContext32:
    ctrlreg = list(context.ctrlreg)
    ctrlreg[number] = value
    return context.replace(ctrlreg=tuple(ctrlreg))
