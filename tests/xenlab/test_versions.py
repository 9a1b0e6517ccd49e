"""Guests that go from a Xen to a newer one, as images and while they run: what is tested where two
hosts are of different releases, ``XSAVE_XENLAB_RELEASE="bookworm trixie"``. Of the way back Xen
promises nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.guest import Guest
from lab.helper import HELPERS
from lab.pair import Move, Pair

pytestmark = pytest.mark.xen

# Who saves or sends, and who restores or receives.
IMAGES = [("ours", "stock"), ("stock", "ours"), ("ours", "ours"), ("native", "ours")]
MOVES = [Move("ours", "ours"), Move("ours", "stock"), Move("stock", "ours")]


class Traveller:
    """A guest of the older host. It goes on there while images of it are restored on the newer
    one, and is there again, from an image, after each time that it has moved."""

    def __init__(self, pair: Pair, kind: str) -> None:
        self._pair = pair
        self._images: dict[str, int] = {}  # by whom: the last tick before it
        self._here = Guest(pair.near, kind)
        self._here.create()

    def restore_there(self, saves: str, restores: str) -> None:
        path, before = self._image(saves)
        there = Guest(self._pair.far, self._here.kind)
        there.sums = self._here.sums
        try:
            there.restore(path, HELPERS[restores], before)
        finally:
            there.destroy()

    def move(self, move: Move) -> None:
        before = self._go_on_here()
        try:
            there, _said = self._pair.move(self._here, move)
            there.check_goes_on(before)
            assert self._pair.is_at(there) is self._pair.far
        finally:
            Guest(self._pair.far, self._here.kind).destroy()

    def _image(self, saves: str) -> tuple[str, int]:
        """:returns: its path, which is the same on both hosts; a tick before it."""
        path = f"/root/{self._here.name}-{saves}.xl"
        if saves not in self._images:
            before = self._go_on_here()
            self._pair.near.xl(f"save -c {self._here.name} {path}", environment=HELPERS[saves])
            self._here.check_goes_on(before)
            self._here.rest()
            self._pair.carry(path)
            self._images[saves] = before
        return path, self._images[saves]

    def _go_on_here(self) -> int:
        """:returns: its last tick."""
        if self._here.is_there():
            self._pair.near.run(f"xl unpause {self._here.name}")
        else:
            path, before = self._image("stock")
            self._here.restore(path, HELPERS["stock"], before)
        return self._here.last_tick()

    def destroy(self) -> None:
        self._pair.destroy(self._here)
        for host in (self._pair.near, self._pair.far):
            host.run(f"rm -f /root/{self._here.name}-*.xl")


@pytest.fixture(scope="module", params=["pv", "pvh", "hvm"])
def traveller(request: pytest.FixtureRequest, pair: Pair) -> Iterator[Traveller]:
    found = Traveller(pair, request.param)
    yield found
    found.destroy()


@pytest.mark.parametrize(("saves", "restores"), IMAGES)
def test_an_image_of_the_older_is_restored_on_the_newer(
    traveller: Traveller, saves: str, restores: str
) -> None:
    traveller.restore_there(saves, restores)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: f"{move.saves} to {move.restores}")
def test_a_guest_moves_to_the_newer_while_it_runs(traveller: Traveller, move: Move) -> None:
    traveller.move(move)
