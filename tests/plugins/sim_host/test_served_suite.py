"""Guests of a host in a process of its own keep the contract, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from xsave import Domain
from xsave.testing import BackendSuite
from xsave_plugins.sim_host import SimBackend
from xsave_plugins.sim_host.served import ServedHosts


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = str(tmp_path_factory.mktemp("hosts") / "one.sock")
    with ServedHosts(path, "--clock", "reads"):
        yield path


class ServedSuite(BackendSuite):
    kind: ClassVar[str]
    options: ClassVar[str] = "memory=8M&dirty=40M/s&tmem=40&tmem_rate=2000"
    backend = SimBackend()
    bad_addresses = ("", "zx81", "pv?memory=3", "pv?frobnicate=1")
    path: str

    @pytest.fixture(autouse=True)
    def hosts(self, one_process: str) -> None:
        self.path = one_process

    def source_address(self) -> str:
        return f"{self.kind}?name=suite&at={self.path}&{self.options}"

    def dest_address(self) -> str:
        return f"{self.kind}?name=suite&host=b&at={self.path}"

    def let_it_run(self, domain: Domain) -> None:
        guest: Any = domain
        guest.step(0.02)


class TestPv(ServedSuite):
    kind = "pv"


class TestPvh(ServedSuite):
    kind = "pvh"


class TestHvm(ServedSuite):
    kind = "hvm"
