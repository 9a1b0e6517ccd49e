"""What PV and HVM guests share: the ``x86`` facet."""

from __future__ import annotations

from .control import Control


class X86State:
    """A :class:`xsave.X86Facet`.

    :ivar leaves_given, msrs_given: whether a domain being built was told its policies.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self.leaves_given = self.msrs_given = False

    def tsc_info(self) -> tuple[int, int, int, int]:
        return self._control.tsc_info()

    def set_tsc_info(self, mode: int, khz: int, nsec: int, incarnation: int) -> None:
        self._control.set_tsc_info(mode, khz, nsec, incarnation)

    def cpuid_policy(self) -> bytes:
        return self._control.cpu_policy()[0]

    def set_cpuid_policy(self, leaves: bytes) -> None:
        self._control.set_cpu_policy(leaves, b"")
        self.leaves_given = True

    def msr_policy(self) -> bytes:
        return self._control.cpu_policy()[1]

    def set_msr_policy(self, entries: bytes) -> None:
        self._control.set_cpu_policy(b"", entries)
        self.msrs_given = True
