"""The types of save records: code, name, what has one, how its payload is read.

Source: Xen's public ``arch-x86/hvm/save.h``, after 4.22, and docs/formats/hvm.md for the
sizes of older releases.
"""

from __future__ import annotations

from .cpu import CpuForm, CpuMsrForm, CpuXsaveForm, Mtrr, TscAdjust, VmceVcpu
from .platform import (
    End,
    HeaderForm,
    Hpet,
    Ioapic,
    IsaIrq,
    Lapic,
    LapicRegsForm,
    PciIrq,
    PciLink,
    Pic,
    Pit,
    Pmtimer,
    Rtc,
)
from .save_record import Exact, Extended, Per, SaveType
from .viridian import ViridianDomain, ViridianVcpu

SAVE_TYPES = {
    kind.typecode: kind
    for kind in (
        SaveType(0, "END", Per.DOMAIN, Exact(End)),
        SaveType(1, "HEADER", Per.DOMAIN, HeaderForm()),
        SaveType(2, "CPU", Per.VCPU, CpuForm()),
        SaveType(3, "PIC", Per.PIC, Exact(Pic)),
        SaveType(4, "IOAPIC", Per.IOAPIC, Exact(Ioapic)),
        SaveType(5, "LAPIC", Per.VCPU, Extended(Lapic)),
        SaveType(6, "LAPIC_REGS", Per.VCPU, LapicRegsForm()),
        SaveType(7, "PCI_IRQ", Per.DOMAIN, Exact(PciIrq)),
        SaveType(8, "ISA_IRQ", Per.DOMAIN, Exact(IsaIrq)),
        SaveType(9, "PCI_LINK", Per.DOMAIN, Exact(PciLink)),
        SaveType(10, "PIT", Per.DOMAIN, Exact(Pit)),
        SaveType(11, "RTC", Per.DOMAIN, Extended(Rtc)),
        SaveType(12, "HPET", Per.DOMAIN, Exact(Hpet)),
        SaveType(13, "PMTIMER", Per.DOMAIN, Exact(Pmtimer)),
        SaveType(14, "MTRR", Per.VCPU, Exact(Mtrr)),
        SaveType(15, "VIRIDIAN_DOMAIN", Per.DOMAIN, Extended(ViridianDomain)),
        SaveType(16, "CPU_XSAVE", Per.VCPU, CpuXsaveForm()),
        SaveType(17, "VIRIDIAN_VCPU", Per.VCPU, Extended(ViridianVcpu)),
        SaveType(18, "VMCE_VCPU", Per.VCPU, Extended(VmceVcpu)),
        SaveType(19, "TSC_ADJUST", Per.VCPU, Exact(TscAdjust)),
        SaveType(20, "CPU_MSR", Per.VCPU, CpuMsrForm()),
    )
}
END, HEADER = 0, 1

# One cloud vendor extends Xen with these; Xen itself refuses them, and nobody outside
# knows what they hold.
VENDOR_TYPECODES = range(22, 35)
