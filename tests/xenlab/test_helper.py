"""xl with xsave as its save helper: at both ends, and at one of them with Xen's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from lab.guest import Guest, Tick
from lab.host import Host

pytestmark = pytest.mark.xen

OURS = "LIBXL_SAVE_HELPER=/opt/xsave/bin/xsave-libxl-helper"
HELPERS = {"ours": OURS, "stock": ""}
KINDS = ["pv", "pvh", "hvm"]
# Headers that a writer makes, and the device model's clocks, which go on.
MADE_BY_WRITERS = ("xen.xl.header", "xen.libxl.header", "xen.libxl.libxc_context",
                   "xen.libxc.header", "xen.qemu.context")  # fmt: skip
# What goes on counting although the guest stands still.
CLOCK = re.compile(r"  (save_records/\d+/fields/(tsc|tmr_val)|nsec)  ")

# Runs Xen's own helper, and when the guest has suspended for it, has xsave save it as well.
BOTH = """#!/opt/xsave/bin/python
import os, struct, subprocess, sys

stock = subprocess.Popen([sys.argv[0] + ".stock", *sys.argv[1:]], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, close_fds=False)
while head := stock.stdout.read(2):
    body = stock.stdout.read(struct.unpack("=H", head)[0])
    os.write(1, head + body)
    number = struct.unpack_from("=H", body)[0]
    if number in (1, 2, 9):
        continue
    answer = os.read(0, 4)
    if number == 3:
        subprocess.run(["/opt/xsave/bin/xsave", "run", "xen:" + sys.argv[4], "/root/ours.xsv",
                        "--no-live", "--then", "pause"], stdin=subprocess.DEVNULL, stdout=2,
                       check=True)
    stock.stdin.write(answer)
    stock.stdin.flush()
sys.exit(stock.wait())
"""


@dataclass(frozen=True)
class Saved:
    """:ivar before: what the guest said until it was saved, by both helpers in turn."""

    guest: Guest
    before: list[Tick]


@pytest.fixture(scope="module", params=KINDS)
def saved(request: pytest.FixtureRequest, host: Host) -> Iterator[Saved]:
    """A guest saved twice while it went on: /root/ours.xl and /root/stock.xl."""
    guest = Guest(host, request.param)
    guest.create()
    before = guest.wait_for_tick(guest.parts + 1)
    for who, helper in HELPERS.items():
        host.xl(f"save -c {guest.name} /root/{who}.xl", environment=helper)
        guest.wait_for_tick(guest.last_tick() + 2)  # it goes on, with either
    assert all(tick.good for tick in guest.ticks())
    yield Saved(guest, before)
    guest.destroy()


@pytest.mark.parametrize(
    ("saves", "restores"), [("ours", "stock"), ("stock", "ours"), ("ours", "ours")]
)
def test_a_guest_goes_on_from_what_either_saved_and_either_restores(
    host: Host, saved: Saved, saves: str, restores: str
) -> None:
    guest = saved.guest
    guest.destroy()
    host.run(f"rm -f {guest.console}")
    host.xl(f"restore /root/{saves}.xl", environment=HELPERS[restores])
    first = guest.wait_for_tick(saved.before[-1].number + 1)[0].number
    after = guest.wait_for_tick(first + guest.parts)
    sums = {tick.part: tick.sum for tick in saved.before}
    assert first > saved.before[-1].number
    assert all(tick.good and sums[tick.part] == tick.sum for tick in after)


@pytest.mark.parametrize("kind", KINDS)
def test_ours_and_the_stock_image_of_a_suspended_guest_hold_the_same(
    host: Host, make_guest: Callable[[str], Guest], kind: str
) -> None:
    guest = make_guest(kind)
    host.put("/root/both", BOTH.encode())
    host.run(
        "chmod +x /root/both; ln -sf $(ls /usr/lib/xen-*/bin/libxl-save-helper) /root/both.stock"
    )
    host.xl(f"save {guest.name} /root/stock.xl", environment="LIBXL_SAVE_HELPER=/root/both")
    ignored = " ".join(f"--ignore {name}" for name in MADE_BY_WRITERS)
    status, said = host.try_run(f"cd /root; xsave diff ours.xsv stock.xl {ignored}")
    assert status in (0, 1), said
    assert "pfns the same" in said
    differing = [line for line in said.splitlines() if line.startswith("  ")]
    assert all(CLOCK.match(line) for line in differing), said


def test_a_save_that_fails_leaves_the_guest_running_and_says_why(
    host: Host, make_guest: Callable[[str], Guest]
) -> None:
    guest = make_guest("pv")
    status, said = host.try_run(f"{OURS} xl save {guest.name} /dev/full < /dev/null")
    assert status != 0
    assert "cannot write the output: No space left on device" in said
    guest.wait_for_tick(guest.last_tick() + 2)


def test_an_image_that_is_damaged_is_refused_with_its_place(
    host: Host, make_guest: Callable[[str], Guest]
) -> None:
    guest = make_guest("hvm")
    host.xl(f"save {guest.name} /root/cut.xl", environment=OURS)
    host.run("truncate -s -100000 /root/cut.xl")
    status, said = host.try_run(f"{OURS} xl restore /root/cut.xl < /dev/null")
    assert status != 0
    assert "the image is cut" in said or "at offset" in said
    assert not guest.is_there()
