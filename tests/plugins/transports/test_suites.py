"""Each transport keeps the contract."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.plugins.transports import certificates
from xsave import Channel
from xsave.testing import MemoryNetwork, TransportSuite
from xsave_plugins.transports.pipe import PipeTransport
from xsave_plugins.transports.tcp import TcpTransport
from xsave_plugins.transports.tls import TlsTransport
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


class TestTls(TransportSuite):
    transport = TlsTransport()
    nonsense = (
        "", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:1?certs", "127.0.0.1:1?color=red",
        "127.0.0.1:1?certs=/nonexistent",
    )  # fmt: skip

    @pytest.fixture(autouse=True)
    def _certificates(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XSAVE_CERTS", str(certificates.write(tmp_path, "address")))

    def listen_at(self) -> str:
        return "127.0.0.1:0"

    def say_nothing_to(self, address: str) -> socket.socket:
        host, port = address.split(":")
        return socket.create_connection((host, int(port)))

    @contextmanager
    def channels(self) -> Iterator[tuple[Channel, Channel]]:
        with super().channels() as both:
            assert both[0].identity == both[1].identity != ""
            yield both


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
