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

_VENDOR = struct.unpack("<3I", b"AuthenticAMD")
_BRAND = struct.unpack("<12I", b"Simulated processor of an xsave host".ljust(48, b"\0"))


class X86State:
    """A :class:`xsave.X86Facet`."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._tsc = (0, KHZ, 0, 1)  # nanoseconds: beside those that the guest counts
        self._cpuid = b"".join(LEAF.pack(*leaf) for leaf in _leaves(guest.kind))
        self._msrs = MSR.pack(PLATFORM_INFO, 0, 0 if guest.kind == "pv" else FAULTING)
        self._msrs += MSR.pack(ARCH_CAPABILITIES, 0, 0)

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
        self._cpuid = bytes(leaves)

    def msr_policy(self) -> bytes:
        return self._msrs

    def set_msr_policy(self, entries: bytes) -> None:
        if not entries or len(entries) % MSR.size:
            raise XsaveError(
                f"MSR policy: expected entries of {MSR.size} bytes, got {len(entries)} bytes"
            )
        self._msrs = bytes(entries)

    def _run_ns(self) -> int:
        with self._guest.lock:
            state = self._guest.state
            return 0 if state is None else state[Word.RUN_NS]


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
