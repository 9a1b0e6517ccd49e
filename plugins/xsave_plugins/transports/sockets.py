"""Channels and listeners over stream sockets of any family."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from xsave import Buffer, Channel, TryAgainError

from .guard import Guard

IOV_MAX = 1024
TIMEVAL = struct.Struct("@ll")  # seconds and microseconds; zero for ever
BACKLOG = 64
FAMILIES = (socket.AF_INET, socket.AF_INET6)
# What a listener may meet that concerns the one who connects only.
PASSING = {errno.ECONNABORTED, errno.EINTR, errno.EPROTO}
FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
FULL_WAIT_S = 0.1


class SocketChannel:
    """A :class:`xsave.Channel`. Takes the socket over."""

    def __init__(self, sock: socket.socket, peer: str, identity: str = "") -> None:
        self.peer = peer
        self.identity = identity
        self._socket = sock
        # Shutting down wakes whoever waits in another thread, which closing does not.
        self._guard = Guard(lambda: shut_down(sock), lambda: let_go(sock))
        if sock.family in FAMILIES:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(None)

    def handshake(self, timeout_s: float) -> None:
        """There is none."""

    def set_timeout(self, timeout_s: float | None) -> None:
        # The kernel's own: Python's would ask it before each call whether the call can be made.
        whole_s, part_s = divmod(0 if timeout_s is None else max(timeout_s, 1e-6), 1)
        value = TIMEVAL.pack(int(whole_s), int(part_s * 1e6))
        with self._guard:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._socket.setsockopt(socket.SOL_SOCKET, option, value)

    def write_parts(self, parts: Sequence[Buffer]) -> None:
        views = [view for part in parts if (view := memoryview(part).cast("B"))]
        with self._guard, in_time():
            while views:
                written = self._socket.sendmsg(views[:IOV_MAX])
                while written:
                    if written < len(views[0]):
                        views[0] = views[0][written:]
                        break
                    written -= len(views.pop(0))

    def read_into(self, buffer: memoryview) -> int:
        with self._guard, in_time():
            return self._socket.recv_into(buffer)

    def close(self) -> None:
        self._guard.close()


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    try:
        yield
    except BlockingIOError as error:
        raise TimeoutError(errno.ETIMEDOUT, "nothing moved in time") from error


def shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was not connected any more
        sock.shutdown(socket.SHUT_RDWR)


def let_go(sock: socket.socket) -> None:
    """The other end learns of it even where another process holds the same socket."""
    shut_down(sock)
    sock.close()


class SocketListener:
    """A :class:`xsave.Listener`. Takes the socket over, which listens already.

    :param welcome: makes a channel of a socket that came, or refuses it with an OSError.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: str,
        welcome: Callable[[socket.socket], Channel],
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.address = address
        self._socket = sock
        self._welcome = welcome
        self._on_close = on_close
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._guard = Guard(lambda: os.eventfd_write(self._wake, 1), self._let_go)
        sock.setblocking(False)

    def accept(self, timeout_s: float | None = None) -> Channel:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._guard:
            while True:
                remaining_s = None if deadline is None else deadline - time.monotonic()
                if remaining_s is not None and remaining_s < 0:
                    raise TimeoutError("nobody came")
                self._wait(remaining_s)
                if (sock := self._next()) is None:
                    continue
                try:
                    return self._welcome(sock)
                except OSError:  # it has gone again, or is one whom nobody wants
                    sock.close()

    def close(self) -> None:
        self._guard.close()

    def _next(self) -> socket.socket | None:
        try:
            return self._socket.accept()[0]
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in FULL:  # of descriptors or memory, which passes
                time.sleep(FULL_WAIT_S)
            elif error.errno not in PASSING:
                raise
            return None

    def _wait(self, timeout_s: float | None) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        poll.poll(None if timeout_s is None else timeout_s * 1000)
        self._guard.check()

    def _let_go(self) -> None:
        self._socket.close()
        os.close(self._wake)
        if self._on_close is not None:
            self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def unreachable(address: str, error: OSError) -> TryAgainError:
    """Nobody answers there now."""
    return TryAgainError(f"cannot connect to {address}: {error.strerror or error}")
