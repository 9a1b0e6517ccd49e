"""What Xen refuses when it loads a save record whose layout is right.

Only rules that the image alone decides: whether CR4, EFER or XCR0 hold too much depends
on the destination. Source: the load functions of Xen 4.17 to after 4.22, ``hvm.c``,
``vlapic.c``, ``vpic.c``, ``irq.c``, ``mtrr.c``, ``xstate.c``, ``viridian.c``. Where only
the newer ones look, older ones never wrote such values either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from xsave import FieldError

from .cpu import MSR_NAMES

if TYPE_CHECKING:
    from .cpu import Cpu, CpuMsr, CpuXsave, Mtrr
    from .platform import Lapic, PciLink, Pic
    from .save_record import SaveRecord
    from .viridian import ViridianVcpu

CR0_PE, CR0_ET, CR0_PG = 1 << 0, 1 << 4, 1 << 31
CR0_KNOWN = 0xE005003F
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
APIC_BASE_EXTD, APIC_BASE_ENABLE = 1 << 10, 1 << 11
NR_ISA_IRQS = 16
NR_VARIABLE_RANGES = 8

Wrong = tuple[str, str, str]  # field, expected, got


def check_save_record(one: SaveRecord) -> None:
    """:raises FieldError: Xen would refuse it; the first reason."""
    rule = RULES.get(one.name)
    for field, expected, got in rule(one.fields, one.instance) if rule is not None else ():
        raise FieldError(
            field=f"save record {one.name}, instance {one.instance}: {field}",
            expected=expected,
            got=got,
        )


def _cpu(cpu: Cpu, instance: int) -> Iterator[Wrong]:
    if cpu.cr0 & ~CR0_KNOWN:
        yield "cr0", "reserved bits clear", f"{cpu.cr0:#x}"
    if not cpu.cr0 & CR0_ET:
        yield "cr0", "ET set", f"{cpu.cr0:#x}"
    if cpu.cr0 & CR0_PG and not cpu.cr0 & CR0_PE:
        yield "cr0", "PG only with PE", f"{cpu.cr0:#x}"
    if cpu.msr_efer & EFER_LMA and not (cpu.msr_efer & EFER_LME and cpu.cr0 & CR0_PG):
        yield "msr_efer", "LMA only with LME and CR0.PG", f"{cpu.msr_efer:#x}"
    for name in ("dr6", "dr7", "msr_tsc_aux"):
        if (value := getattr(cpu, name)) >> 32:
            yield name, "32 bits", f"{value:#x}"
    if cpu.flags & ~1:
        yield "flags", "no bit but 0", f"{cpu.flags:#x}"
    if cpu.pad0:
        yield "pad0", "0", f"{cpu.pad0:#x}"


def _cpu_xsave(xsave: CpuXsave, instance: int) -> Iterator[Wrong]:
    head = xsave.head
    for name in ("xcr0", "xstate_bv"):
        if (value := getattr(head, name)) & ~head.xcr0_accum:
            yield name, f"bits of xcr0_accum ({head.xcr0_accum:#x})", f"{value:#x}"
    if head.xcomp_bv:
        yield "xcomp_bv", "0: the standard format", f"{head.xcomp_bv:#x}"
    if any(head.reserved):
        yield "reserved", "zeroes", str(head.reserved)


def _cpu_msr(listed: CpuMsr, instance: int) -> Iterator[Wrong]:
    for msr in listed.msrs:
        if msr.index not in MSR_NAMES:
            yield "index", "an MSR that Xen saves", f"{msr.index:#x}"
        if msr.reserved:
            yield f"reserved word of MSR {msr.index:#x}", "0", f"{msr.reserved:#x}"


def _pic(pic: Pic, instance: int) -> Iterator[Wrong]:
    if (is_master := pic.modes >> 6 & 1) != (instance == 0):
        yield "is_master", str(int(instance == 0)), str(is_master)
    if pic.int_output > 1:
        yield "int_output", "0 or 1", str(pic.int_output)


def _lapic(lapic: Lapic, instance: int) -> Iterator[Wrong]:
    if lapic.apic_base_msr & (APIC_BASE_EXTD | APIC_BASE_ENABLE) == APIC_BASE_EXTD:
        yield "apic_base_msr", "EXTD only with ENABLE", f"{lapic.apic_base_msr:#x}"


def _pci_link(link: PciLink, instance: int) -> Iterator[Wrong]:
    if max(link.route) >= NR_ISA_IRQS:
        yield "route", f"ISA interrupts below {NR_ISA_IRQS}", str(max(link.route))
    if any(link.pad0):
        yield "pad0", "zeroes", link.pad0.hex()


def _mtrr(mtrr: Mtrr, instance: int) -> Iterator[Wrong]:
    if (count := mtrr.msr_mtrr_cap & 0xFF) > NR_VARIABLE_RANGES:
        yield "msr_mtrr_cap", f"at most {NR_VARIABLE_RANGES} variable ranges", str(count)


def _viridian_vcpu(viridian: ViridianVcpu, instance: int) -> Iterator[Wrong]:
    if any(viridian.pad):
        yield "pad", "zeroes", viridian.pad.hex()


RULES: Mapping[str, Callable[[Any, int], Iterator[Wrong]]] = {
    "CPU": _cpu,
    "PIC": _pic,
    "LAPIC": _lapic,
    "PCI_LINK": _pci_link,
    "MTRR": _mtrr,
    "CPU_XSAVE": _cpu_xsave,
    "VIRIDIAN_VCPU": _viridian_vcpu,
    "CPU_MSR": _cpu_msr,
}
