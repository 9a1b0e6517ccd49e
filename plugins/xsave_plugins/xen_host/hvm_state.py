"""What Xen keeps of an HVM or PVH guest beside its memory: the ``hvm`` facet."""

from __future__ import annotations

from collections.abc import Mapping

from . import abi
from .control import Control


class HvmState:
    """A :class:`xsave.HvmFacet`.

    :param ports: event channels for store and console of a domain being built; they belong
        to the host, and stand in no stream.
    """

    def __init__(self, control: Control, ports: tuple[int, int] | None = None) -> None:
        self._control = control
        self._ports = ports

    def params(self) -> Mapping[int, int]:
        found = {index: self._control.hvm_param(index) for index in abi.SAVED_PARAMS}
        return {index: value for index, value in found.items() if value}

    def set_param(self, index: int, value: int) -> None:
        self._control.set_hvm_param(index, value)

    def context(self) -> bytes:
        return self._control.hvm_context()

    def set_context(self, records: bytes) -> None:
        if self._ports is not None:
            store, console = self._ports
            self._control.set_hvm_param(abi.PARAM_STORE_EVTCHN, store)
            self._control.set_hvm_param(abi.PARAM_CONSOLE_EVTCHN, console)
        self._control.set_hvm_context(records)

    def store_and_console(self) -> tuple[int, int]:
        """gfns of the rings, 0 for none."""
        return (
            self._control.hvm_param(abi.PARAM_STORE_PFN),
            self._control.hvm_param(abi.PARAM_CONSOLE_PFN),
        )
