"""Guests whose time only passes when a test lets it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import frozen

from xsave_plugins.sim_host import SimBackend
from xsave_plugins.sim_host.connection import listen
from xsave_plugins.sim_host.domain import SimDomain
from xsave_plugins.sim_host.remote import Hosts
from xsave_plugins.sim_host.server import Server

Boot = Callable[[str], SimDomain]


@pytest.fixture
def backend() -> SimBackend:
    return SimBackend(clock="manual")


@pytest.fixture
def boot(backend: SimBackend) -> Boot:
    """Opens an address, as a simulated guest."""

    def open_(address: str) -> SimDomain:
        domain = backend.open(address)
        assert isinstance(domain, SimDomain)
        return domain

    return open_


@frozen
class Served:
    """:ivar backend: in this process, for what only a test may look at."""

    backend: SimBackend
    path: str

    def connect(self) -> Hosts:
        return Hosts(self.path)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Hosts served by a thread of this process; their guests' clocks are manual."""
    path = str(tmp_path / "one.sock")
    backend = SimBackend(clock="manual", own_host="one")
    server = Server(backend, listen(path))
    thread = threading.Thread(target=server.run, name="served hosts")
    thread.start()
    yield Served(backend, path)
    server.stop()
    thread.join(60)
    assert not thread.is_alive()
