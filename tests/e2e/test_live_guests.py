"""Running guests are saved, restored and moved, and are what they were at the pause, on hosts
of this process and on hosts that others serve.

``prove=yes`` makes the simulated host keep what it finds by its own means when a guest ends
there and before it first runs there; nothing of the pipeline is used for it.
"""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest

import xsave

GUESTS = ("pv", "pvh", "hvm")
WORKLOADS = ("random", "ballooning")
OPTIONS = "memory=16M&dirty=20M/s&clock=reads&prove=yes"
_numbers = itertools.count()


def source(kind: str, workload: str, name: str) -> str:
    return f"sim:{kind}?{OPTIONS}&workload={workload}&name={name}"


def dest(kind: str, name: str) -> str:
    return f"sim:{kind}?host=b&name={name}&clock=reads&prove=yes"


def differences(manager: xsave.PluginManager, name: str) -> Any:
    backend: Any = manager.backends.find("sim")
    left = backend.host("a").left[name].as_digests()
    arrived = backend.host("b").arrived[name].as_digests()
    assert len(left) > 3
    return {what for what in {*left, *arrived} if left.get(what) != arrived.get(what)}


@pytest.fixture
def name() -> str:
    return f"guest{next(_numbers)}"


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("kind", GUESTS)
def test_a_guest_that_moves_arrives_as_it_left(
    kind: str, workload: str, live: bool, name: str, manager: xsave.PluginManager
) -> None:
    report = xsave.run(source(kind, workload, name), dest(kind, name), live=live, manager=manager)
    assert differences(manager, name) == set()
    assert report.save is not None
    assert (len(report.save.iterations) > 0) == live


@pytest.mark.parametrize("codec", ["none", "zstd:1", "lz4", "brotli:1"])
@pytest.mark.parametrize("kind", GUESTS)
def test_a_guest_kept_in_an_image_comes_back_as_it_left(
    kind: str, codec: str, name: str, manager: xsave.PluginManager, tmp_path: Path
) -> None:
    image = tmp_path / "guest.xsv"
    xsave.run(source(kind, "random", name), image, codec=codec, then="destroy", manager=manager)
    xsave.verify(image, manager=manager)
    xsave.run(image, dest(kind, name), manager=manager)
    assert differences(manager, name) == set()


@pytest.mark.parametrize("kind", GUESTS)
def test_a_guest_kept_in_an_xl_file_comes_back_as_it_left(
    kind: str, name: str, manager: xsave.PluginManager, tmp_path: Path
) -> None:
    image = tmp_path / "guest.xl"
    xsave.run(source(kind, "random", name), image, then="destroy", manager=manager)
    xsave.run(image, dest(kind, name), manager=manager)
    assert differences(manager, name) == set()


@pytest.mark.peer
@pytest.mark.parametrize("kind", GUESTS)
def test_xens_own_checker_accepts_a_simulated_guest(
    kind: str, name: str, manager: xsave.PluginManager, tmp_path: Path, peer: Path
) -> None:
    image = tmp_path / "guest.xl"
    xsave.run(source(kind, "random", name), image, manager=manager)
    library = peer.parent.parent / "lib" / "python"
    found = subprocess.run(
        [str(peer), "-f", "xl", "-i", str(image)], env={"PYTHONPATH": str(library)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


@pytest.mark.parametrize("kind", GUESTS)
def test_a_save_that_is_cancelled_leaves_the_guest_running_and_no_image(
    kind: str, name: str, manager: xsave.PluginManager, tmp_path: Path
) -> None:
    asked = itertools.count()
    with pytest.raises(xsave.CancelledError):
        xsave.run(
            source(kind, "random", name), tmp_path / "x.xsv", manager=manager,
            cancelled=lambda: next(asked) > 3,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    backend: Any = manager.backends.find("sim")
    assert backend.host("a").guests[name].is_running


def test_a_move_that_fails_leaves_the_guest_where_it_was(
    name: str, manager: xsave.PluginManager
) -> None:
    with pytest.raises(xsave.XsaveError):
        xsave.run(
            source("pvh", "random", name), f"sim:pvh?host=small{name}&host_memory=4M",
            manager=manager,
        )  # fmt: skip
    backend: Any = manager.backends.find("sim")
    assert backend.host("a").guests[name].is_running
    assert not backend.host(f"small{name}").guests


def test_the_parts_of_the_downtime_add_up(name: str, manager: xsave.PluginManager) -> None:
    report = xsave.run(source("pv", "random", name), dest("pv", name), manager=manager)
    assert report.save is not None
    parts = report.save.downtime
    total = parts.pause_s + parts.memory_s + parts.beside_s + parts.state_s + parts.finish_s
    assert parts.total_s == pytest.approx(total)
    assert parts.memory_s > 0
    assert report.save.rulings[-1].decision is xsave.Decision.STOP_AND_COPY
    assert all(ruling.reason for ruling in report.save.rulings)
