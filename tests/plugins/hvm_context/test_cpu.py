"""Save records of a processor, field by field."""

from __future__ import annotations

import struct

import attrs
import pytest

from xsave import FieldError, to_json
from xsave_plugins.hvm_context import HvmContextHandler
from xsave_plugins.hvm_context.cpu import Cpu, CpuXsave, Fxsave, Mtrr, pack_access_rights

HANDLER = HvmContextHandler()

# Offset of every field, as a compiler prints them for Xen's structure.
CPU_OFFSETS = {
    "fpu_regs": 0, "rax": 512, "rbx": 520, "rcx": 528, "rdx": 536, "rbp": 544, "rsi": 552,
    "rdi": 560, "rsp": 568, "r8": 576, "r15": 632, "rip": 640, "rflags": 648, "cr0": 656,
    "cr2": 664, "cr3": 672, "cr4": 680, "dr0": 688, "dr6": 720, "dr7": 728, "selectors": 736,
    "limits": 768, "idtr_limit": 800, "gdtr_limit": 804, "bases": 808, "idtr_base": 872,
    "gdtr_base": 880, "access_rights": 888, "sysenter_cs": 920, "sysenter_esp": 928,
    "sysenter_eip": 936, "shadow_gs": 944, "msr_flags": 952, "msr_lstar": 960, "msr_star": 968,
    "msr_cstar": 976, "msr_syscall_mask": 984, "msr_efer": 992, "msr_tsc_aux": 1000,
    "tsc": 1008, "pending_event": 1016, "error_code": 1020, "flags": 1024, "pad0": 1028,
}  # fmt: skip


def decode_one(body, name, instance=0):
    return HANDLER.decode(memoryview(body)).find(name, instance)


def show_one(body, name):
    state = HANDLER.decode(memoryview(body))
    shown = HANDLER.describe(state, {})["save_records"]
    return next(one["fields"] for one in shown if one["type"] == name)


@pytest.mark.parametrize("name", CPU_OFFSETS)
def test_cpu_field_lies_where_xen_has_it(name):
    payload = bytearray(Cpu.SIZE)
    payload[CPU_OFFSETS[name]] = 0x5A
    cpu = Cpu.decode(bytes(payload))
    changed = [
        field
        for field in Cpu.FIELDS
        if getattr(cpu, field) != getattr(Cpu.decode(bytes(Cpu.SIZE)), field)
    ]
    assert changed == [name]


@pytest.mark.parametrize("group", ["selectors", "limits", "bases", "access_rights"])
def test_segments_are_in_xens_order(group):
    width = 8 if group == "bases" else 4
    payload = bytearray(Cpu.SIZE)
    for number in range(8):
        payload[CPU_OFFSETS[group] + width * number] = number + 1
    segments = to_json(getattr(Cpu.decode(bytes(payload)), group))
    assert segments == {
        "cs": 1, "ds": 2, "es": 3, "fs": 4, "gs": 5, "ss": 6, "tr": 7, "ldtr": 8,
    }  # fmt: skip


def test_pvh_cpu_is_a_linux_kernel_in_long_mode(golden):
    cpu = decode_one(golden("xen.hvm.context.pvh"), "CPU").fields
    assert cpu.cr0 == 0x80050033
    assert cpu.msr_efer == 0xD01
    assert cpu.rip >> 32 == 0xFFFFFFFF, "kernel text"
    assert (cpu.flags, cpu.pad0) == (1, 0)
    assert (cpu.access_rights.cs, cpu.access_rights.ss, cpu.access_rights.tr) == (
        0xA9B, 0xC93, 0x8B,
    )  # fmt: skip
    assert (cpu.selectors.cs, cpu.selectors.ss, cpu.selectors.tr) == (0x10, 0x18, 0x40)
    assert cpu.fpu_regs.mxcsr == 0x1F80


def test_hvm_cpu_is_firmware_in_real_mode(golden):
    cpu = decode_one(golden("xen.hvm.context.hvm"), "CPU").fields
    assert (cpu.cr0, cpu.msr_efer) == (0x10, 0)
    assert (cpu.selectors.cs, cpu.bases.cs) == (0xF000, 0xF0000)
    assert cpu.access_rights.cs == 0x9B


def test_control_registers_are_shown_bit_by_bit(golden):
    shown = show_one(golden("xen.hvm.context.pvh"), "CPU")
    assert [name for name, bit in shown["cr0"]["bits"].items() if bit] == [
        "pe", "mp", "et", "ne", "wp", "am", "pg",
    ]  # fmt: skip
    assert [name for name, bit in shown["msr_efer"]["bits"].items() if bit] == [
        "sce", "lme", "lma", "nxe",
    ]  # fmt: skip
    assert shown["flags"] == {"value": 1, "bits": {"fpu_initialised": 1}}
    assert shown["access_rights"]["cs"] == {
        "value": 0xA9B,
        "form": "packed",
        "bits": {"type": 0xB, "s": 1, "dpl": 0, "p": 1, "avl": 0, "l": 1, "db": 0, "g": 1},
    }


