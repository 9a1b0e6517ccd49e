"""Formats that are known by sight. Each tells by what, and its summary why it is not read."""

from __future__ import annotations

import struct

from xsave import (
    ByteSink,
    ByteSource,
    Format,
    ImageInfo,
    Reader,
    ReadOptions,
    UsageError,
    WriteOptions,
    Writer,
)

_ELF = struct.Struct("<4sBBB9xHH")  # magic, class, data, version, type, machine
_ELF_32 = 1
_ELF_CORE = 4
_NR_PROGRAMS_AT = 44  # e_phnum


class _Seen(Format):
    """:cvar begins: one of these stands first.
    :cvar says: what it is that stands there.
    """

    readable = False
    writable = False
    begins: tuple[bytes, ...] = ()
    says = ""

    def sniff(self, head: bytes) -> bool:
        return head.startswith(self.begins)

    def explain(self, head: bytes) -> str:
        return self.says or super().explain(head)

    def reader(self, source: ByteSource, options: ReadOptions) -> Reader:
        raise UsageError(f"format {self.name} is known by sight, and not read")

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> Writer:
        raise UsageError(f"format {self.name} is known by sight, and not written")


class LibvirtQemu(_Seen):
    name = "libvirt-qemu"
    summary = "save file of libvirt's QEMU driver: a guest of KVM, not of Xen"
    begins = (b"LibvirtQemudSave", b"LibvirtQemudPart")

    def explain(self, head: bytes) -> str:
        state = "a finished save" if head.startswith(self.begins[0]) else "a save that did not end"
        return f"bytes 0-15 are {head[:16].decode()}: {state}"


class MigrationReceiver(_Seen):
    name = "xl-migrate-receiver"
    summary = "receiver's half of an xl migrate conversation: it holds no guest"
    begins = (b"xl migration receiver ready, send binary domain data.\n",)
    says = "it begins with what xl's receiver says first, and no image follows"

    def sniff(self, head: bytes) -> bool:
        rest = head.removeprefix(self.begins[0])
        return super().sniff(head) and not rest.startswith(b"Xen saved domain, xl format\n")


class HvmContext(_Seen):
    name = "hvm-context"
    summary = "hypervisor context of an HVM guest, bare: no guest without its memory"
    begins = (bytes.fromhex("01000000 18000000 86123854"),)
    says = "a save record HEADER of 24 bytes, then its magic 0x54381286"


class NarrowVmcore(_Seen):
    name = "vmcore-32"
    summary = "ELF core file of 32 bits: memory for debuggers"
    says = "a 32-bit ELF core with program headers: notes and memory"

    def sniff(self, head: bytes) -> bool:
        if len(head) < 64 or not head.startswith(b"\x7fELF"):
            return False
        _, kind, data, _, file_type, _ = _ELF.unpack_from(head)
        (nr_programs,) = struct.unpack_from("<H", head, _NR_PROGRAMS_AT)
        is_narrow = kind == _ELF_32 and data == 1
        return bool(is_narrow and file_type == _ELF_CORE and nr_programs >= 1)


class OldXenCore(_Seen):
    name = "xen-core-old"
    summary = "core file of Xen before it wrote ELF: a guest for debuggers of that time"
    begins = (bytes.fromhex("edeb0ff0"), bytes.fromhex("eeeb0ff0"))

    def explain(self, head: bytes) -> str:
        guest = "a PV guest" if head.startswith(self.begins[0]) else "an HVM guest"
        return f"bytes 0-3 are {int.from_bytes(head[:4], 'little'):#x}: {guest}"


class Xenstored(_Seen):
    name = "xenstored"
    summary = "state that xenstored hands over at its live update: no guest is in it"
    begins = (b"xenstore",)

    def sniff(self, head: bytes) -> bool:
        return super().sniff(head) and 1 <= int.from_bytes(head[8:12], "big") <= 2

    def explain(self, head: bytes) -> str:
        return f"bytes 0-7 are xenstore; version {int.from_bytes(head[8:12], 'big')} at 8"


FORMATS: tuple[Format, ...] = (
    LibvirtQemu(), MigrationReceiver(), HvmContext(),
    NarrowVmcore(), OldXenCore(), Xenstored(),
)  # fmt: skip
