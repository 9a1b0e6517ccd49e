"""Guests that live in processes of their own: they are moved by others, and outlive them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import xsave
from xsave.pipeline.save import put_back
from xsave_plugins.sim_host.remote import Hosts
from xsave_plugins.sim_host.served import ServedHosts

GUESTS = ("pv", "pvh", "hvm")
_numbers = itertools.count()


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Of two processes with a host each."""
    one, two = (str(tmp_path_factory.mktemp("hosts") / f"{name}.sock") for name in ("one", "two"))
    with ServedHosts(one), ServedHosts(two):
        yield one, two


@pytest.fixture
def name() -> str:
    return f"guest{next(_numbers)}"


def status(socket: str, name: str) -> dict | None:
    with Hosts(socket) as hosts:
        found = hosts.guest(name)
    return None if found is None else dict(found)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def check_runs(socket: str, name: str) -> None:
    found = status(socket, name)
    assert found is not None
    assert found["state"] == "running"
    wait_for(lambda: (status(socket, name) or {})["nr_ticks"] > found["nr_ticks"])


@pytest.mark.parametrize("kind", GUESTS)
def test_a_guest_that_moves_from_process_to_process_arrives_as_it_left(
    kind: str, name: str, sockets: tuple[str, str], manager: xsave.PluginManager
) -> None:
    one, two = sockets
    source = f"sim:{kind}?name={name}&memory=16M&dirty=20M/s&tmem=50&prove=yes&at={one}"
    xsave.run(source, f"sim:?name={name}&prove=yes&at={two}", manager=manager)
    with Hosts(one) as first, Hosts(two) as second:
        left, arrived = first.proofs()["left"][name], second.proofs()["arrived"][name]
        assert first.guest(name) is None
    assert left == arrived
    assert len(left) > 3
    check_runs(two, name)


@pytest.mark.parametrize("kind", GUESTS)
def test_a_guest_kept_in_an_image_comes_back_in_another_process(
    kind: str, name: str, sockets: tuple[str, str], manager: xsave.PluginManager, tmp_path: Path
) -> None:
    one, two = sockets
    image = tmp_path / "guest.xsv"
    source = f"sim:{kind}?name={name}&memory=16M&dirty=20M/s&prove=yes&at={one}"
    xsave.run(source, image, then="destroy", manager=manager)
    xsave.run(image, f"sim:?name={name}&prove=yes&at={two}", manager=manager)
    with Hosts(one) as first, Hosts(two) as second:
        assert first.proofs()["left"][name] == second.proofs()["arrived"][name]
    check_runs(two, name)


def start_move(name: str, sockets: tuple[str, str], *options: str) -> subprocess.Popen[bytes]:
    one, two = sockets
    return subprocess.Popen(
        [sys.executable, "-m", "xsave", "run", f"sim:?name={name}&at={one}",
         f"sim:?name={name}&at={two}", "--limit", "20M", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("live", [True, False])
def test_whoever_moves_a_guest_can_be_killed_and_the_guest_is_put_back(
    live: bool, name: str, sockets: tuple[str, str], manager: xsave.PluginManager
) -> None:
    one, two = sockets
    backend = manager.backends.find("sim")
    guest = backend.open(f"pv?name={name}&memory=32M&dirty=20M/s&tmem=50&at={one}")
    locator = guest.locator
    guest.close()
    moving = start_move(name, sockets, *([] if live else ["--no-live"]))
    wait_for(lambda: (status(two, name) or {}).get("nr_pages", 0) > 1000)
    os.kill(moving.pid, signal.SIGKILL)
    moving.wait()
    left, half = status(one, name), status(two, name)
    assert left is not None and half is not None
    assert (left["state"], left["is_logged"]) == ("running" if live else "paused", live)
    assert half["state"] == "being built"
    built = backend.open(f"?name={name}&at={two}")
    built.destroy()
    built.close()
    assert status(two, name) is None
    found = backend.find(locator)
    assert found is not None
    put_back(found, manager, manager.handler_table(None))
    assert found.facet("tmem").begin(live=True)  # as if nothing had been saved
    found.facet("tmem").end()
    found.close()
    left = status(one, name)
    assert left is not None
    assert (left["is_logged"], left["share"]) == (False, 1.0)
    check_runs(one, name)


def test_served_hosts_end_with_the_process_that_asked_for_them(tmp_path: Path) -> None:
    path = tmp_path / "one.sock"
    code = (
        "import os, signal\n"
        "from xsave_plugins.sim_host.served import ServedHosts\n"
        f"hosts = ServedHosts({str(path)!r})\n"
        "hosts.__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    wait_for(lambda: not path.exists())
    with pytest.raises(xsave.XsaveError, match=r"simulated hosts were not served: .*107 bytes"):
        ServedHosts("x" * 200).__enter__()