def test_pending_event_is_shown_in_parts(context, save_record):
    payload = bytearray(Cpu.SIZE)
    payload[1016:1020] = (1 << 31 | 1 << 11 | 3 << 8 | 14).to_bytes(4, "little")
    shown = show_one(context(save_record(2, bytes(payload))), "CPU")["pending_event"]
    assert shown["bits"] == {
        "vector": 14, "type": 3, "error_valid": 1, "reserved": 0, "valid": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "packed"),
    [(0xA9B, 0xA9B), (0xA09B, 0xA9B), (0xC093, 0xC93), (0x8B, 0x8B), (0xFA9B, 0xFA9B), (0, 0)],
)
def test_access_rights_of_old_intel_hosts_are_understood(stored, packed):
    assert pack_access_rights(stored) == packed


def test_access_rights_in_vmx_form_are_shown_packed(context, save_record):
    payload = bytearray(1016)
    payload[888:892] = (0xA09B).to_bytes(4, "little")
    shown = show_one(context(save_record(2, bytes(payload))), "CPU")["access_rights"]["cs"]
    assert (shown["value"], shown["form"], shown["bits"]["l"]) == (0xA09B, "vmx", 1)


def oldest_cpu():
    """1016 bytes: no msr_tsc_aux, so that what follows msr_efer lies 8 bytes lower."""
    payload = bytearray(1016)
    struct.pack_into("<Q", payload, 992, 0xD01)
    struct.pack_into("<QII", payload, 1000, 0x1122334455667788, 0x80000B0E, 0x10)
    return bytes(payload)


def test_cpu_of_xen_3_4_has_no_tsc_aux_in_the_middle(context, save_record):
    body = context(save_record(2, oldest_cpu()))
    cpu = decode_one(body, "CPU").fields
    assert (cpu.msr_efer, cpu.msr_tsc_aux, cpu.tsc) == (0xD01, 0, 0x1122334455667788)
    assert (cpu.pending_event, cpu.error_code) == (0x80000B0E, 0x10)
    assert (cpu.flags, cpu.pad0) == (1, 0)


def test_cpu_before_4_7_counts_as_having_its_fpu_in_use(context, save_record):
    cpu = decode_one(context(save_record(2, bytes(1024))), "CPU").fields
    assert cpu.flags == 1
    assert decode_one(context(save_record(2, bytes(1032))), "CPU").fields.flags == 0


@pytest.mark.parametrize("size", [0, 1, 1000, 1015, 1017, 1023])
def test_cpu_shorter_than_any_is_extended_by_zeroes(context, save_record, size):
    body = context(save_record(2, b"\x11" * size))
    state = HANDLER.decode(memoryview(body))
    assert b"".join(HANDLER.encode(state)) == body


@pytest.mark.parametrize("size", [1025, 1031, 1033])
def test_cpu_with_a_part_of_flags_is_refused(context, save_record, size):
    with pytest.raises(FieldError, match=r"1016, 1024 \(or fewer\) or 1032 bytes, got"):
        decode_one(context(save_record(2, bytes(size))), "CPU")


@pytest.mark.parametrize(
    ("length", "change"),
    [(1024, {"flags": 0}), (1016, {"pad0": 1}), (1016, {"msr_tsc_aux": 7}), (1000, {"tsc": 1})],
)
def test_cpu_field_without_a_place_in_an_older_size_is_refused_when_writing(
    context, save_record, length, change
):
    one = decode_one(context(save_record(2, bytes(1024))), "CPU")
    changed = attrs.evolve(one, length=length, fields=one.fields.replace(**change))
    with pytest.raises(FieldError):
        changed.encode()


def test_fxsave_registers_lie_where_the_processor_has_them():
    image = bytearray(512)
    struct.pack_into("<HHBxHQQII", image, 0, 0x37F, 1, 2, 3, 4, 5, 0x1F80, 0xFFFF)
    image[32 + 16] = 0x71
    image[160 + 16 * 15 + 8] = 0x7F
    fpu = Fxsave.decode(bytes(image))
    assert (fpu.fcw, fpu.fsw, fpu.ftw, fpu.fop, fpu.fip, fpu.fdp) == (0x37F, 1, 2, 3, 4, 5)
    assert (fpu.mxcsr, fpu.mxcsr_mask) == (0x1F80, 0xFFFF)
    assert (fpu.st[1].significand, fpu.xmm[15].high) == (0x71, 0x7F)
    assert Fxsave.SIZE == 512


