"""The QEMU of an HVM guest, spoken to through the socket that libxl made for it.

Source: QEMU's QMP specification and its Xen commands; libxl's paths.
"""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from xsave import XsaveError

UPSTREAM = 2  # as in EMULATOR_CONTEXT
SOCKET = "/var/run/xen/qmp-libxl-{domid}"
STATE_FOLDER = Path("/var/lib/xen")  # where QEMU may write
ANSWER_S = 60.0
MAX_ANSWER = 1 << 20
MAX_STATE = 256 << 20


class Qmp:
    """One conversation: a command, its answer.

    :param link: a connected stream socket.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._buffer = b""
        self._end = time.monotonic() + ANSWER_S
        if "QMP" not in self._line():
            raise XsaveError("the device model does not greet as QEMU does")
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """:raises XsaveError: QEMU refused, or does not answer."""
        self._end = time.monotonic() + ANSWER_S
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._link.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._line()
            if "error" in answer:
                raise XsaveError(f"the device model refused {command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = self._end - time.monotonic()
            if left <= 0 or len(self._buffer) > MAX_ANSWER:
                raise XsaveError(f"the device model has not answered within {ANSWER_S:.0f} s")
            self._link.settimeout(left)
            try:
                piece = self._link.recv(1 << 16)
            except TimeoutError:
                continue
            if not piece:
                raise XsaveError("the device model has closed the connection")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise XsaveError("the device model does not speak QMP")
        return found


class DeviceModel:
    """A :class:`xsave.DeviceModelFacet`, to be saved. QEMU is started by the toolstack, so
    nothing can be loaded into one here."""

    emulator = UPSTREAM

    def __init__(self, domid: int, path: str = "", *, stopped: bool = False) -> None:
        """:param stopped: whether somebody else may have stopped it."""
        self._path = path or SOCKET.format(domid=domid)
        self._domid = domid
        self._stopped = stopped

    @property
    def is_there(self) -> bool:
        return Path(self._path).is_socket()

    def stop(self) -> None:
        """Its devices come to rest."""
        with self._conversation() as qmp:
            qmp.ask("stop")
        self._stopped = True

    def go_on(self) -> None:
        if self._stopped:
            with self._conversation() as qmp:
                qmp.ask("cont")
            self._stopped = False

    def log_writes(self, on: bool) -> None:
        """What the device model itself writes to the guest's memory goes into the dirty log."""
        with self._conversation() as qmp:
            qmp.ask("xen-set-global-dirty-log", enable=on)

    def state(self) -> bytes:
        """:raises XsaveError: it runs, so its devices change."""
        with self._conversation() as qmp:
            if qmp.ask("query-status").get("running", True):
                raise XsaveError(f"domain {self._domid}: its device model has not stopped")
        with tempfile.TemporaryDirectory(prefix="xsave-qemu-", dir=STATE_FOLDER) as folder:
            file = Path(folder, "state")
            with self._conversation() as qmp:
                qmp.ask("xen-save-devices-state", filename=str(file), live=False)
            if (size := file.stat().st_size) > MAX_STATE:
                raise XsaveError(f"the device model's state has {size} bytes")
            return file.read_bytes()

    def load(self, emulator: int, state: bytes) -> None:
        raise XsaveError("a device model is started by the toolstack: restore with xl")

    def xenstore_data(self) -> bytes:
        """QEMU has kept nothing there since 2.5."""
        return b""

    def load_xenstore_data(self, emulator: int, data: bytes) -> None:
        raise XsaveError("a device model is started by the toolstack: restore with xl")

    @contextlib.contextmanager
    def _conversation(self) -> Any:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(ANSWER_S)
        try:
            link.connect(self._path)
            yield Qmp(link)
        except OSError as error:
            raise XsaveError(f"device model at {self._path}: {error.strerror or error}") from None
        finally:
            link.close()
