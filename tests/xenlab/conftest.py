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

MakeGuest = Callable[[str], Guest]


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


@pytest.fixture
def make_guest(host: Host) -> Iterator[MakeGuest]:
    """A new, ticking guest of a kind; it ends with the test."""
    made: list[Guest] = []

    def make(kind: str) -> Guest:
        guest = Guest(host, kind)
        made.append(guest)
        guest.create()
        return guest

    yield make
    for guest in made:
        guest.destroy()
