"""The conformance suite of backends, run in dom0 on guests of a real Xen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lab.guest import Guest
from lab.host import Host

pytestmark = pytest.mark.xen

SUITE = Path(__file__).parent / "in_dom0" / "backend.py"
# What begins with an empty domain, which only libxl makes; and what ends the guest.
LEFT_OUT = ("empty", "moves", "paused_first", "move_that_fails", "given", "ended", "locator")


# A PV guest: one that Xen translates addresses for has pfns up to 4 GiB, and the suite wants room
# for a page of each, which dom0 has not.
@pytest.mark.parametrize("kind", ["pv"])
def test_the_backend_keeps_what_is_promised_of_all(
    host: Host, get_guest: Callable[[str], Guest], kind: str
) -> None:
    guest = get_guest(kind)
    before = guest.last_tick()
    host.run("mkdir -p /root/suite")
    host.put("/root/suite/backend.py", SUITE.read_bytes())
    chosen = " and ".join(f"not {word}" for word in LEFT_OUT)
    said = host.run(
        f"cd /root/suite; GUEST={guest.name} /opt/xsave/bin/python -m pytest -q -x "
        f"-p no:cacheprovider --durations=5 -k '{chosen}' backend.py"
    )
    print(said)
    assert " passed" in said
    guest.check_goes_on(before)
