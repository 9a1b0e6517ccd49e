"""What the devices are that QEMU names in its sections."""

from __future__ import annotations

from typing import Final

DEVICES: Final = {
    "timer": "virtual clock",
    "cpu_common": "cpu: halted state and pending interrupts",
    "cpu": "cpu as QEMU sees it: not the guest's, which the hypervisor keeps",
    "apic": "local interrupt controller as QEMU sees it: not the guest's",
    "fw_cfg": "firmware configuration",
    "PCIBUS": "PCI bus",
    "I440FX": "host bridge",
    "PIIX3": "ISA bridge",
    "dma": "8237 DMA controller",
    "ioapic": "IO interrupt controller",
    "hpet": "high precision event timer",
    "mc146818rtc": "real-time clock",
    "serial": "serial port",
    "fdc": "floppy disk controller",
    "ps2kbd": "PS/2 keyboard",
    "ps2mouse": "PS/2 mouse",
    "pckbd": "8042 keyboard controller",
    "port92": "port 92: A20 gate and reset",
    "ide": "IDE controller and disks",
    "i2c_bus": "SMBus",
    "piix4_pm": "power management (ACPI)",
    "platform": "Xen platform device",
    "vga": "VGA adapter",
    "cirrus_vga": "Cirrus VGA adapter",
    "e1000": "Intel network adapter",
    "rtl8139": "Realtek network adapter",
    "uhci": "USB controller",
    "ram": "guest memory: only in a full migration stream",
    "globalstate": "run state: only in a full migration stream",
}
