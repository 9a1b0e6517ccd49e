"""Hosts for the tests: started when the first test needs one, stopped after the last.

``XSAVE_XENLAB_RELEASE`` names Debian's release (bookworm). ``XSAVE_XENLAB_HOST`` names a host
that runs already; it is used as it is and left running, for those who write tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from lab.build import build
from lab.guest import Guest
from lab.host import Host
from lab.install import install
from lab.releases import find_release

GetGuest = Callable[[str], Guest]


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A Xen host with xsave, as the tree has it, in its dom0."""
    folder = tmp_path_factory.mktemp("wheel")
    if name := os.environ.get("XSAVE_XENLAB_HOST"):
        found = Host(name)
        install(found, folder)
        yield found
        return
    suite = os.environ.get("XSAVE_XENLAB_RELEASE") or "bookworm"
    found = Host(f"tests-{os.getpid()}")
    try:
        found.boot(build(find_release(suite), print), print)
        install(found, folder)
        yield found
    finally:
        found.stop()


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
