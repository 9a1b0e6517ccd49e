"""One connection between a client and the process that holds simulated hosts."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Sequence
from typing import Any

from xsave import Buffer, TryAgainError, UsageError

from .wire import HEAD, MAX_ANSWER, MAX_CALL, Message, WireError, decode, decode_head, encode

STALLED_S = 60.0  # a message that has begun goes on
PATIENCE_S = 300.0  # a client waits so long for an answer: a fingerprint of a large guest
MAX_PATH_BYTES = 107  # of a socket's name, Linux
_PARTS_AT_ONCE = 64
_LINGER_S, _LINGER_READS = 1.0, 64


class Connection:
    """:param patience_s: how long to wait for the beginning of a message; None for ever.
    :param max_cbor: bytes of CBOR in a message to us.

    Pages of a message are views of a buffer, valid until the next one is received.
    """

    def __init__(self, connected: socket.socket, patience_s: float | None, max_cbor: int) -> None:
        self._socket = connected
        self._patience_s = patience_s
        self._max_cbor = max_cbor
        self._arrays = bytearray()

    def send(self, message: Message) -> None:
        self._socket.settimeout(STALLED_S)
        _write(self._socket, encode(message))

    def receive(self) -> Message | None:
        """:returns: None where the other end closed between two messages.
        :raises WireError: what came is no message.
        :raises OSError: the connection broke, or stalled.
        """
        self._socket.settimeout(self._patience_s)
        head = bytearray(HEAD.size)
        if not self._fill(memoryview(head), at_end_ok=True):
            return None
        nr_cbor, nr_arrays = decode_head(head, self._max_cbor)
        self._socket.settimeout(STALLED_S)
        body = bytearray(nr_cbor)
        self._fill(memoryview(body))
        if len(self._arrays) < nr_arrays:
            self._arrays = bytearray(nr_arrays)
        beside = memoryview(self._arrays)[:nr_arrays]
        self._fill(beside)
        return decode(bytes(body), beside)

    def linger(self) -> None:
        """Before closing on somebody who may not have stopped talking: what we said last
        would be lost together with what was never read of theirs."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(_LINGER_S)
            for _ in range(_LINGER_READS):
                if not self._socket.recv(1 << 16):
                    return

    def close(self) -> None:
        """Harmless when it is closed; whoever waits in another thread is woken."""
        with contextlib.suppress(OSError):  # the other end closed first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _fill(self, view: memoryview, *, at_end_ok: bool = False) -> bool:
        done = 0
        while done < len(view):
            count = self._socket.recv_into(view[done:])
            if not count:
                if at_end_ok and not done:
                    return False
                raise WireError(f"cut: expected {len(view)} bytes, got {done}")
            done += count
        return True


def connect(path: str) -> Connection:
    """:raises TryAgainError: nobody serves hosts there now."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.connect(check_path(path))
    except OSError as error:
        made.close()
        raise TryAgainError(
            f"sim: no simulated hosts are served at {path}: {error.strerror}"
        ) from None
    return Connection(made, PATIENCE_S, MAX_ANSWER)


def listen(path: str) -> socket.socket:
    """A listening socket that only its owner can reach. One that was left behind by a process
    that is no more gives way.

    :raises UsageError: hosts are served there already, or nothing can be made there.
    """
    check_path(path)
    if os.path.lexists(path):
        _remove_left_behind(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # from the first moment on, mode 0600
    try:
        listener.bind(path)
        listener.listen(16)
    except OSError as error:
        listener.close()
        raise UsageError(f"{path}: no socket can be made here: {error.strerror}") from None
    finally:
        os.umask(mask)
    return listener


def accept(listener: socket.socket) -> Connection:
    """:raises OSError: no more: it was shut down."""
    return Connection(listener.accept()[0], None, MAX_CALL)


def check_path(path: str) -> str:
    if not path or "\0" in path or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise UsageError(
            f"sim: the name of a socket has 1 to {MAX_PATH_BYTES} bytes, got {len(path)}"
        )
    return path


def _remove_left_behind(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise UsageError(f"{path}: there is something else here, no socket")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)  # noqa: PTH108 - the module of paths is not needed for this
        return
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    finally:
        probe.close()
    raise UsageError(f"{path}: simulated hosts are served here already")


def _write(connected: socket.socket, parts: Sequence[Buffer]) -> None:
    """All of it, with few system calls."""
    waiting: list[Any] = [memoryview(part) for part in parts if len(part)]
    while waiting:
        count = connected.sendmsg(waiting[:_PARTS_AT_ONCE])
        while waiting and count >= len(waiting[0]):
            count -= len(waiting.pop(0))
        if count:
            waiting[0] = waiting[0][count:]
