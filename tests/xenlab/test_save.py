"""Guests of a real Xen, saved by xsave from where they run, restored by Xen's own tools."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from lab.guest import Guest, Tick
from lab.host import Host

pytestmark = pytest.mark.xen

MakeGuest = Callable[[str], Guest]


def check_went_on(before: list[Tick], after: list[Tick]) -> None:
    """Nothing was lost between the two: the guest counts on from where it was, without a gap
    of its own, finds all as it left it, and its sums are those from before."""
    sums = {tick.part: tick.sum for tick in before}
    numbers = [tick.number for tick in after]
    assert numbers[0] > before[-1].number, "it began anew"
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert all(tick.good for tick in after)
    assert all(sums[tick.part] == tick.sum for tick in after)


@pytest.mark.parametrize("live", [True, False], ids=["live", "paused first"])
@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_saved_by_xsave_goes_on_where_it_was_and_from_the_image(
    host: Host, make_guest: MakeGuest, kind: str, live: bool
) -> None:
    guest = make_guest(kind)
    before = guest.wait_for_tick(guest.parts + 1)

    how = "" if live else "--no-live"
    host.run(f"cd /root; xsave run xen:{guest.name} image.xsv --codec zstd:1 {how}")
    here = guest.wait_for_tick(guest.last_tick() + guest.parts + 1)
    check_went_on(before, [tick for tick in here if tick.number > before[-1].number])

    host.run("cd /root; xsave verify image.xsv; xsave convert image.xsv image.xl --to xl")
    guest.destroy()
    host.run(f"rm -f {guest.console}")
    host.xl("restore /root/image.xl")
    first = guest.wait_for_tick(before[-1].number + 1)[0].number
    check_went_on(before, guest.wait_for_tick(first + guest.parts))


def test_what_xen_says_of_a_guest_is_in_the_image(host: Host, make_guest: MakeGuest) -> None:
    guest = make_guest("pvh")
    host.run(f"cd /root; xsave run xen:{guest.domid} image.xsv --codec zstd:1")
    said = json.loads(host.run("xsave inspect /root/image.xsv --json"))
    text = json.dumps(said)
    for word in ('"type": "pvh"', '"name": "pvh1"', "x86_hvm", '"xen_version": "4.'):
        assert word in text
    assert "xen.xl.header" in text


def test_a_guest_that_is_not_there_is_told_with_those_that_are(host: Host) -> None:
    status, said = host.try_run("xsave run xen:nobody image.xsv")
    assert status == 2
    assert "no domains are named 'nobody'; there are: Domain-0" in said
    status, said = host.try_run("xsave run xen:999 image.xsv")
    assert status == 1
    assert "there is no domain 999" in said


def test_a_guest_that_cannot_take_part_is_left_as_it_is(host: Host, make_guest: MakeGuest) -> None:
    guest = make_guest("pv")
    host.run(f"xl pause {guest.name}")
    status, said = host.try_run(f"cd /root; xsave run xen:{guest.name} none.xsv --no-live")
    assert status == 1
    assert "is paused, so it cannot take part" in said
    assert host.try_run("ls /root/none.xsv")[0] != 0
    host.run(f"xl unpause {guest.name}")
    guest.wait_for_tick(guest.last_tick() + 2)


def test_an_image_is_not_restored_without_the_toolstack(host: Host, make_guest: MakeGuest) -> None:
    guest = make_guest("hvm")
    host.run(f"cd /root; xsave run xen:{guest.name} image.xsv --codec zstd:1")
    status, said = host.try_run("xsave run /root/image.xsv xen:again")
    assert status == 2
    assert "restored through its toolstack" in said
