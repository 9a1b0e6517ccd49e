"""What Xen keeps of a PVH or HVM guest beside its memory: the ``hvm`` facet, and where such
a guest has memory at all.

Layouts: docs/formats/hvm.md. Sizes of the save records are those of Xen 4.17.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from xsave import XsaveError

from .contents import numbers
from .state_page import Word

if TYPE_CHECKING:
    from xsave import Entries

    from .guest import Guest

NR_PARAMS = 39
MMIO_PFN, ABOVE_4G_PFN = 0xF0000, 0x100000  # memory goes on above 4 GiB
VGA_HOLE = (0xA0, 0xC0)
FIRMWARE = (0xFC000, 0xFC120)
SPECIAL = (0xFEFF8, 0xFF000)
IOREQ_SERVER = (0xFEFF0, 0xFEFF8)
STORE, IOREQ, BUFIOREQ, IDENT_PT, CONSOLE, ACPI_IOPORTS = 1, 5, 6, 12, 17, 19
PAGING, MONITOR, SHARING, IOREQ_SERVER_PFN, NR_IOREQ_SERVER, VM86_TSS = 27, 28, 29, 32, 33, 37
IDENT_PT_PFN = 0xFEFFE

DESCRIPTOR = struct.Struct("<HHI")
END, HEADER, CPU = 0, 1, 2
MAGIC = 0x54381286
# Typecode to the payload sizes that Xen 4.17 loads; None where its own rules decide.
SIZES: Mapping[int, range | tuple[int, ...] | None] = {
    END: (0,), HEADER: (24,), CPU: (1016, 1024, 1032), 3: (8,), 4: (400,), 5: range(33),
    6: (1024,), 7: (16,), 8: (8,), 9: (8,), 10: (56,), 11: range(25), 12: (1048,), 13: (8,),
    14: (240,), 15: range(33), 16: None, 17: range(217), 18: range(33), 19: (8,), 20: None,
}  # fmt: skip
PER_VCPU = frozenset({CPU, 5, 6, 14, 16, 17, 18, 19, 20})
CPU_RAX = DESCRIPTOR.size + 512  # from a save record's start

_U64 = struct.Struct("<Q")


def ram_pfns(memory: int, kind: str) -> Entries:
    """(n,) u64: where a new guest of so many bytes has memory, special pages included."""
    nr_pages = memory // 4096
    low = np.arange(min(nr_pages, MMIO_PFN), dtype=np.uint64)
    high = np.arange(ABOVE_4G_PFN, ABOVE_4G_PFN + nr_pages - len(low), dtype=np.uint64)
    special = [SPECIAL]
    if kind == "hvm":
        low = low[(low < VGA_HOLE[0]) | (low >= VGA_HOLE[1])]
        special = [FIRMWARE, IOREQ_SERVER, SPECIAL]
    return np.concatenate([low, *(np.arange(*one, dtype=np.uint64) for one in special), high])


def ordinary_runs(memory: int) -> tuple[int, int, int]:
    """First pfn of ordinary memory below 4 GiB, the end of it there, and the end of all; the
    workload keeps below 4 GiB."""
    nr_pages = memory // 4096
    end = min(nr_pages, MMIO_PFN)
    return 0x100, end, end if nr_pages <= MMIO_PFN else ABOVE_4G_PFN + nr_pages - MMIO_PFN


class HvmState:
    """A :class:`xsave.HvmFacet`."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._params: dict[int, int] = {}
        self._context = b""

    def boot(self, seed: int, online: int) -> None:
        is_hvm = self._guest.kind == "hvm"
        self._params = {
            STORE: 0xFEFFC, IOREQ: 0xFEFFD, BUFIOREQ: 0xFEFFB, PAGING: 0xFEFF8,
            MONITOR: 0xFEFF9, SHARING: 0xFEFFA, CONSOLE: 0xFEFFF, IDENT_PT: IDENT_PT_PFN << 12,
        }  # fmt: skip
        if is_hvm:
            self._params |= {
                VM86_TSS: 0x180 << 32 | FIRMWARE[0] << 12 | 0x100280, ACPI_IOPORTS: 1,
                IOREQ_SERVER_PFN: IOREQ_SERVER[0],
                NR_IOREQ_SERVER: IOREQ_SERVER[1] - IOREQ_SERVER[0],
            }  # fmt: skip
        # The table that maps every address to itself, for processors that need paging.
        identity = np.arange(1024, dtype=np.uint32) << np.uint32(22) | np.uint32(0xE7)
        self._guest.row(IDENT_PT_PFN)[:] = identity.view(np.uint64)
        made = _platform(seed, self._guest.nr_vcpus, online, is_hvm=is_hvm)
        self._context = b"".join(
            DESCRIPTOR.pack(typecode, instance, len(payload)) + payload
            for typecode, instance, payload in made
        )

    def params(self) -> Mapping[int, int]:
        return {index: value for index, value in self._params.items() if value}

    def set_param(self, index: int, value: int) -> None:
        if not 0 <= index < NR_PARAMS:
            raise XsaveError(f"HVM parameter {index}: expected 0 to {NR_PARAMS - 1}")
        if not 0 <= value < 1 << 64:
            raise XsaveError(f"HVM parameter {index}: expected 64 bits, got {value:#x}")
        self._params[index] = value

    def context(self) -> bytes:
        """A running guest's registers change: rax of vcpu 0 shows how often it ran."""
        guest = self._guest
        with guest.lock:
            state = guest.state
            if state is None:
                return self._context
            counter = state[Word.COUNTER]
        for typecode, instance, start, _payload in _save_records(self._context):
            if (typecode, instance) == (CPU, 0):
                at = start + CPU_RAX
                return self._context[:at] + _U64.pack(counter) + self._context[at + 8 :]
        return self._context

    def set_context(self, records: bytes) -> None:
        """:raises XsaveError: a hypervisor would not load them; says which one and why."""
        records = bytes(records)
        self._context_faults(records)
        self._context = records

    def nr_vcpus(self) -> int:
        saved = _save_records(self._context)
        return 1 + max(instance for typecode, instance, _, _ in saved if typecode in PER_VCPU)

    def check_runnable(self) -> None:
        if not any(typecode == CPU for typecode, *_ in _save_records(self._context)):
            raise XsaveError(f"{self._guest.name} has no vcpus yet: no context was loaded")

    def _context_faults(self, records: bytes) -> None:
        typecode = None
        for number, (typecode, instance, start, payload) in enumerate(_save_records(records)):
            where = f"context: save record {typecode} at {start:#x}"
            if (number == 0) != (typecode == HEADER):
                raise XsaveError(f"{where}: the header comes first, and once")
            if typecode not in SIZES:
                raise XsaveError(f"{where}: no such type")
            sizes = SIZES[typecode]
            if sizes is not None and len(payload) not in sizes:
                raise XsaveError(f"{where}: wrong length {len(payload)}")
            if typecode == HEADER and _U64.unpack_from(payload)[0] != 1 << 32 | MAGIC:
                raise XsaveError(f"{where}: wrong magic or version")
            if typecode in PER_VCPU and instance >= self._guest.nr_vcpus:
                raise XsaveError(
                    f"{where}: vcpu {instance}, but there are only {self._guest.nr_vcpus}"
                )
        if typecode != END:
            raise XsaveError("context: expected END as its last save record")


