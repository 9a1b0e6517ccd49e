"""What PV and HVM guests share: the ``x86`` facet."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xsave import XsaveError

from .state_page import Word

if TYPE_CHECKING:
    from .guest import Guest

LEAF = struct.Struct("<6I")
MSR = struct.Struct("<IIQ")
NO_SUBLEAF = 0xFFFFFFFF
KHZ = 2_595_104
PLATFORM_INFO, ARCH_CAPABILITIES = 0xCE, 0x10A
FAULTING = 1 << 31  # of PLATFORM_INFO: CPUID can be made to fault

MAX_BASIC, MAX_EXTENDED = 0xD, 0x80000021
WITH_SUBLEAVES = {4: 1, 7: 1, 0xB: 1, 0xD: 3}
SIGNATURE = 0x00A60F12

# Where feature bits are.
FEATURES = {
    (1, 0): ("ecx", "edx"), (7, 0): ("ebx", "ecx", "edx"), (0xD, 1): ("eax",),
    (0x80000001, 0): ("ecx", "edx"), (0x80000008, 0): ("ebx",),
}  # fmt: skip
# What older processors do not have: FMA and F16C; BMI1, AVX2, BMI2, ADX and SMAP.
OLDER_LACKS = {1: (0, 0, 1 << 12 | 1 << 29, 0), 7: (0, 1 << 3 | 1 << 5 | 1 << 8 | 3 << 19, 0, 0)}

_VENDOR = struct.unpack("<3I", b"AuthenticAMD")
_BRAND = struct.unpack("<12I", b"Simulated processor of an xsave host".ljust(48, b"\0"))


class X86State:
    """A :class:`xsave.X86Facet`."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._tsc = (0, KHZ, 0, 1)  # nanoseconds: beside those that the guest counts
        self._cpuid, self._msrs = policies(guest.kind, guest.host.lacks.cpu)

    def tsc_info(self) -> tuple[int, int, int, int]:
        mode, khz, nsec, incarnation = self._tsc
        return mode, khz, nsec + self._run_ns(), incarnation

    def set_tsc_info(self, mode: int, khz: int, nsec: int, incarnation: int) -> None:
        if mode > 3:
            raise XsaveError(f"TSC mode {mode}: expected 0 to 3")
        self._tsc = mode, khz, nsec - self._run_ns(), incarnation

    def cpuid_policy(self) -> bytes:
        return self._cpuid

    def set_cpuid_policy(self, leaves: bytes) -> None:
        if not leaves or len(leaves) % LEAF.size:
            raise XsaveError(
                f"CPUID policy: expected leaves of {LEAF.size} bytes, got {len(leaves)} bytes"
            )
        if self._guest.host.lacks.cpu != "same":
            self._check_features(leaves)
        self._cpuid = bytes(leaves)

    def msr_policy(self) -> bytes:
        return self._msrs

    def set_msr_policy(self, entries: bytes) -> None:
        if not entries or len(entries) % MSR.size:
            raise XsaveError(
                f"MSR policy: expected entries of {MSR.size} bytes, got {len(entries)} bytes"
            )
        self._msrs = bytes(entries)

    def _check_features(self, leaves: bytes) -> None:
        """A host of an older kind takes no guest that was told of more."""
        host = self._guest.host
        ours = _features(policies(self._guest.kind, host.lacks.cpu)[0])
        for word, bits in _features(leaves).items():
            if extra := bits & ~ours.get(word, 0):
                leaf, subleaf, register = word
                raise XsaveError(
                    f"CPUID policy: the processors of host {host.name} do not have bits "
                    f"{extra:#x} of {register} of leaf {leaf:#x}.{subleaf}"
                )

    def _run_ns(self) -> int:
        with self._guest.lock:
            state = self._guest.state
            return 0 if state is None else state[Word.RUN_NS]


def policies(kind: str, cpu: str) -> tuple[bytes, bytes]:
    """CPUID and MSR policy that guests of this kind get on processors of that kind."""
    leaves = b"".join(LEAF.pack(*_without(leaf, cpu)) for leaf in _leaves(kind))
    msrs = MSR.pack(PLATFORM_INFO, 0, 0 if kind == "pv" else FAULTING)
    return leaves, msrs + MSR.pack(ARCH_CAPABILITIES, 0, 0)


def _without(leaf: tuple[int, ...], cpu: str) -> tuple[int, ...]:
    number, subleaf, *registers = leaf
    lacking = OLDER_LACKS.get(number, (0, 0, 0, 0)) if cpu == "older" else (0, 0, 0, 0)
    return number, subleaf, *(r & ~bits for r, bits in zip(registers, lacking, strict=True))


def _features(leaves: bytes) -> dict[tuple[int, int, str], int]:
    """Words of feature bits, by leaf, subleaf and register."""
    return {
        (leaf, subleaf & 0xFFFF if subleaf != NO_SUBLEAF else 0, register): value
        for leaf, subleaf, *values in LEAF.iter_unpack(leaves)
        for register, value in zip(("eax", "ebx", "ecx", "edx"), values, strict=True)
        if register in FEATURES.get((leaf, 0 if subleaf == NO_SUBLEAF else subleaf), ())
    }


def _leaves(kind: str) -> Iterator[tuple[int, ...]]:
    """Every leaf of every range, zeroes included, as Xen lists them."""
    is_pv = kind == "pv"
    known = {
        (0, 0): (MAX_BASIC, _VENDOR[0], _VENDOR[2], _VENDOR[1]),
        (1, 0): (SIGNATURE, 0x20800, 0xF6D83203, 0x1FC9C3F5 if is_pv else 0x1FCBFBFD),
        (7, 0): (0, 0x18803A9 & ~(0x80 if is_pv else 0), 0x200 if is_pv else 0x204, 0),
        (0xD, 0): (7, 0, 0x340, 0),
        (0xD, 1): (5, 0, 0, 0),
        (0xD, 2): (0x100, 0x240, 0, 0),
        (0x80000000, 0): (MAX_EXTENDED, _VENDOR[0], _VENDOR[2], _VENDOR[1]),
        (0x80000001, 0): (SIGNATURE, 0, 0x63, 0xE9D1CBF5 if is_pv else 0xE5D3FBFD),
        (0x80000008, 0): (0x3028, 0, 0x1001, 0),
        (0x80000021, 0): (4, 0, 0, 0),
        **{(0x80000002 + i, 0): _BRAND[4 * i : 4 * i + 4] for i in range(3)},
    }
    ranges = (
        range(MAX_BASIC + 1), (0x40000000,), (0x40000100,), range(0x80000000, MAX_EXTENDED + 1),
    )  # fmt: skip
    for leaf in (leaf for one in ranges for leaf in one):
        for subleaf in range(WITH_SUBLEAVES.get(leaf, 1)):
            shown = subleaf if leaf in WITH_SUBLEAVES else NO_SUBLEAF
            yield leaf, shown, *known.get((leaf, subleaf), (0, 0, 0, 0))
