"""The laboratory itself: what the other tests rely on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lab.guest import Guest
from lab.host import Host

pytestmark = pytest.mark.xen

# Many vector registers, for long: what the emulation lost, it lost here first.
SUMS = """
import numpy as np
flags = np.zeros(1 << 20, bool)
flags[::7] = True
count = len(range(0, 1 << 20, 7))
random = np.random.default_rng(1)
first, second = random.integers(0, 256, (2, 1 << 16), dtype=np.uint8)
def mixed():
    return (first | 0x40 | second | np.where(first > 100, 0x80, 0)).astype(np.uint8)
wanted = bytes(mixed())
wrong = sum(
    int(np.count_nonzero(flags)) != count or bytes(mixed()) != wanted for _ in range(300)
)
print("wrong:", wrong)
"""
# Writes into a page of the guest behind its back, through what xsave itself uses.
DAMAGE = """
import sys
import numpy as np
from xsave_plugins.xen_host.connection import Connection
connection = Connection()
with connection.memory.mapped(int(sys.argv[1]), np.array([0x11], np.uint64), write=True) as (p, e):
    assert not e.any()
    p[0, 100] ^= 1
connection.close()
"""


def test_dom0_runs_on_xen_and_xsave_finds_it(host: Host) -> None:
    assert "xen_version            : 4." in host.run("xl info")
    assert "Xen host       Xen 4." in host.run("xsave doctor")


def test_its_processor_keeps_what_it_computes_beside_guests(
    host: Host, get_guest: Callable[[str], Guest]
) -> None:
    """Emulation that loses registers would make every other test meaningless."""
    get_guest("hvm")
    get_guest("pv")
    host.put("/tmp/sums.py", SUMS.encode())
    run = "/opt/xsave/bin/python /tmp/sums.py"
    said = host.run(f"{run} & {run} & {run} & {run}; wait")
    assert said.split("\n") == ["wrong: 0"] * 4 + [""], said


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_ticks_and_finds_all_as_it_left_it(
    kind: str, get_guest: Callable[[str], Guest]
) -> None:
    guest = get_guest(kind)
    guest.check_goes_on(guest.last_tick())


def test_a_guest_whose_memory_is_changed_behind_its_back_says_so(
    host: Host, get_guest: Callable[[str], Guest]
) -> None:
    guest = get_guest("hvm")
    host.put("/tmp/damage.py", DAMAGE.encode())
    host.run(f"/opt/xsave/bin/python /tmp/damage.py {guest.domid}")
    assert not guest.wait_for_tick(guest.last_tick() + 2)[-1].good
