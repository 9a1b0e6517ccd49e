"""The system's ssh, as a channel over its standard input and output."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

from xsave import Buffer, TryAgainError, UsageError

from .descriptors import DescriptorChannel

END_S = 10.0  # for ssh to end by itself, once nothing more is said
# Nobody types here, and nothing but the conversation goes over it.
# Ctrl-C is for xsave, which then tells the other end what becomes of the guest; where it is
# ignored before, ssh leaves it so. A process group of its own would keep it from asking for a
# passphrase.
WITHOUT_CTRL_C = ("/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh")
ARGUMENTS = ("-T", "-e", "none", "-o", "ClearAllForwardings=yes")


def find_client() -> str | None:
    """``XSAVE_SSH``, or else the first ssh of the path."""
    return shutil.which(os.environ.get("XSAVE_SSH") or "ssh")


def start(place: str, command: str, port: str, peer: str) -> SshChannel:
    """Run a command there. ssh asks and complains at the terminal, as it always does."""
    program = find_client()
    if program is None:
        wanted = os.environ.get("XSAVE_SSH") or "ssh"
        raise UsageError(f"{peer}: there is no {wanted}: install the OpenSSH client")
    with_port = ("-p", port) if port else ()
    try:
        process = subprocess.Popen(
            [*WITHOUT_CTRL_C, program, *ARGUMENTS, *with_port, "--", place, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    except OSError as error:
        raise TryAgainError(f"{peer}: cannot run {program}: {error.strerror}") from error
    return SshChannel(process, peer)


class SshChannel(DescriptorChannel):
    """Takes the process over; when the channel is closed, it ends."""

    def __init__(self, process: subprocess.Popen[bytes], peer: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        with process.stdin, process.stdout:  # the channel has copies of its own
            incoming, outgoing = process.stdout.fileno(), process.stdin.fileno()
            super().__init__(incoming, outgoing, peer=peer, on_close=self._end)

    def write_parts(self, parts: Sequence[Buffer]) -> None:
        try:
            super().write_parts(parts)
        except BrokenPipeError as error:
            raise self._has_ended() or error from error

    def read_into(self, buffer: memoryview) -> int:
        got = super().read_into(buffer)
        if not got and (error := self._has_ended()) is not None:
            raise error
        return got

    def _has_ended(self) -> OSError | None:
        """What ssh itself said stands on standard error already."""
        if (code := self._ended()) is None:
            return None
        return ConnectionResetError(errno.ECONNRESET, f"ssh has ended with exit code {code}")

    def _ended(self) -> int | None:
        """ssh ends after its output does."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_S)
        return None

    def _end(self) -> None:
        if self._ended() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
