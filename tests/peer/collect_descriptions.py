"""Collect what QEMU's streams say of its devices, as the plugin keeps it.

    python -m tests.peer.collect_descriptions [--qemu PROGRAM]... [--into FOLDER]

Boots a QEMU under emulation with one set of devices after the other, saves each guest before
its first instruction and again when it has run, and takes the description at the end of each
stream. Of all descriptions of one device those with the same fields become one, with the
sub-sections of any of them. What this QEMU does not have is left out. Written is
``qemu-VERSION.json.xz`` into the plugin's folder; see docs/formats/qemu.md.
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.peer.qemu import COUNTER, Qemu, RefusedError, firmware, numbers
from xsave import ReadOptions, Record
from xsave.testing import MemorySource
from xsave_plugins.qemu_device.formats import QemuFormat
from xsave_plugins.qemu_device.savevm import OWN, walk_devices
from xsave_plugins.qemu_device.shape import Field, Shape, merge, to_data, with_counters

FOLDER = Path(__file__).parents[2] / "plugins" / "xsave_plugins" / "qemu_device" / "descriptions"

# As Xen's toolstack starts it for an HVM guest, but for what only Xen has.
XEN_LIKE = "-device piix3-usb-uhci -device usb-tablet -device e1000 -vga"
PROGRAMS = ("qemu-system-x86_64", "qemu-system-i386")  # Xen starts the latter
NO_HOTPLUG = "-global PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off"
PCI = ("virtio-blk-pci,drive=d", "virtio-net-pci", "virtio-rng-pci", "virtio-balloon-pci",
       "virtio-serial-pci", "virtio-scsi-pci", "virtio-gpu-pci", "virtio-keyboard-pci",
       "lsi53c895a", "megasas", "ahci", "rtl8139", "e1000", "e1000e",
       "vmxnet3", "pcnet", "ne2k_pci", "i82559er", "intel-hda", "AC97,audiodev=a",
       "ES1370,audiodev=a", "qemu-xhci", "usb-ehci", "ich9-usb-uhci1", "nec-usb-xhci", "edu",
       "pci-bridge,chassis_nr=1", "pvpanic-pci", "pci-serial", "sdhci-pci")  # fmt: skip
ISA = ("isa-parallel,chardev=n", "sb16,audiodev=a", "cs4231a,audiodev=a", "adlib,audiodev=a",
       "gus,audiodev=a", "pvpanic", "ne2k_isa", "isa-ide")  # fmt: skip
USB = ("usb-tablet", "usb-mouse", "usb-kbd", "usb-hub", "usb-storage,drive=d", "usb-serial",
       "usb-net", "usb-wacom-tablet", "usb-audio,audiodev=a", "usb-ccid")  # fmt: skip
NEED = {"drive=d": "-drive if=none,id=d,file=DISK,format=raw,readonly=on",
        "audiodev=a": "-audiodev none,id=a", "chardev=n": "-chardev null,id=n"}  # fmt: skip


def machines() -> Iterator[str]:
    """Arguments, without the firmware."""
    for machine in ("pc", "pc-i440fx-2.11", "pc-i440fx-3.1", "pc-i440fx-4.2", "q35"):
        yield f"-machine {machine} -m 32 {XEN_LIKE} std"
        yield f"-machine {machine} -m 32 {XEN_LIKE} std {NO_HOTPLUG}"
    for vga in ("cirrus", "qxl", "vmware", "none"):
        yield f"-machine pc -m 32 {XEN_LIKE} {vga}"
    for cpu in ("qemu32", "max", "Nehalem", "EPYC"):
        yield f"-machine pc -m 32 -vga none -cpu {cpu} -smp 2"
    yield "-machine pc,hpet=off,usb=on,vmport=off,smm=off -m 32 -vga std"
    yield "-machine pc -m 32,slots=2,maxmem=1G -vga none"
    disks = "-drive if=ide,file=DISK,format=raw,snapshot=on -drive if=ide,media=cdrom"
    yield f"-machine pc -m 32 -vga none {disks} -drive if=floppy,file=DISK,format=raw,readonly=on"
    yield f"-machine q35 -m 32 -vga none {disks}"
    yield "-machine isapc -m 16 -cpu 486 -vga std"
    for device in PCI:
        yield with_needs(f"-machine pc -m 32 -vga none -device {device}")
    for device in ("pcie-root-port", "ioh3420", "intel-iommu", "i82801b11-bridge", "ich9-ahci"):
        yield f"-machine q35 -m 32 -vga none -device {device}"
    for device in ISA:
        yield with_needs(f"-machine pc -m 32 -vga none -device {device}")
    for device in USB:
        yield with_needs(f"-machine pc -m 32 -vga none -device qemu-xhci -device {device}")


def with_needs(arguments: str) -> str:
    return " ".join([arguments, *(more for need, more in NEED.items() if need in arguments)])


class Collected:
    def __init__(self) -> None:
        self.version = ""
        self.machines: set[str] = set()
        self.devices: dict[tuple[str, int], list[Shape]] = {}

    def add(self, stream: bytes) -> None:
        reader = QemuFormat().reader(MemorySource(stream), ReadOptions())
        self.machines.add(str(reader.info.details["machine"]))
        *_, devices = reader
        assert isinstance(devices, Record)
        for section in walk_devices(bytes(devices.body)).sections:
            if OWN not in section.shapes:
                print(f"     {section.name} does not fit its description", file=sys.stderr)
                continue
            values = section.decode(bytes(devices.body), OWN)
            shape = with_counters(section.shapes[OWN], values)
            self._merge(self.devices.setdefault((section.name, section.version_id), []), shape)

    @staticmethod
    def _merge(known: list[Shape], shape: Shape) -> None:
        for index, one in enumerate(known):
            if (merged := merge(one, shape)) is not None:
                known[index] = merged
                return
        known.append(shape)

    def of_xen(self) -> dict[tuple[str, int], list[Shape]]:
        """The one device that no QEMU has without Xen, put together by hand: a PCI device, whose
        own state is its flags (QEMU hw/i386/xen/xen_platform.c)."""
        bridge = self.devices["I440FX", 3][0].fields[0]
        return {("platform", 4): [Shape((bridge, Field("flags", "uint8", 1)))]}

    def text(self) -> bytes:
        known = {**self.devices, **self.of_xen()}
        devices = [
            [name, version, [to_data(one) for one in shapes]]
            for (name, version), shapes in sorted(known.items())
        ]
        told = {"qemu": self.version, "machines": sorted(self.machines), "devices": devices}
        return json.dumps(told, separators=(",", ":")).encode()


def streams(program: str, arguments: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """QEMU's version, and the stream of a guest that has not run; then of one that has."""
    for boot in ("-S", "", "-S -bios FIRMWARE"):
        given = f"{arguments} {boot}".replace("DISK", str(folder / "disk"))
        given = given.replace("FIRMWARE", str(folder / "firmware"))
        if not boot and "if=floppy" not in given and "if=ide" not in given:
            given += f" -drive if=floppy,file={folder / 'disk'},format=raw,readonly=on"
        with Qemu(program, *given.split()) as qemu:
            if not boot:
                numbers(qemu.serial, 20)
            stream = folder / "stream"
            qemu.migrate(f"cat > {stream}")
            yield qemu.version, stream.read_bytes()
            qemu.quit()


