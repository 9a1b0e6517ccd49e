"""The device model of a simulated HVM guest: a state that a real one saved once."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from xsave import XsaveError

if TYPE_CHECKING:
    from .guest import Guest

UPSTREAM = 2
MAGIC = b"QEVM"


class DeviceModel:
    """A :class:`xsave.DeviceModelFacet`. ``device_model.txt`` tells where the state of a new
    guest comes from."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._emulator = UPSTREAM
        self._state = self._xenstore = b""

    def boot(self) -> None:
        self._state = (files(__package__) / "device_model.qevm").read_bytes()

    @property
    def emulator(self) -> int:
        return self._emulator

    def state(self) -> bytes:
        """:raises XsaveError: the guest runs, so its devices change."""
        if self._guest.is_running:
            raise XsaveError(f"{self._guest.name}: its device model has not stopped")
        return self._state

    def load(self, emulator: int, state: bytes) -> None:
        if not bytes(state[:4]) == MAGIC:
            raise XsaveError(f"{self._guest.name}: its device model knows only {MAGIC!r} states")
        self._emulator, self._state = emulator, bytes(state)

    def xenstore_data(self) -> bytes:
        """None of a new guest's, as with the device models of today."""
        return self._xenstore

    def load_xenstore_data(self, emulator: int, data: bytes) -> None:
        if data and not data.endswith(b"\0"):
            raise XsaveError(f"{self._guest.name}: xenstore data that does not end with a NUL")
        self._emulator, self._xenstore = emulator, bytes(data)

    def check_runnable(self) -> None:
        """A guest restored without a device model has none: it was a PVH guest, or something
        else provides one."""
        if not self._state:
            self._guest.facets.pop("device_model", None)
            self._guest.kind = "pvh"
