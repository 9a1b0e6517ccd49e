"""Guests that go from host to host while they run, by ``xl migrate``: xsave at both ends, and at
one of them with Xen's own helper."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from killed_moves import kill_runs
from lab.pair import Move, Pair
from lab.releases import chosen_releases

pytestmark = pytest.mark.xen

KINDS = ["pv", "pvh", "hvm"] if chosen_releases()[0].logs_pv else ["pvh", "hvm"]
# Each goes on from where the one before has brought the guest. The firmware's guest is small
# enough for ssh.
MOVES = [Move("ours", "ours"), Move("ours", "stock"), Move("stock", "ours")]
KILLS = 3


class Wanderer:
    """A guest that has been started once, and goes from host to host."""

    def __init__(self, pair: Pair, kind: str) -> None:
        self._pair = pair
        self.guest = pair.create(kind)

    def go(self, move: Move) -> str:
        """:returns: what xl said."""
        before = self.guest
        self.guest, said = self._pair.move(before, move)
        self.guest.check_goes_on(before.last_tick())
        assert self._pair.is_at(self.guest) is self.guest.host
        return said


@pytest.fixture(scope="module", params=KINDS)
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
