"""Guests that go from host to host while they run, by ``xl migrate``: xsave at both ends, and at
one of them with Xen's own helper."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from killed_moves import kill_runs
from lab.guest import Guest
from lab.helper import HELPERS
from lab.pair import Move, Pair

pytestmark = pytest.mark.xen

# Each goes on from where the one before has brought the guest. The firmware's guest is small
# enough for ssh.
MOVES = [Move("ours", "ours"), Move("ours", "stock"), Move("stock", "ours")]
KILLS = 3


class Wanderer:
    """A guest that has been started once, and goes from host to host."""

    def __init__(self, pair: Pair, kind: str) -> None:
        self._pair = pair
        self.guest = Guest(pair.near, kind)
        self.guest.create()

    def go(self, move: Move) -> str:
        """:returns: what xl said."""
        before = self.guest
        self.guest, said = self._pair.move(before, move)
        self.guest.check_goes_on(before.last_tick())
        assert self._pair.is_at(self.guest) is self.guest.host
        return said


@pytest.fixture(scope="module", params=["pv", "pvh", "hvm"])
def wanderer(request: pytest.FixtureRequest, pair: Pair) -> Iterator[Wanderer]:
    found = Wanderer(pair, request.param)
    yield found
    pair.destroy(found.guest)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: f"{move.saves} to {move.restores}")
def test_a_guest_moves_while_it_runs_whoever_sends_and_whoever_receives(
    wanderer: Wanderer, move: Move
) -> None:
    said = wanderer.go(move)
    assert ("xsave: info: domain -> libxc-v3" in said) == (move.saves == "ours")


def test_a_guest_moves_by_ssh_with_the_helper_named_for_the_other_end(pair: Pair) -> None:
    """The command of docs/xen.md."""
    wanderer = Wanderer(pair, "hvm")
    try:
        said = wanderer.go(Move("ours", "ours", ssh=True))
    finally:
        pair.destroy(wanderer.guest)
    assert "xsave: info: domain -> libxc-v3" in said
    assert "xsave: info: libxc -> domain" in said


def test_a_third_partys_record_travels_along(pair: Pair) -> None:
    wanderer = Wanderer(pair, "hvm")
    folder = f"/var/lib/swtpm/{wanderer.guest.uuid}"
    pair.near.run(f"mkdir -p {folder}; echo -n secret > {folder}/tpm2-00.permall")
    try:
        wanderer.go(Move("native", "ours"))
        assert pair.far.run(f"cat {folder}/tpm2-00.permall") == "secret"
    finally:
        pair.destroy(wanderer.guest)
        for host in (pair.near, pair.far):
            host.run(f"rm -rf {folder}")


def test_a_guest_whose_migration_lost_a_helper_runs_on_exactly_one_host(pair: Pair) -> None:
    """At either end, at random moments; killed_moves.py counts more, of Xen's own helper too."""
    outcomes = list(kill_runs(pair, "hvm", "ours", KILLS, seed=1))
    assert any(outcome.killed for outcome in outcomes)


@pytest.mark.parametrize(("kind", "saves"), [("hvm", "ours"), ("pv", "native"), ("pvh", "native")])
def test_an_image_of_one_host_is_restored_on_the_other(pair: Pair, kind: str, saves: str) -> None:
    """Which may be of a newer release: XSAVE_XENLAB_RELEASE="bookworm trixie"."""
    guest = Guest(pair.near, kind)
    guest.create()
    pair.near.xl(f"save {guest.name} /root/moved.xl", environment=HELPERS[saves])
    pair.far.put("/root/moved.xl", pair.near.get("/root/moved.xl"))
    there = Guest(pair.far, kind)
    there.sums = guest.sums
    try:
        there.restore("/root/moved.xl", HELPERS["ours"], guest.last_tick())
    finally:
        there.destroy()
