"""A real QEMU under emulation, driven over its own control socket (QMP), and a guest for it.

Nothing here waits for a time to pass: QEMU connects to sockets that listen before it starts,
and everything else is an answer or a line that comes.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# So that a QEMU which does nothing any more is an error; no test passes by it.
PATIENCE_S = 120

# The whole system of a guest, as its firmware: it counts on the serial line, a number a line,
# fills one of 16 pages at 0x20000 with each number, and stops counting if the page of the
# number before is not as it was filled.
#
#        cli; cld; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000
#        mov dword [0x500], 0          # the number
# tick:  call page; mov eax, [0x500]; test eax, eax; jz fill
#        mov cx, 1024; repe scasd; jne bad
# fill:  inc dword [0x500]; call page; mov eax, [0x500]; mov cx, 1024; rep stosd
#        mov ebx, eax; mov cx, 8
# digit: rol ebx, 4; mov al, bl; and al, 15; add al, '0'; cmp al, '9'; jbe show; add al, 39
# show:  call say; loop digit; mov al, '\n'; call say; jmp tick
# bad:   mov al, '!'; call say; hlt; jmp bad
# say:   push ax; mov dx, 0x3fd
# wait:  in al, dx; test al, 0x20; jz wait; pop ax; mov dx, 0x3f8; out dx, al; ret
# page:  mov ax, 0x2000; mov es, ax; mov di, [0x500]; and di, 15; shl di, 12; ret
COUNTER = bytes.fromhex("""
    fafc31c08ed88ed0bc007066c706000500000000e85c0066a100056685c07408
    b9000466f3af753466ff060005e8430066a10005b9000466f3ab6689c3b90800
    66c1c30488d8240f04303c3976020427e81100e2ebb00ae80a00ebb8b021e803
    00f4ebf850bafd03eca82074fb58baf803eec3b800208ec08b3e000583e70fc1
    e70cc3
""")
_FIRMWARE_BYTES = 1 << 16
_RESET = bytes.fromhex("ea000000f0")  # jmp 0xf000:0, where the processor starts: 16 bytes below


def firmware(code: bytes = COUNTER) -> bytes:
    """An image for ``-bios`` that runs the code and nothing else."""
    return code.ljust(_FIRMWARE_BYTES - 16, b"\0") + _RESET.ljust(16, b"\0")


def find_qemu() -> Path | None:
    """The system emulator of x86 (Debian: qemu-system-x86)."""
    found = shutil.which("qemu-system-x86_64")
    return Path(found) if found else None


class RefusedError(Exception):
    """QEMU's own words, why it does not do what it was told to."""


class Qemu:
    """One process, which ends with the ``with`` that it is made in.

    :param arguments: beside those for control and the serial line, ``self.serial``.
    """

    def __init__(self, program: Path | str, *arguments: str) -> None:
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._ended = folder / "ended"  # where a command tells how it did
        os.mkfifo(self._ended)
        self._ends = os.open(self._ended, os.O_RDONLY | os.O_NONBLOCK)
        self._stack.callback(os.close, self._ends)
        with ExitStack() as listening:
            listeners = []
            for name in ("control", "serial"):
                listener = listening.enter_context(socket.socket(socket.AF_UNIX))
                listener.settimeout(PATIENCE_S)
                listener.bind(str(folder / name))
                listener.listen(1)
                listeners.append(listener)
            self._process = self._stack.enter_context(
                subprocess.Popen(
                    [
                        str(program), "-accel", "tcg", "-display", "none", "-nodefaults",
                        "-qmp", f"unix:{folder}/control", "-serial", f"unix:{folder}/serial",
                        *arguments,
                    ],
                    stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                )
            )  # fmt: skip
            self._stack.callback(self._process.kill)
            control, self.serial = (self._accept(one) for one in listeners)
        self._lines: Iterator[bytes] = self._stack.enter_context(control.makefile("rb"))
        self._control = control
        self.version = "{major}.{minor}".format(**self._read()["QMP"]["version"]["qemu"])
        self.execute("qmp_capabilities")

    def _accept(self, listener: socket.socket) -> socket.socket:
        try:
            connected = self._stack.enter_context(listener.accept()[0])
        except BaseException:
            self._process.kill()
            raise
        connected.settimeout(PATIENCE_S)
        return connected

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _read(self) -> dict[str, Any]:
        line = next(self._lines, b"")
        assert line, f"QEMU is gone: {self.errors()}"
        found: dict[str, Any] = json.loads(line)
        return found

    def execute(self, command: str, **arguments: Any) -> Any:
        """What QEMU answers to a command."""
        asked = {"execute": command, "arguments": arguments}
        self._control.sendall(json.dumps(asked).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise RefusedError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def migrate(self, shell: str, *, stopped: bool = True) -> None:
        """Give the guest's stream to a command's standard input, and stop it before, or let QEMU
        do so for the last of it."""
        if stopped:
            self.execute("stop")
        self._say_when()
        self.execute("migrate", uri=f"exec:{{ {shell}; }}; echo $? > {self._ended}")
        self._wait_for_migration()
        # QEMU is done when its last byte is in the pipe, and the command some time later
        assert select.select([self._ends], [], [], PATIENCE_S)[0], f"{shell} does not end"
        status = os.read(self._ends, 16)
        assert status == b"0\n", f"{shell}: exit status {status!r}"

    def load(self, shell: str) -> None:
        """Take a guest from a command's standard output, as one that was started with
        ``-incoming defer -S``; it stays stopped."""
        self._say_when()
        self.execute("migrate-incoming", uri=f"exec:{shell}")
        self._wait_for_migration()

    def _say_when(self) -> None:
        told = [{"capability": "events", "state": True}]
        self.execute("migrate-set-capabilities", capabilities=told)

    def _wait_for_migration(self) -> None:
        status = ""
        while status != "completed":
            found = self._read()
            if found.get("event") == "MIGRATION":
                status = found["data"]["status"]
            if status == "failed":
                raise RefusedError(f"migration failed: {self.execute('query-migrate')}")

    def quit(self) -> str:
        """End it. :returns: what it said about errors."""
        self.execute("quit")
        assert self._process.wait(PATIENCE_S) == 0
        return self.errors()

    def errors(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.read().decode()


def numbers(serial: socket.socket, nr_lines: int) -> bytes:
    """What a counter says, until it has said so many lines."""
    said = bytearray()
    while said.count(b"\n") < nr_lines:
        piece = serial.recv(4096)
        assert piece, "the guest is gone"
        said += piece
    return bytes(said)


def rest(serial: socket.socket) -> bytes:
    """What a counter said until its QEMU ended."""
    said = bytearray()
    while piece := serial.recv(4096):
        said += piece
    return bytes(said)


def counted(said: bytes) -> Sequence[int]:
    """The numbers of whole lines."""
    return [int(line, 16) for line in said.split(b"\n")[:-1]]
