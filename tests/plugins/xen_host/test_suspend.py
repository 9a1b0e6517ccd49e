from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.plugins.xen_host.fake_xen import FakeGuest, FakeXen
from xsave import XsaveError
from xsave_plugins.xen_host.control import Control
from xsave_plugins.xen_host.hypercalls import Hypercalls
from xsave_plugins.xen_host.libraries import Libraries
from xsave_plugins.xen_host.suspend import resume, suspend

SHUTDOWN, PAUSED, SUSPENDED, CRASHED = 4, 8, 4 | 2 << 16, 4 | 3 << 16
CALLBACK_IRQ = 0
REQUEST = "/local/domain/7/control/shutdown"


class FakeStore:
    """:param guest: does what ``answer`` says when it is asked to suspend: nothing if None."""

    def __init__(self, guest: FakeGuest, answer: int | None = SUSPENDED) -> None:
        self.guest = guest
        self.answer = answer
        self.values: dict[str, str] = {}
        self.written: list[tuple[str, str]] = []
        self.told: list[int] = []

    def read(self, path: str) -> str | None:
        return self.values.get(path)

    def write(self, path: str, value: str) -> None:
        self.values[path] = value
        self.written.append((path, value))

    def resumed(self, domid: int) -> None:
        self.told.append(domid)

    def wait_until(self, done: Callable[[], bool], paths: Sequence[str], limit_s: float) -> bool:
        if self.answer is not None and self.values.get(REQUEST) == "suspend":
            self.values[REQUEST] = ""
            self.guest.flags |= self.answer
        return done()


def run(guest: FakeGuest, store: FakeStore) -> Control:
    xen = FakeXen(guest)
    control = Control(Hypercalls(Libraries(xen, xen)), 7)
    suspend(control, store, 1.0)  # type: ignore[arg-type]
    return control


def test_a_pv_guest_is_asked_and_stops_itself() -> None:
    guest = FakeGuest(is_hvm=False)
    store = FakeStore(guest)
    assert run(guest, store).state().suspended
    assert store.written == [(REQUEST, "suspend")]


def test_an_hvm_guest_with_drivers_is_asked_too() -> None:
    guest = FakeGuest(params={CALLBACK_IRQ: 2 << 56 | 0xF3})
    store = FakeStore(guest)
    assert run(guest, store).state().suspended
    assert store.written == [(REQUEST, "suspend")]


@pytest.mark.parametrize("params", [{}, {0: 2 << 56 | 0xF3, 14: 3}], ids=["no drivers", "asleep"])
def test_an_hvm_guest_that_cannot_be_asked_is_stopped(params: dict[int, int]) -> None:
    guest = FakeGuest(params=params)
    store = FakeStore(guest)
    assert run(guest, store).state().suspended
    assert store.written == []


def test_a_guest_that_is_suspended_already_stays_so() -> None:
    guest = FakeGuest(is_hvm=False, flags=SUSPENDED)
    store = FakeStore(guest)
    run(guest, store)
    assert store.written == []


def test_a_guest_that_does_not_answer_is_let_alone() -> None:
    guest = FakeGuest(is_hvm=False)
    store = FakeStore(guest, answer=None)
    with pytest.raises(XsaveError, match="withdrawn, the guest runs on"):
        run(guest, store)
    assert store.written == [(REQUEST, "suspend"), (REQUEST, "")]


@pytest.mark.parametrize(
    ("flags", "says"),
    [(1, "is being destroyed"), (CRASHED, r"has shut down \(reason 3\)"), (PAUSED, "unpause it")],
)
def test_a_guest_that_cannot_take_part_is_told_as_such(flags: int, says: str) -> None:
    guest = FakeGuest(is_hvm=False, flags=flags)
    with pytest.raises(XsaveError, match=says):
        run(guest, FakeStore(guest))


def test_a_guest_that_crashes_instead_is_told_as_such() -> None:
    guest = FakeGuest(is_hvm=False)
    with pytest.raises(XsaveError, match=r"was to suspend, but has shut down \(reason 3\)"):
        run(guest, FakeStore(guest, answer=CRASHED))


def test_a_resumed_guest_learns_that_its_suspension_was_cancelled() -> None:
    guest = FakeGuest(is_hvm=False, vcpus={(0, "basic"): bytes(5168)})
    store = FakeStore(guest)
    control = run(guest, store)
    resume(control, store, 8)  # type: ignore[arg-type]
    assert guest.vcpus[0, "basic"][600:608] == (1).to_bytes(8, "little")
    assert guest.asked == ["resume"]
    assert store.told == [7]


def test_a_guest_without_drivers_is_resumed_as_it_is() -> None:
    guest = FakeGuest()
    store = FakeStore(guest)
    control = run(guest, store)
    resume(control, store, 8)  # type: ignore[arg-type]
    assert guest.asked == ["resume"]
    assert guest.vcpus == {}


def test_a_running_guest_is_not_resumed() -> None:
    guest = FakeGuest()
    store = FakeStore(guest)
    xen = FakeXen(guest)
    resume(Control(Hypercalls(Libraries(xen, xen)), 7), store, 8)  # type: ignore[arg-type]
    assert (guest.asked, store.told) == ([], [])
