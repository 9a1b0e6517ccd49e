"""Values that Xen refuses to load, inside save records whose layout is right."""

from __future__ import annotations

import struct

import pytest

from xsave import FieldError
from xsave_plugins.hvm_context import HvmContextHandler
from xsave_plugins.hvm_context.cpu import Cpu
from xsave_plugins.hvm_context.load_rules import check_save_record

HANDLER = HvmContextHandler()


def load(body):
    for one in HANDLER.decode(memoryview(body)).save_records:
        check_save_record(one)


@pytest.mark.parametrize("guest", ["pvh", "hvm"])
def test_real_save_records_are_accepted(golden, guest):
    load(golden(f"xen.hvm.context.{guest}"))


def with_cpu(context, save_record, **changes):
    cpu = Cpu.decode(bytes(Cpu.SIZE)).replace(cr0=0x10)
    return context(save_record(2, cpu.replace(**changes).encode(), instance=5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cr0": 0x50}, "cr0: expected reserved bits clear, got 0x50"),
        ({"cr0": 1 << 32 | 0x10}, "cr0: expected reserved bits clear"),
        ({"cr0": 0}, "cr0: expected ET set, got 0x0"),
        ({"cr0": 0x80000010}, "cr0: expected PG only with PE"),
        ({"msr_efer": 0x400}, r"msr_efer: expected LMA only with LME and CR0\.PG"),
        ({"msr_efer": 0x500}, r"msr_efer: expected LMA only with LME and CR0\.PG"),
        ({"dr6": 1 << 32}, "dr6: expected 32 bits, got 0x100000000"),
        ({"dr7": 1 << 63}, "dr7: expected 32 bits"),
        ({"msr_tsc_aux": 1 << 32}, "msr_tsc_aux: expected 32 bits"),
        ({"flags": 2}, "flags: expected no bit but 0, got 0x2"),
        ({"pad0": 1}, "pad0: expected 0, got 0x1"),
    ],
)
def test_cpu_that_xen_would_not_load_is_refused(context, save_record, changes, message):
    body = with_cpu(context, save_record, **changes)
    with pytest.raises(FieldError, match=f"save record CPU, instance 5: {message}"):
        load(body)


def test_cpu_just_after_reset_is_accepted(context, save_record):
    load(with_cpu(context, save_record))


def xsave(accum=3, xcr0=3, bv=3, xcomp=0, reserved=0):
    head = struct.pack("<QQQ512xQQQ40x", 7, xcr0, accum, bv, xcomp, reserved)
    return head.ljust(856, b"\0")


@pytest.mark.parametrize(
    "case",
    [
        (3, bytes(8), 0, "is_master: expected 1, got 0"),
        (3, b"\0\0\0\0\0\x40\0\0", 1, "is_master: expected 0, got 1"),
        (3, b"\0\0\0\0\0\0\0\2", 1, "int_output: expected 0 or 1, got 2"),
        (5, (0xFEE00400).to_bytes(16, "little"), 0, "EXTD only with ENABLE"),
        (9, bytes([0, 16, 0, 0, 0, 0, 0, 0]), 0, "ISA interrupts below 16, got 16"),
        (9, bytes([0, 0, 0, 0, 0, 0, 0, 1]), 0, "pad0: expected zeroes, got 00000001"),
        (14, bytes(224) + b"\x09" + bytes(15), 0, "at most 8 variable ranges, got 9"),
        (16, xsave(xcr0=7), 0, r"xcr0: expected bits of xcr0_accum \(0x3\), got 0x7"),
        (16, xsave(bv=4), 0, r"xstate_bv: expected bits of xcr0_accum \(0x3\), got 0x4"),
        (16, xsave(xcomp=1 << 63), 0, "xcomp_bv: expected 0: the standard format"),
        (16, xsave(reserved=1), 0, "reserved: expected zeroes"),
        (17, bytes(8) + b"\0\1" + bytes(6), 0, "pad: expected zeroes, got 01000000000000"),
        (20, struct.pack("<IIIIQ", 1, 0, 0x10, 0, 1), 0, "an MSR that Xen saves, got 0x10"),
        (20, struct.pack("<IIIIQ", 1, 0, 0x48, 1, 1), 0, "reserved word of MSR 0x48"),
    ],
)
def test_value_that_xen_would_not_load_is_refused(context, save_record, case):
    typecode, payload, instance, message = case
    body = context(save_record(typecode, payload, instance=instance))
    with pytest.raises(FieldError, match=message):
        load(body)


def test_every_msr_that_xen_saves_is_accepted(context, save_record):
    indices = (0x48, 0x140, 0x6E1, 0xD90, 0xDA0, 0xC001011F, 0xC0011027, 0xC0011019,
               0xC001101A, 0xC001101B)  # fmt: skip
    payload = struct.pack("<II", len(indices), 0)
    payload += b"".join(struct.pack("<IIQ", index, 0, 1) for index in indices)
    load(context(save_record(20, payload)))
