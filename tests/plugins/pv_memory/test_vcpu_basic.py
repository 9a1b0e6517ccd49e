from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import FieldError
from xsave_plugins.pv_memory.vcpu_basic import (
    VcpuBasicHandler,
    VcpuContext32,
    VcpuContext64,
)

HANDLER = VcpuBasicHandler()

# Field, offset in the context, struct code: Xen's public headers as a compiler laid them out.
FIELDS_64 = """
    fpu_ctxt 0 512s; flags 512 Q; trap_ctxt.0.vector 720 B; trap_ctxt.0.flags 721 B;
    trap_ctxt.0.cs 722 H; trap_ctxt.0.address 728 Q; trap_ctxt.255.vector 4800 B;
    trap_ctxt.255.address 4808 Q; ldt_base 4816 Q; ldt_ents 4824 Q; gdt_frames.0 4832 Q;
    gdt_frames.15 4952 Q; gdt_ents 4960 Q; kernel_ss 4968 Q; kernel_sp 4976 Q;
    ctrlreg.0 4984 Q; ctrlreg.1 4992 Q; ctrlreg.2 5000 Q; ctrlreg.3 5008 Q; ctrlreg.4 5016 Q;
    ctrlreg.7 5040 Q; debugreg.0 5048 Q; debugreg.7 5104 Q; event_callback_eip 5112 Q;
    failsafe_callback_eip 5120 Q; syscall_callback_eip 5128 Q; vm_assist 5136 Q;
    fs_base 5144 Q; gs_base_kernel 5152 Q; gs_base_user 5160 Q;
    user_regs.r15 520 Q; user_regs.r14 528 Q; user_regs.r13 536 Q; user_regs.r12 544 Q;
    user_regs.rbp 552 Q; user_regs.rbx 560 Q; user_regs.r11 568 Q; user_regs.r10 576 Q;
    user_regs.r9 584 Q; user_regs.r8 592 Q; user_regs.rax 600 Q; user_regs.rcx 608 Q;
    user_regs.rdx 616 Q; user_regs.rsi 624 Q; user_regs.rdi 632 Q; user_regs.error_code 640 I;
    user_regs.entry_vector 644 I; user_regs.rip 648 Q; user_regs.cs 656 H;
    user_regs.saved_upcall_mask 660 B; user_regs.rflags 664 Q; user_regs.rsp 672 Q;
    user_regs.ss 680 H; user_regs.es 688 H; user_regs.ds 696 H; user_regs.fs 704 H;
    user_regs.gs 712 H
"""
FIELDS_32 = """
    fpu_ctxt 0 512s; flags 512 I; trap_ctxt.0.vector 584 B; trap_ctxt.0.flags 585 B;
    trap_ctxt.0.cs 586 H; trap_ctxt.0.address 588 I; trap_ctxt.255.vector 2624 B;
    trap_ctxt.255.address 2628 I; ldt_base 2632 I; ldt_ents 2636 I; gdt_frames.0 2640 I;
    gdt_frames.15 2700 I; gdt_ents 2704 I; kernel_ss 2708 I; kernel_sp 2712 I;
    ctrlreg.0 2716 I; ctrlreg.1 2720 I; ctrlreg.3 2728 I; ctrlreg.4 2732 I; ctrlreg.7 2744 I;
    debugreg.0 2748 I; debugreg.7 2776 I; event_callback_cs 2780 I; event_callback_eip 2784 I;
    failsafe_callback_cs 2788 I; failsafe_callback_eip 2792 I; vm_assist 2796 I;
    user_regs.ebx 516 I; user_regs.ecx 520 I; user_regs.edx 524 I; user_regs.esi 528 I;
    user_regs.edi 532 I; user_regs.ebp 536 I; user_regs.eax 540 I; user_regs.error_code 544 H;
    user_regs.entry_vector 546 H; user_regs.eip 548 I; user_regs.cs 552 H;
    user_regs.saved_upcall_mask 554 B; user_regs.eflags 556 I; user_regs.esp 560 I;
    user_regs.ss 564 H; user_regs.es 568 H; user_regs.ds 572 H; user_regs.fs 576 H;
    user_regs.gs 580 H
"""


def fields(text: str) -> list[tuple[str, int, str]]:
    rows = [row.split() for row in text.split(";")]
    return [(path, int(offset), code) for path, offset, code in rows]


def at(state: Any, path: str) -> Any:
    for step in path.split("."):
        state = state[int(step)] if step.isdigit() else getattr(state, step)
    return state


