"""Each transport keeps the contract."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xsave import Channel
from xsave.testing import MemoryNetwork, TransportSuite
from xsave_plugins.transports.pipe import PipeTransport
from xsave_plugins.transports.tcp import TcpTransport
from xsave_plugins.transports.unix import UnixTransport


class TestMemory(TransportSuite):
    transport = MemoryNetwork()

    def listen_at(self) -> str:
        return f"place {self.transport.nr_channels}"  # type: ignore[attr-defined]


class TestTcp(TransportSuite):
    transport = TcpTransport()
    nonsense = ("", "here", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "::1:9")

    def listen_at(self) -> str:
        return "127.0.0.1:0"


class TestUnix(TransportSuite):
    transport = UnixTransport()
    nonsense = ("", "x" * 200, "a\0b")

    @pytest.fixture(autouse=True)
    def _folder(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            type(self).folder = Path(folder)
            yield

    def listen_at(self) -> str:
        return str(self.folder / "socket")


class TestPipe(TransportSuite):
    """Over two pipes, as between two processes."""

    transport = PipeTransport()
    nonsense = ("x", "1,", "1,2,3", "-1", "99999")

    @pytest.fixture(autouse=True)
    def _descriptors(self) -> Iterator[None]:
        self.open: list[int] = []
        yield
        for fd in self.open:
            os.close(fd)

    def _pipes(self) -> tuple[int, int, int, int]:
        (there, in_there), (back, in_back) = os.pipe(), os.pipe()
        self.open += [there, in_there, back, in_back]
        return there, in_there, back, in_back

    def listen_at(self) -> str:
        there, _, _, in_back = self._pipes()
        return f"{there},{in_back}"

    @contextmanager
    def channels(self) -> Iterator[tuple[Channel, Channel]]:
        there, in_there, back, in_back = self._pipes()
        near = self.transport.connect(f"{back},{in_there}", 1)
        with self.transport.listen(f"{there},{in_back}") as listener:
            far = listener.accept(1)
        for fd in (there, in_there, back, in_back):  # each end has copies of its own
            os.close(fd)
            self.open.remove(fd)
        try:
            yield near, far
        finally:
            near.close()
            far.close()


class TestPipeOverOneSocket(TestPipe):
    """One descriptor for both ways, as inherited from a service manager."""

    def listen_at(self) -> str:
        one, other = socket.socketpair()
        self.open += [one.detach(), other.detach()]
        return str(self.open[-1])

    @contextmanager
    def channels(self) -> Iterator[tuple[Channel, Channel]]:
        one, other = socket.socketpair()
        with one, other:
            near = self.transport.connect(f"{one.fileno()}", 1)
            far = self.transport.connect(f"{other.fileno()}", 1)
        try:
            yield near, far
        finally:
            near.close()
            far.close()
