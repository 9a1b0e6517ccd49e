"""``inspect`` and ``verify`` of guests that run: what a save would have, and the guest runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import xsave
from tests.e2e.checkpointed import Watched, boot
from xsave.pipeline.inspect import RecordItem
from xsave.pipeline.migrate import migrate

GUESTS = ("pv", "pvh", "hvm")
BUSY = "workload=random&dirty=20M/s&tmem=20"


def tmem_of(watched: Watched) -> Any:
    return watched.guest.facets["tmem"]


@pytest.mark.parametrize("kind", GUESTS)
def test_a_guest_that_runs_is_shown_as_a_save_would_have_it(
    kind: str, manager: xsave.PluginManager, tmp_path: Path
) -> None:
    watched = boot(manager, kind, BUSY)
    before = tmem_of(watched).fingerprint()
    found = xsave.inspect(watched.address, manager=manager)
    saved = tmp_path / "guest.xsv"
    xsave.run(watched.address, saved, manager=manager)
    image = xsave.inspect(saved, manager=manager)
    state = [item for item in found.items if isinstance(item, RecordItem)]
    assert [(item.name, item.number) for item in state] == [
        (item.name, item.number) for item in image.items
        if isinstance(item, RecordItem) and not item.name.startswith("xen.tmem.pages")
    ]  # fmt: skip
    assert all(item.understood for item in state)
    assert found.report.nr_pages > 0
    assert found.look is not None
    assert "xen.tmem.pages" in found.look.not_looked_at
    assert watched.guest.is_running
    assert tmem_of(watched).put(0, (1 << 40, 0, 0), 0, bytes(4096))  # it takes pages still
    assert tmem_of(watched).fingerprint() != before
    watched.end()


@pytest.mark.parametrize("kind", GUESTS)
@pytest.mark.parametrize("fast", [True, False])
def test_every_record_and_rule_is_verified_and_the_guest_runs_on(
    kind: str, fast: bool, manager: xsave.PluginManager
) -> None:
    watched = boot(manager, kind, BUSY, clock="real")
    report = xsave.verify(watched.address, fast=fast, manager=manager)
    assert report.look is not None
    assert report.look.paused_s > 0
    assert report.digest == ""
    assert not report.not_understood
    assert report.nr_pages > 0
    assert watched.guest.is_running
    assert len(watched.pauses) == 1
    watched.end()


def test_what_is_wrong_with_a_guest_is_found_and_it_runs_on(
    manager: xsave.PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = boot(manager, "pvh", BUSY)
    monkeypatch.setattr(watched.guest.facets["hvm"], "context", lambda: b"no context at all")
    with pytest.raises(xsave.StreamError, match=r"xen\.hvm\.context at offset 0x0: .*HEADER"):
        xsave.verify(watched.address, manager=manager)
    assert watched.guest.is_running
    watched.end()


def test_one_record_pauses_the_guest_only_if_it_must(manager: xsave.PluginManager) -> None:
    watched = boot(manager, "pv", BUSY)
    info = xsave.read_record(watched.address, "xen.pv.info", manager=manager)
    assert info.item.fields["guest_width"] == 8
    assert watched.pauses == []
    xsave.read_record(watched.address, "xen.pv.shared_info", manager=manager)
    assert len(watched.pauses) == 1
    with pytest.raises(xsave.UsageError, match=r"the domain has no acme\.note#0; it has: xen"):
        xsave.read_record(watched.address, "acme.note", manager=manager)
    assert watched.guest.is_running
    watched.end()


def test_pages_are_read_while_it_runs(manager: xsave.PluginManager) -> None:
    watched = boot(manager, "pv", BUSY)
    wanted = [1, 2, 900, 1 << 30]
    found = xsave.read_pfns(watched.address, wanted, manager=manager)
    assert sorted(found) == [1, 2, 900]
    kind, page = found[1]
    assert kind == 0
    assert page is not None
    assert page.tobytes() == watched.guest.peek(1).tobytes()
    assert watched.pauses == []
    watched.end()


def test_page_statistics_are_of_its_contents(manager: xsave.PluginManager) -> None:
    watched = boot(manager, "pvh", "workload=idle")
    found = xsave.inspect(watched.address, page_statistics=True, manager=manager)
    assert found.statistics is not None
    assert found.statistics.nr_pages == found.report.nr_pages > 0
    assert found.statistics.nr_zero > 0
    watched.end()


def test_a_page_that_is_changing_is_told_of(
    manager: xsave.PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = boot(manager, "pvh", "workload=idle")
    read = watched.guest.read

    def not_now(pfns: Any, out: Any) -> Any:
        good = read(pfns, out)
        good[:] = False
        return good

    monkeypatch.setattr(watched.guest, "read", not_now)
    with pytest.raises(xsave.TryAgainError, match="pfn 0x1 is changing just now"):
        xsave.read_pfns(watched.address, [1], manager=manager)
    watched.end()


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_that_somebody_paused_is_left_so_by_whoever_looks_or_saves(
    kind: str, tmp_path: Path
) -> None:
    """It may stand still because it runs elsewhere."""
    manager = xsave.build_manager()
    address = f"sim:{kind}?memory=8M&name=stopped&clock=manual"
    domain = manager.backends.find("sim").open(address.removeprefix("sim:"))
    domain.pause()
    assert domain.is_at_rest()
    xsave.inspect(address, manager=manager)
    assert domain.is_at_rest()
    xsave.run(address, tmp_path / "guest.xsv", manager=manager)
    assert domain.is_at_rest()
    with pytest.raises(xsave.XsaveError):
        xsave.run(address, "sim:?host=b&host_memory=4M", manager=manager)
    assert domain.is_at_rest()
    with pytest.raises(xsave.UsageError, match="does not run: if a migration of it is open"):
        migrate(address, "tcp:127.0.0.1:1", manager=manager)
    domain.resume()
    assert not domain.is_at_rest()
    xsave.inspect(address, manager=manager)
    assert not domain.is_at_rest()


def test_a_guest_that_was_paused_is_paused_where_it_is_moved_to(tmp_path: Path) -> None:
    manager = xsave.build_manager()
    sim = manager.backends.find("sim")
    domain = sim.open("pv?memory=8M&name=moving&clock=manual")
    domain.pause()
    xsave.run("sim:pv?name=moving", "sim:pv?host=b&name=moving", manager=manager)
    there = sim.open("pv?host=b&name=moving")
    assert there.is_at_rest()
    there.destroy()
