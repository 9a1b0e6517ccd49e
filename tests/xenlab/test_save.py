"""Guests of a real Xen, saved by xsave from where they run, restored by Xen's own tools."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from lab.guest import Guest
from lab.host import Host
from lab.releases import chosen_releases

pytestmark = pytest.mark.xen

GetGuest = Callable[[str], Guest]


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
@pytest.mark.parametrize("live", [True, False], ids=["live", "paused first"])
def test_a_guest_saved_by_xsave_goes_on_where_it_was_and_from_the_image(
    host: Host, get_guest: GetGuest, kind: str, live: bool
) -> None:
    guest = get_guest(kind)
    before = guest.last_tick()
    how = "" if live else "--no-live"
    save = f"cd /root; xsave run xen:{guest.name} image.xsv --codec zstd:1 {how}"
    if kind == "pv" and live and not chosen_releases()[0].logs_pv:
        status, said = host.try_run(save)
        assert status == 1
        assert "needs shadow paging" in said
        guest.check_goes_on(before)
        return
    host.run(save)
    guest.check_goes_on(before)
    said = json.loads(host.run("xsave inspect /root/image.xsv --json"))
    text = json.dumps(said)
    for word in (f'"type": "{kind}"', f'"name": "{guest.name}"', '"xen_version": "4.',
                 "xen.xl.header"):  # fmt: skip
        assert word in text
    host.run("cd /root; xsave convert image.xsv image.xl --to xl")  # which checks every sum
    guest.restore("/root/image.xl", "", before)


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_is_looked_at_and_goes_on(host: Host, get_guest: GetGuest, kind: str) -> None:
    guest = get_guest(kind)
    before = guest.last_tick()
    said = json.loads(host.run(f"xsave inspect xen:{guest.name} --json"))
    text = json.dumps(said)
    for word in (f'"type": "{kind}"', f'"name": "{guest.name}"', '"xen_version": "4.',
                 "xen.x86.tsc_info", "xen.xl.header"):  # fmt: skip
        assert word in text
    guest.check_goes_on(before)


def test_a_guest_that_is_not_there_is_told_with_those_that_are(host: Host) -> None:
    status, said = host.try_run("xsave run xen:nobody image.xsv")
    assert status == 2
    assert "no domains are named 'nobody'; there are: Domain-0" in said
    status, said = host.try_run("xsave run xen:999 image.xsv")
    assert status == 1
    assert "there is no domain 999" in said


def test_a_guest_that_cannot_take_part_is_left_as_it_is(host: Host, get_guest: GetGuest) -> None:
    guest = get_guest("pv")
    host.run(f"xl pause {guest.name}")
    before = guest.last_tick()
    status, said = host.try_run(f"cd /root; xsave run xen:{guest.name} none.xsv --no-live")
    assert status == 1
    assert "is paused, so it cannot take part" in said
    assert host.try_run("ls /root/none.xsv")[0] != 0
    host.run(f"xl unpause {guest.name}")
    guest.check_goes_on(before)


def test_an_image_is_not_restored_without_the_toolstack(host: Host) -> None:
    host.run("cd /root; xsave run 'sim:hvm?memory=4M' any.xsv --no-live")
    status, said = host.try_run("xsave run /root/any.xsv xen:again")
    assert status == 2
    assert "restored through its toolstack" in said