def xsave_payload(accum, area_size, fill=b""):
    head = struct.pack("<QQQ", 0xE7, 1, accum)
    return head + bytes(576) + fill.ljust(area_size - 576, b"\0")


def test_xsave_with_avx_is_856_bytes_and_has_the_upper_halves(context, save_record):
    halves = b"".join(bytes([n]) * 16 for n in range(16))
    payload = xsave_payload(7, 832, halves)
    assert len(payload) == 856
    xsave = decode_one(context(save_record(16, payload)), "CPU_XSAVE").fields
    assert isinstance(xsave, CpuXsave)
    assert (xsave.head.xfeature_mask, xsave.head.xcr0, xsave.head.xcr0_accum) == (0xE7, 1, 7)
    assert xsave.ymm_high == tuple(bytes([n]) * 16 for n in range(16))
    shown = show_one(context(save_record(16, payload)), "CPU_XSAVE")
    assert shown["ymm_high"][15] == "0f" * 16
    assert shown["xcr0_accum"]["bits"]["avx"] == 1


def test_xsave_without_avx_has_no_upper_halves(context, save_record):
    xsave = decode_one(context(save_record(16, xsave_payload(3, 576))), "CPU_XSAVE").fields
    assert xsave.ymm_high == ()


@pytest.mark.parametrize(
    ("accum", "size", "least"), [(3, 599, 600), (7, 855, 856), (0xE7, 600, 856)]
)
def test_xsave_too_short_for_its_components_is_refused(context, save_record, accum, size, least):
    payload = xsave_payload(accum, 832)[:size]
    with pytest.raises(FieldError, match=f"expected at least {least}.* bytes, got {size} bytes"):
        decode_one(context(save_record(16, payload)), "CPU_XSAVE")


def test_xsave_excess_of_old_xen_is_kept_while_it_is_zero(context, save_record):
    body = context(save_record(16, xsave_payload(3, 832)))
    state = HANDLER.decode(memoryview(body))
    assert b"".join(HANDLER.encode(state)) == body
    with pytest.raises(FieldError, match="zeroes from 600 on"):
        decode_one(context(save_record(16, xsave_payload(3, 832, b"\0\1"))), "CPU_XSAVE")


def test_msrs_are_listed_with_their_names(context, save_record):
    payload = struct.pack("<II", 2, 0)
    payload += struct.pack("<IIQ", 0x48, 0, 1) + struct.pack("<IIQ", 0xC0011027, 0, 0xFFF)
    shown = show_one(context(save_record(20, payload)), "CPU_MSR")
    assert shown == {
        "padding": 0,
        "msrs": [
            {"index": {"value": 0x48, "name": "SPEC_CTRL"}, "reserved": 0, "value": 1},
            {"index": {"value": 0xC0011027, "name": "DR0_ADDRESS_MASK"}, "reserved": 0,
             "value": 0xFFF},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "size"), [(0, 24), (2, 24), (1, 40), (1, 8), (0xFFFFFFFF, 24), (65, 8 + 16 * 65)]
)
def test_msr_count_that_contradicts_the_length_is_refused(context, save_record, count, size):
    payload = struct.pack("<II", count, 0).ljust(size, b"\0")
    with pytest.raises(FieldError, match="CPU_MSR"):
        decode_one(context(save_record(20, payload)), "CPU_MSR")


def test_mtrr_of_real_guests(golden):
    for vcpu in (0, 1):
        mtrr = decode_one(golden("xen.hvm.context.hvm"), "MTRR", vcpu).fields
        assert isinstance(mtrr, Mtrr)
        assert mtrr.msr_pat_cr == 0x0007040600070406
        assert mtrr.msr_mtrr_var[0].base == 0xF0000000
        assert mtrr.msr_mtrr_fixed[2] == 0x0101010101010101
    shown = show_one(golden("xen.hvm.context.hvm"), "MTRR")
    assert shown["msr_mtrr_cap"]["bits"]["vcnt"] == 8
    assert shown["msr_mtrr_def_type"]["bits"] == {
        "default_type": 6, "fixed_enable": 1, "enable": 1,
    }  # fmt: skip


def test_vmce_has_two_banks(golden):
    vmce = decode_one(golden("xen.hvm.context.pvh"), "VMCE_VCPU").fields
    assert (vmce.caps, vmce.mci_ctl2_bank0, vmce.mci_ctl2_bank1, vmce.mcg_ext_ctl) == (2, 0, 0, 0)
