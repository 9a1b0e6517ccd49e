"""Simulated guests of all types keep the contract that real ones have to keep."""

from __future__ import annotations

from typing import Any, ClassVar

from xsave import Backend, Domain
from xsave.testing import BackendSuite
from xsave_plugins.sim_host import SimBackend


class SimSuite(BackendSuite):
    """Time passes for the guest when a test lets it, and whenever its memory is read."""

    kind: ClassVar[str]
    options: ClassVar[str] = "memory=8M&dirty=40M/s&clock=reads&tmem=40&tmem_rate=2000"
    backend = SimBackend("manual")
    bad_addresses = ("", "zx81", "pv?memory=3", "pv?frobnicate=1")

    def source_address(self) -> str:
        return f"{self.kind}?name=suite-{self.kind}&{self.options}"

    def dest_address(self) -> str:
        return f"{self.kind}?name=suite-{self.kind}&host=b"

    def let_it_run(self, domain: Domain) -> None:
        guest: Any = domain
        guest.guest.step(0.02)


class TestPv(SimSuite):
    kind = "pv"


class TestPvh(SimSuite):
    kind = "pvh"


class TestHvm(SimSuite):
    kind = "hvm"


class TestBallooning(SimSuite):
    """pfns get memory and lose it while the suite looks."""

    kind = "pv"
    options = "memory=8M&dirty=40M/s&clock=reads&workload=ballooning"


class TestByItself(SimSuite):
    """Guests that run beside the tests, in a thread of their own."""

    kind = "pvh"
    options = "memory=8M&dirty=100M/s"
    backend: ClassVar[Backend] = SimBackend("real")

    def let_it_run(self, domain: Domain) -> None:
        BackendSuite.let_it_run(self, domain)
