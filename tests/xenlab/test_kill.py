"""Saves that are killed with SIGKILL, at any moment: the guest goes on, and so can the next save.

``XSAVE_XENLAB_KILLS`` says how many of each kind (1); ``XSAVE_XENLAB_SEED`` repeats a run.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab.guest import Guest
from lab.host import Host

pytestmark = pytest.mark.xen

GetGuest = Callable[[str], Guest]
SAVE = Path(__file__).parent / "in_dom0" / "killed_save.py"

KILLS = int(os.environ.get("XSAVE_XENLAB_KILLS") or 1)
SEED = os.environ.get("XSAVE_XENLAB_SEED") or str(random.randrange(1 << 32))
# Xen's word for whether it logs what a domain writes: it does not begin to where it does already.
LOG = """
import sys
from xsave_plugins.xen_host import abi
from xsave_plugins.xen_host.connection import Connection
from xsave_plugins.xen_host.control import Control
from xsave_plugins.xen_host.hypercalls import HypercallError
connection = Connection()
control = Control(connection.hypercalls, int(sys.argv[1]))
try:
    control._shadow(abi.SHADOW_ENABLE_LOGDIRTY)
except HypercallError:
    print("on")
else:
    control._shadow(abi.SHADOW_OFF)
    print("off")
"""


class Killer:
    """:param how: ``run`` for xsave alone, else whose helper."""

    def __init__(self, host: Host, guest: Guest, how: str) -> None:
        self.host = host
        self.guest = guest
        self.how = how
        host.put("/root/killed_save.py", SAVE.read_bytes())
        host.put("/root/log.py", LOG.encode())

    def save(self, part_s: float) -> dict[str, Any]:
        """:param part_s: after which it is killed, 0 for never."""
        said = self.host.run(f"python3 /root/killed_save.py {self.how} {self.guest.name} {part_s}")
        found: dict[str, Any] = json.loads(said)
        return found

    def check_nothing_stays(self, found: dict[str, Any]) -> None:
        names = self.host.run(f"xl list | grep -c '^{self.guest.name}'")
        assert int(names) == 1, self.host.run("xl list")
        if self.how == "run":
            assert not found["left"], "a part of an image"

    def logs(self) -> bool:
        said = self.host.run(f"/opt/xsave/bin/python /root/log.py {self.guest.domid}")
        return said.strip() == "on"


@pytest.mark.parametrize("kind", ["pv", "hvm"])
@pytest.mark.parametrize("how", ["run", "ours", "stock"])
def test_a_guest_goes_on_whenever_its_save_is_killed(
    host: Host, get_guest: GetGuest, kind: str, how: str
) -> None:
    guest = get_guest(kind)
    killer = Killer(host, guest, how)
    host.run("rm -rf /root/killed")
    before = guest.last_tick()
    whole = killer.save(0)
    assert whole["status"] == 0, whole["said"]
    before = guest.check_goes_on(before)
    host.run("rm -rf /root/killed")
    moments = random.Random(f"{SEED} {kind} {how}")
    was_killed = 0
    for number in range(KILLS):
        part_s = moments.uniform(0.01, whole["lived_s"])
        found = killer.save(part_s)
        about = f"seed {SEED}, kill {number} after {part_s:.2f} s: {found}"
        print(about)
        was_killed += found["was_killed"]
        assert (found["status"] != 0) == found["was_killed"], about
        before = guest.check_goes_on(before)
        killer.check_nothing_stays(found)
        host.run("rm -rf /root/killed")
    assert was_killed or KILLS < 5, "all of them were too late"
    # What is left does not stop the next one, which leaves nothing itself.
    whole = killer.save(0)
    assert whole["status"] == 0, whole["said"]
    guest.check_goes_on(before)
    assert not killer.logs()
