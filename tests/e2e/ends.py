"""Both ends of migrations in one process, over links in memory that can be broken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from xsave import PluginManager, build_manager
from xsave.io.journal import Journal
from xsave.link.link import Link
from xsave.link.options import LinkOptions
from xsave.pipeline.ends import domain_address
from xsave.pipeline.migrate import migrate
from xsave.pipeline.receive import Receiver
from xsave.progress import MigrationReport
from xsave.testing import memory_links

QUICK = LinkOptions(patience_s=0.3, ping_s=0.1, silence_s=5, close_s=2)
GUEST = "sim:pv?memory=8M&name=web&dirty=4M/s&prove=yes&tmem=20"


@define
class Ends:
    """Both ends in one process.

    :ivar told: what the destination reported.
    """

    manager: PluginManager
    here: Journal
    there: Journal
    told: list[tuple[MigrationReport, BaseException | None]] = field(factory=list)
    cuts: list[tuple[str, int]] = field(factory=list)

    @property
    def sim(self) -> Any:
        return self.manager.backends.find("sim")

    def guests(self, host: str) -> dict[str, bool]:
        """Name to whether it runs."""
        return {name: guest.is_running for name, guest in self.sim.host(host).guests.items()}

    def receiver(self, into: str = "sim:?host=b&prove=yes", **options: Any) -> Receiver:
        address = domain_address(into, self.manager)
        assert address is not None
        return Receiver(
            address, self.manager, journal=self.there, answer_s=10,
            told=lambda report, error: self.told.append((report, error)), **options,
        )  # fmt: skip

    def migrate(
        self, source: str = GUEST, receiver: Receiver | None = None, **options: Any
    ) -> MigrationReport:
        with linked(receiver or self.receiver(), self) as connect:
            return migrate(
                source, connect, manager=self.manager, journal=self.here, answer_s=10, ask_s=0,
                **options,
            )  # fmt: skip


@pytest.fixture
def make_ends(tmp_path: Path) -> Iterator[Ends]:
    ends = Ends(build_manager(), Journal(tmp_path / "here"), Journal(tmp_path / "there"))
    yield ends
    for host in ("a", "b"):
        for guest in list(ends.sim.host(host).guests.values()):
            guest.destroy()


@contextmanager
def linked(receiver: Receiver, ends: Ends) -> Iterator[Callable[[], Link]]:
    """What gives the one link to that receiver, which takes it meanwhile."""
    with memory_links(QUICK, cuts=ends.cuts) as pair:
        thread = threading.Thread(target=receiver.take, args=(pair.far,))
        thread.start()
        try:
            yield lambda: pair.near
        finally:
            pair.near.close()
            thread.join()