@pytest.mark.parametrize(
    ("kind", "size", "table"), [(VcpuContext64, 5168, FIELDS_64), (VcpuContext32, 2800, FIELDS_32)]
)
def test_every_field_lies_where_the_compiler_puts_it(kind: type, size: int, table: str) -> None:
    blob = Random(1).randbytes(size)
    state = HANDLER.decode(memoryview(struct.pack("<II", 3, 9) + blob))
    assert (state.vcpu_id, state.reserved) == (3, 9)
    assert type(state.context) is kind
    for path, offset, code in fields(table):
        assert at(state.context, path) == struct.unpack_from("<" + code, blob, offset)[0], path


def test_real_record_field_by_field(golden_body: Callable[[str], memoryview]) -> None:
    body = golden_body("xen.pv.vcpu_basic.pv")
    state = HANDLER.decode(body)
    context = state.context
    assert isinstance(context, VcpuContext64)
    assert (state.vcpu_id, state.reserved, context.flags) == (0, 0, 0x3D)
    assert context.user_regs.rdx == context.start_info_pfn == 0x4A00
    assert context.gdt_ents == 16
    assert (context.ctrlreg[3], context.cr3_pfn) == (0x5BE2000, 0x5BE2)
    assert (context.ctrlreg[1], context.cr1_pfn) == (0x5AE1001, 0x5AE1)
    assert b"".join(HANDLER.encode(state)) == body


def test_flags_and_vm_assist_are_named(golden_body: Callable[[str], memoryview]) -> None:
    body = bytearray(golden_body("xen.pv.vcpu_basic.pv"))
    struct.pack_into("<Q", body, 8 + 5136, 1 << 32 | 1 << 5 | 1)
    shown = HANDLER.describe(HANDLER.decode(memoryview(body)), {})["context"]
    assert shown["flags"] == {
        "value": 0x3D,
        "bits": {
            "i387_valid": 1, "in_kernel": 1, "failsafe_disables_events": 1,
            "syscall_disables_events": 1, "online": 1, "in_syscall": 0,
        },
    }  # fmt: skip
    assert [name for name, bit in shown["vm_assist"]["bits"].items() if bit] == [
        "4gb_segments",
        "runstate_update_flag",
        "m2p_strict",
    ]
    assert len(shown["trap_ctxt"]) == 256


def test_trap_flags_are_named() -> None:
    blob = bytearray(2800)
    blob[585] = 0b111
    shown = HANDLER.describe(HANDLER.decode(memoryview(bytes(8) + blob)), {})
    assert shown["context"]["trap_ctxt"][0]["flags"]["bits"] == {"dpl": 3, "clear_event": 1}


@pytest.mark.parametrize("frame", [0, 1, 0xFFFFF, 0x100000, 0x123456, 0xFFFFFFFF])
def test_cr3_of_a_32_bit_guest_is_rotated(frame: int) -> None:
    blob = bytearray(2800)
    struct.pack_into("<I", blob, 2728, (frame << 12 | frame >> 20) & 0xFFFFFFFF)
    context = HANDLER.decode(memoryview(bytes(8) + blob)).context
    assert context.cr3_pfn == frame
    assert context.cr1_pfn is None


def test_cr1_without_its_valid_bit_names_no_page() -> None:
    blob = bytearray(5168)
    struct.pack_into("<Q", blob, 4992, 0x5000)
    assert HANDLER.decode(memoryview(bytes(8) + blob)).context.cr1_pfn is None


@pytest.mark.parametrize("size", [0, 1, 2799, 2801, 5167, 5169])
def test_any_other_size_is_refused(size: int) -> None:
    with pytest.raises(FieldError, match=rf"expected 5168 .* or 2800 .*, got {size} bytes"):
        HANDLER.decode(memoryview(bytes(8 + size)))


def test_body_without_a_header_is_refused() -> None:
    with pytest.raises(FieldError, match="got 7 bytes"):
        HANDLER.decode(memoryview(bytes(7)))


@settings(max_examples=40)
@given(st.sampled_from([5168, 2800]), st.integers(0), st.binary(min_size=8, max_size=8))
def test_any_context_round_trips(size: int, seed: int, header: bytes) -> None:
    body = header + Random(seed).randbytes(size)
    assert b"".join(HANDLER.encode(HANDLER.decode(memoryview(body)))) == body


@settings(max_examples=50)
@given(st.binary(max_size=64))
def test_garbage_is_refused(body: bytes) -> None:
    with pytest.raises(FieldError):
        HANDLER.decode(memoryview(body))
