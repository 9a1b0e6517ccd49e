"""Hosts for the tests: started when the first test needs one, stopped after the last.

``XSAVE_XENLAB_RELEASE`` names Debian's release (bookworm). Two of them are for the two hosts of a
pair, and then only what goes from one Xen to another is tested. ``XSAVE_XENLAB_HOST`` names hosts
that run already, one or a pair; they are used as they are and left running, for those who write
tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.build import build
from lab.guest import Guest
from lab.host import Host, boot_pair
from lab.install import install
from lab.pair import Pair
from lab.releases import chosen_releases

RELEASES = chosen_releases()
BETWEEN_RELEASES = "test_versions.py"
OF_PV_THAT_RUN = {"test_backend.py", "test_kill.py"}  # guests that are saved while they run


def _is_left_out(name: str) -> bool:
    if len(set(RELEASES)) > 1:
        return name != BETWEEN_RELEASES
    return name == BETWEEN_RELEASES or (name in OF_PV_THAT_RUN and not RELEASES[0].logs_pv)


collect_ignore = [
    file.name for file in Path(__file__).parent.glob("test_*.py") if _is_left_out(file.name)
]

GetGuest = Callable[[str], Guest]


@pytest.fixture(scope="session")
def hosts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Host]]:
    """Xen hosts with xsave, as the tree has it, in their dom0: two if a test wants a pair."""
    folder = tmp_path_factory.mktemp("wheel")
    given = os.environ.get("XSAVE_XENLAB_HOST", "").split()
    wants_pair = any("pair" in getattr(item, "fixturenames", ()) for item in request.session.items)
    found = [Host(name) for name in given]
    if not given:
        found = [Host(f"tests-{os.getpid()}-{number}") for number in range(1 + wants_pair)]
    try:
        if not given:
            _boot(found)
        install(found, folder)
        yield found
    finally:
        for host in found if not given else ():
            host.stop()


def _boot(hosts: list[Host]) -> None:
    images = [build(release, print) for release in RELEASES]
    if len(hosts) == 2:
        boot_pair(hosts[0], hosts[1], (images[0], images[-1]), print)
    else:
        hosts[0].boot(images[0], print)


@pytest.fixture(scope="session")
def host(hosts: list[Host]) -> Host:
    return hosts[0]


@pytest.fixture(scope="session")
def pair(hosts: list[Host]) -> Pair:
    if len(hosts) != 2:
        pytest.fail("XSAVE_XENLAB_HOST names one host, and this test needs two")
    return Pair(hosts[0], hosts[1])


@pytest.fixture(scope="session")
def guests(host: Host) -> Iterator[dict[str, Guest]]:
    """One of each kind, started when a test first wants it."""
    found: dict[str, Guest] = {}
    yield found
    for guest in found.values():
        guest.destroy()


@pytest.fixture
def get_guest(host: Host, guests: dict[str, Guest]) -> Iterator[GetGuest]:
    """The guest of a kind, ticking. All tests share it: to start one takes longer than most of
    them. It rests while none needs it, and is made anew if a test left none, or a damaged one."""
    used: list[Guest] = []

    def get(kind: str) -> Guest:
        guest = guests.setdefault(kind, Guest(host, kind))
        used.append(guest)
        guest.wake()
        return guest

    yield get
    for guest in used:
        guest.rest()
