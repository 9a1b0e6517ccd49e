"""Guests whose time only passes when a test lets it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xsave_plugins.sim_host import SimBackend
from xsave_plugins.sim_host.domain import SimDomain

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