def collect(programs: Sequence[str], sets: Sequence[str]) -> Collected:
    collected = Collected()
    for program in programs:
        collect_from(program, sets, collected)
    return collected


def collect_from(program: str, sets: Sequence[str], collected: Collected) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        boot_sector = COUNTER.ljust(510, b"\0") + b"\x55\xaa"
        (folder / "disk").write_bytes(boot_sector.ljust(1440 << 10, b"\0"))
        (folder / "firmware").write_bytes(firmware())
        for arguments in sets:
            print(f"{len(collected.devices):4} devices; {arguments}", file=sys.stderr, flush=True)
            if not starts(program, arguments.replace("DISK", str(folder / "disk"))):
                print("     this QEMU has it not", file=sys.stderr)
                continue
            try:
                for version, stream in streams(program, arguments, folder):
                    assert collected.version in {"", version}, "one version at a time"
                    collected.version = version
                    collected.add(stream)
            except RefusedError as error:  # a device that cannot be saved
                print(f"     {error}", file=sys.stderr)


def starts(program: str, arguments: str) -> bool:
    done = subprocess.run(
        [program, "-accel", "tcg", "-display", "none", "-nodefaults", "-S", "-monitor", "stdio",
         *arguments.split()],
        input=b"quit\n", capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--qemu", action="append", metavar="PROGRAM",
        help="of one version; may be given again (default: qemu-system-x86_64, qemu-system-i386)",
    )  # fmt: skip
    parser.add_argument("--into", type=Path, default=FOLDER, metavar="FOLDER")
    given = parser.parse_args()
    collected = collect(given.qemu or PROGRAMS, list(machines()))
    packed = lzma.compress(collected.text(), preset=9 | lzma.PRESET_EXTREME)
    into = given.into / f"qemu-{collected.version}.json.xz"
    into.write_bytes(packed)
    print(f"{into}: {len(collected.devices)} devices, {len(packed)} bytes")


if __name__ == "__main__":
    main()
