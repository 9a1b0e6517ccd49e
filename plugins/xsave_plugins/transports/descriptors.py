"""Channels over a pair of descriptors: pipes, sockets that were inherited."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import threading
from collections.abc import Callable, Sequence
from typing import Self

from xsave import Buffer, UsageError

from .guard import Guard

IOV_MAX = 1024


class DescriptorChannel:
    """A :class:`xsave.Channel`. Waits for a descriptor before it is read or written, since
    closing a pipe would not wake who waits in it.

    :param on_close: called once, after both were closed.
    :raises UsageError: one is not open, or is no pipe or socket.
    """

    identity = ""

    def __init__(
        self, incoming: int, outgoing: int, *, peer: str, on_close: Callable[[], None] | None = None
    ) -> None:
        for fd in (incoming, outgoing):
            _check(fd, peer)
        self.peer = peer
        # Copies of them, so that nothing else that is opened later gets the same numbers.
        self._in, self._out = os.dup(incoming), os.dup(outgoing)
        self._before = [(fd, os.get_blocking(fd)) for fd in (self._in, self._out)]
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._guard = Guard(lambda: os.eventfd_write(self._wake, 1), self._let_go)
        self._on_close = on_close
        self._timeout_s: float | None = None
        for fd in (self._in, self._out):
            os.set_blocking(fd, False)

    def handshake(self, timeout_s: float) -> None:
        """There is none."""

    def set_timeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def write_parts(self, parts: Sequence[Buffer]) -> None:
        views = [view for part in parts if (view := memoryview(part).cast("B"))]
        with self._guard:
            while views:
                try:
                    written = os.writev(self._out, views[:IOV_MAX])
                except BlockingIOError:
                    self._wait(self._out, select.POLLOUT)
                    continue
                while written:
                    if written < len(views[0]):
                        views[0] = views[0][written:]
                        break
                    written -= len(views.pop(0))

    def read_into(self, buffer: memoryview) -> int:
        with self._guard:
            while True:
                try:
                    return os.readv(self._in, [buffer])
                except BlockingIOError:
                    self._wait(self._in, select.POLLIN)

    def close(self) -> None:
        self._guard.close()

    def _let_go(self) -> None:
        for fd, blocking in self._before:
            with contextlib.suppress(OSError):  # it is not ours alone
                os.set_blocking(fd, blocking)
        for fd in (self._in, self._out, self._wake):
            os.close(fd)
        if self._on_close is not None:
            self._on_close()

    def _wait(self, fd: int, event: int) -> None:
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self._wake, select.POLLIN)
        timeout_s = self._timeout_s
        if not poll.poll(None if timeout_s is None else timeout_s * 1000):
            raise TimeoutError(errno.ETIMEDOUT, "nothing moved in time")
        self._guard.check()


class OneListener:
    """A :class:`xsave.Listener` for the one channel there is."""

    def __init__(self, address: str, channel: DescriptorChannel) -> None:
        self.address = address
        self._channel: DescriptorChannel | None = channel
        self._changed = threading.Condition()
        self._closed = False

    def accept(self, timeout_s: float | None = None) -> DescriptorChannel:
        with self._changed:
            channel, self._channel = self._channel, None
            if channel is not None and not self._closed:
                return channel
            if not self._changed.wait_for(lambda: self._closed, timeout_s):
                raise TimeoutError("there is one channel only")
        raise ConnectionAbortedError(errno.ECONNABORTED, "the listener was closed")

    def close(self) -> None:
        with self._changed:
            self._closed = True
            channel, self._channel = self._channel, None
            self._changed.notify_all()
        if channel is not None:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _check(fd: int, peer: str) -> None:
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        raise UsageError(f"{peer}: descriptor {fd} is not open") from error
    if os.isatty(fd):
        raise UsageError(f"{peer}: descriptor {fd} is a terminal, and a guest's memory is no text")
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        raise UsageError(f"{peer}: descriptor {fd} is neither a pipe nor a socket")
