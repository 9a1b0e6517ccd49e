from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.plugins.xen_host.fake_xen import FakeXen
from tests.plugins.xen_host.test_domain import FakeStore, connection, hvm_guest
from xsave import XsaveError
from xsave_plugins.xen_host import guard as module
from xsave_plugins.xen_host.backend import XenBackend
from xsave_plugins.xen_host.domain import SavedDomain
from xsave_plugins.xen_host.guard import DONE, RESUMED, SUSPENDING, Guard, main

LOCATOR = "7/00010203-0405-0607-0809-0a0b0c0d0e0f"
SUSPENDED = 4 | 2 << 16
REQUEST = "local/domain/7/control/shutdown"


class Store(FakeStore):
    def __init__(self) -> None:
        super().__init__(local__domain__7__name="web", libxl__7__type="pvh")
        self.waited: list[float] = []

    def write(self, path: str, value: str) -> None:
        self.values[path.lstrip("/")] = value

    def wait_until(self, done: Any, _paths: Any, limit_s: float) -> bool:
        self.waited.append(limit_s)
        return bool(done())

    def resumed(self, _domid: int) -> None: ...


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(LOCATOR, puts_back=True, folder=tmp_path / "run")


def test_two_processes_do_not_work_on_one_guest_at_once(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    argv = [sys.executable, "-c", script, tmp_path / "run" / "xen-7.lock"]
    guard.begin()
    guard.begin()  # once
    assert subprocess.run(argv, stderr=subprocess.DEVNULL, check=False).returncode == 1
    guard.end()
    guard.end()
    assert subprocess.run(argv, check=False).returncode == 0


def test_two_in_one_process_do(guard: Guard, tmp_path: Path) -> None:
    other = Guard(LOCATOR, puts_back=False, folder=tmp_path / "run")
    guard.begin()
    other.begin()
    guard.end()
    assert len(module._Lock.held) == 1
    other.end()
    assert not module._Lock.held


def test_who_waits_at_its_side_ends_when_all_is_done(guard: Guard) -> None:
    guard.begin()
    guard.say(SUSPENDING)
    guard.say(RESUMED)
    process = guard._process
    assert process is not None
    guard.end()
    assert process.returncode == 0


def test_who_keeps_a_journal_needs_nobody_at_its_side(guard: Guard) -> None:
    guard.begin()
    process = guard._process
    assert process is not None
    guard.stand_down()
    assert process.returncode == 0
    guard.say(SUSPENDING)
    guard.end()


def test_without_a_place_for_locks_nothing_is_begun(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    guard = Guard(LOCATOR, puts_back=True, folder=tmp_path / "file")
    with pytest.raises(XsaveError, match=r"xen-7\.lock"):
        guard.begin()


def test_the_lock_is_kept_by_who_puts_back(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that holds a lock is killed; the one at its side still holds it."""
    monkeypatch.setattr(module, "LIMIT_S", 0)
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from xsave_plugins.xen_host.guard import Guard\n"
        "guard = Guard(sys.argv[1], puts_back=True, folder=Path(sys.argv[2]))\n"
        "guard.begin()\n"
        "os.kill(guard._process.pid, signal.SIGSTOP)\n"
        "print(guard._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, LOCATOR, tmp_path / "run"], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == -9
    with pytest.raises(XsaveError, match=r"domain 7: another xsave is at work .*xen-7\.lock"):
        guard.begin()
    subprocess.run(["kill", "-KILL", done.stdout.decode().strip()], check=True)
    monkeypatch.setattr(module, "LIMIT_S", 60)
    guard.begin()
    guard.end()


# -- what it does when the other one has ended ------------------------------------------------


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def xen(monkeypatch: pytest.MonkeyPatch, store: Store) -> FakeXen:
    made = FakeXen(hvm_guest())
    monkeypatch.setattr(
        "xsave_plugins.xen_host.connection.Connection", lambda: connection(made, store)
    )
    monkeypatch.setattr("sys.argv", ["guard", LOCATOR])
    return made


def hear(monkeypatch: pytest.MonkeyPatch, said: bytes) -> int:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(said)))
    return main()


def test_a_guest_that_was_left_suspended_and_logged_goes_on(
    xen: FakeXen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = xen.guests[7]
    guest.flags, guest.logging = SUSPENDED, True
    assert hear(monkeypatch, SUSPENDING) == 0
    assert guest.asked.count("resume") == 1
    assert not guest.logging
    assert f"{LOCATOR}, which goes on" in capsys.readouterr().err


def test_a_request_that_nobody_waits_for_is_withdrawn(
    xen: FakeXen, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.values[REQUEST] = "suspend"
    assert hear(monkeypatch, SUSPENDING) == 0
    assert store.values[REQUEST] == ""
    assert store.waited == [5.0]


def test_a_guest_that_has_taken_note_is_waited_for(
    xen: FakeXen, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hear(monkeypatch, SUSPENDING) == 0
    assert store.waited == [60.0]


def test_a_guest_that_was_only_logged_is_not_waited_for(
    xen: FakeXen, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for said in (b"", SUSPENDING + RESUMED):
        xen.guests[7].logging = True
        assert hear(monkeypatch, said) == 0
        assert not xen.guests[7].logging
    assert not store.waited


def test_when_all_was_done_nothing_is_touched(
    xen: FakeXen, monkeypatch: pytest.MonkeyPatch
) -> None:
    xen.guests[7].flags = SUSPENDED  # as somebody wanted it
    assert hear(monkeypatch, SUSPENDING + DONE) == 0
    assert xen.guests[7].asked == []


def test_a_guest_that_is_no_more_is_no_fault(xen: FakeXen, monkeypatch: pytest.MonkeyPatch) -> None:
    del xen.guests[7]
    assert hear(monkeypatch, SUSPENDING) == 0


def test_what_cannot_be_put_back_is_told(
    xen: FakeXen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    xen.guests[7].flags = SUSPENDED
    xen.refuse[27] = 1
    assert hear(monkeypatch, SUSPENDING) == 1
    assert "in the middle of domain 7/" in capsys.readouterr().err


# -- domains and their guards -----------------------------------------------------------------


class Heard(Guard):
    def __init__(self) -> None:
        super().__init__(LOCATOR, puts_back=False)
        self.steps: list[object] = []

    def begin(self) -> None:
        self.steps.append("begin")

    def say(self, step: bytes) -> None:
        self.steps.append(step)

    def stand_down(self) -> None:
        self.steps.append("stand down")

    def end(self) -> None:
        self.steps.append("end")


def test_a_domain_is_guarded_from_its_first_change_to_its_end(store: Store) -> None:
    guard = Heard()
    guest = hvm_guest()
    one = SavedDomain(connection(FakeXen(guest), store), 7, guard=guard)
    assert guard.steps == []  # looking is free
    one.start_dirty_log()
    one.pause()
    one.stop_dirty_log()
    one.resume()
    one.close()
    assert guard.steps == ["begin", "begin", SUSPENDING, RESUMED, "end"]


def test_whoever_asks_for_the_locator_decides(store: Store) -> None:
    guard = Heard()
    one = SavedDomain(connection(FakeXen(hvm_guest()), store), 7, guard=guard)
    assert one.locator == LOCATOR
    assert guard.steps == ["stand down"]


def test_a_guest_that_is_found_again_goes_on_whoever_suspended_it(xen: FakeXen) -> None:
    xen.guests[7].flags, xen.guests[7].logging = SUSPENDED, True
    found = XenBackend().find(LOCATOR)
    assert found is not None
    found.resume()
    found.stop_dirty_log()
    assert xen.guests[7].asked.count("resume") == 1
    assert not xen.guests[7].logging