def _save_records(records: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Typecode, instance, where it starts, payload; up to END."""
    offset = 0
    while offset < len(records):
        if len(records) - offset < DESCRIPTOR.size:
            raise XsaveError(f"context: cut at {offset:#x}")
        typecode, instance, length = DESCRIPTOR.unpack_from(records, offset)
        payload = records[offset + DESCRIPTOR.size : offset + DESCRIPTOR.size + length]
        if len(payload) != length:
            raise XsaveError(f"context: cut at {offset:#x}")
        yield typecode, instance, offset, payload
        if typecode == END:
            return
        offset += DESCRIPTOR.size + length


# -- a new guest's devices and processors ----------------------------------------------


def _platform(
    seed: int, nr_vcpus: int, online: int, *, is_hvm: bool
) -> Iterator[tuple[int, int, bytes]]:
    """In ascending order of typecode and vcpu, as Xen writes them."""
    vcpus = range(nr_vcpus)
    yield HEADER, 0, struct.pack("<IIQII", MAGIC, 1, (1 << 64) - 1, 0x00A60F12, 2_595_104)
    for vcpu in range(online):
        yield CPU, vcpu, _cpu(seed, vcpu)
    if is_hvm:
        yield 3, 0, bytes.fromhex("00b8000800402400")
        yield 3, 1, bytes.fromhex("008e007000000c00")
        yield 4, 0, struct.pack("<QII48Q", 0xFEC00000, 0x11, 0, *[1 << 16] * 48)
    for vcpu in vcpus:
        base = 0xFEE00000 | 1 << 11 | (vcpu == 0) << 8
        yield 5, vcpu, struct.pack("<QIIQ", base, 0 if vcpu < online else 2, 2, 0)
    for vcpu in vcpus:
        yield 6, vcpu, _lapic_registers(vcpu)
    yield 7, 0, bytes(16)
    yield 8, 0, _U64.pack(int(is_hvm))
    yield 9, 0, bytes.fromhex("050a0b0500000000" if is_hvm else "0000000000000000")
    if is_hvm:
        channels = [struct.pack("<IHBBBBBBBBBB", 65536, 0, 0, 0, 0, 3, 3, 0, 3, m, 0, g)
                    for m, g in ((2, 1), (255, 1), (255, 0))]  # fmt: skip
        yield 10, 0, b"".join(channels) + bytes(8)
        clock = bytes.fromhex("12001600180000221126260210800000")
        yield 11, 0, clock + struct.pack("<q", 0)
        hpet = struct.pack("<Q", 0x00F424008086A201) + bytes(1040)
        yield 12, 0, hpet
        yield 13, 0, struct.pack("<IHH", int(numbers(seed, 99, 1)[0]) & 0x7FFFFFFF, 0, 0)
    for vcpu in vcpus:
        yield 14, vcpu, _mtrr(is_hvm=is_hvm)
    for vcpu in vcpus:
        yield 18, vcpu, struct.pack("<4Q", 2, 0, 0, 0)
    for vcpu in vcpus:
        yield 19, vcpu, _U64.pack(0)
    yield END, 0, b""


def _cpu(seed: int, vcpu: int) -> bytes:
    """A processor in 64-bit mode, in its kernel."""
    cpu = bytearray(1032)
    struct.pack_into("<H22xII", cpu, 0, 0x37F, 0x1F80, 0xFFFF)
    cpu[160:416] = numbers(seed ^ 7, vcpu * 32, 32).tobytes()
    general = numbers(seed ^ 8, vcpu * 16, 16) >> np.uint64(1)
    cpu[512:640] = general.tobytes()
    struct.pack_into("<QQ", cpu, 640, 0xFFFFFFFF81192101, 0x246)
    struct.pack_into("<4Q", cpu, 656, 0x80050033, 0x562, 0x150E000, 0x6F0)
    struct.pack_into("<QQ", cpu, 720, 0xFFFF0FF0, 0x400)  # dr6, dr7
    struct.pack_into("<8I", cpu, 736, 0x10, 0, 0, 0, 0, 0x18, 0x40, 0)
    struct.pack_into("<8I", cpu, 768, 0xFFFFFFFF, 0, 0, 0, 0, 0xFFFFFFFF, 0x4087, 0)
    struct.pack_into("<II", cpu, 800, 0xFFF, 0x7F)
    struct.pack_into("<Q", cpu, 840, 0xFFFF888007A00000 + (vcpu << 16))  # gs
    struct.pack_into("<Q", cpu, 856, 0xFFFFFE0000003000)  # tr
    struct.pack_into("<QQ", cpu, 872, 0xFFFFFE0000000000, 0xFFFFFE0000001000)
    struct.pack_into("<8I", cpu, 888, 0xA9B, 0, 0, 0, 0, 0xC93, 0x8B, 0)
    struct.pack_into("<3Q", cpu, 920, 0x10, 0, 0xFFFFFFFF81C018B0)
    struct.pack_into("<4Q", cpu, 960, 0xFFFFFFFF81C00080, 0x23001000000000, 0xFFFFFFFF81C01970,
                     0x257FD5)  # fmt: skip
    struct.pack_into("<QQQ", cpu, 992, 0xD01, vcpu, 0x12F46FAD26 + seed % 10**9)
    struct.pack_into("<II", cpu, 1024, 1, 0)
    return bytes(cpu)


def _lapic_registers(vcpu: int) -> bytes:
    page = bytearray(1024)
    for offset, value in (
        (0x20, vcpu << 24), (0x30, 0x50014), (0xE0, 0xFFFFFFFF), (0xF0, 0x1FF), (0x2F0, 0x10000),
        (0x320, 0x10000), (0x330, 0x10000), (0x340, 0x10000), (0x350, 0x10700), (0x360, 0x400),
        (0x370, 0x10000),
    ):  # fmt: skip
        struct.pack_into("<I", page, offset, value)
    return bytes(page)


def _mtrr(*, is_hvm: bool) -> bytes:
    pat, cap = 0x0007040600070406, 0x508
    if not is_hvm:
        return struct.pack("<Q216xQQ", pat, cap, 0x806)
    variable = [0xF0000000, 0xFFFFF8000800] + [0] * 14
    fixed = [0x0606060606060606] * 2 + [0x0101010101010101] + [0x0606060606060606] * 8
    return struct.pack("<Q16Q11QQQ", pat, *variable, *fixed, cap, 0xC06)
