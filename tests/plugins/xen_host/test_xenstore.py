"""The daemon's answers lie ready in the socket before the questions are asked."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from xsave import XsaveError
from xsave_plugins.xen_host.xenstore import Xenstore, XenstoreError

DIRECTORY, READ, WATCH, UNWATCH, WRITE, EVENT, ERROR, RESUME = 1, 2, 4, 5, 11, 15, 16, 18


class Daemon:
    """Its end of the line."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link

    def say(self, kind: int, number: int, body: bytes) -> None:
        self.link.sendall(struct.pack("<IIII", kind, number, 0, len(body)) + body)

    def asked(self) -> list[tuple[int, bytes]]:
        self.link.setblocking(False)
        data, found = self.link.recv(1 << 16), []
        while data:
            kind, _, _, size = struct.unpack_from("<IIII", data)
            found.append((kind, data[16 : 16 + size]))
            data = data[16 + size :]
        return found


@pytest.fixture
def line() -> Iterator[tuple[Xenstore, Daemon]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Xenstore(ours), Daemon(theirs)


def test_values_are_read_and_written(line: tuple[Xenstore, Daemon]) -> None:
    store, daemon = line
    daemon.say(READ, 1, b"pv1")
    daemon.say(WRITE, 2, b"OK\0")
    daemon.say(RESUME, 3, b"OK\0")
    assert store.read("/local/domain/1/name") == "pv1"
    store.write("/a/b", "suspend")
    store.resumed(7)
    assert daemon.asked() == [
        (READ, b"/local/domain/1/name\0"), (WRITE, b"/a/b\0suspend"), (RESUME, b"7\0"),
    ]  # fmt: skip


def test_what_is_not_there_is_none(line: tuple[Xenstore, Daemon]) -> None:
    store, daemon = line
    daemon.say(ERROR, 1, b"ENOENT\0")
    daemon.say(ERROR, 2, b"ENOENT\0")
    assert store.read("/nothing") is None
    assert store.list("/nothing") == []


def test_names_are_listed(line: tuple[Xenstore, Daemon]) -> None:
    store, daemon = line
    daemon.say(DIRECTORY, 1, b"0\0001\0")
    assert store.list("/local/domain") == ["0", "1"]


def test_a_refusal_says_of_what_and_why(line: tuple[Xenstore, Daemon]) -> None:
    store, daemon = line
    daemon.say(ERROR, 1, b"EACCES\0")
    with pytest.raises(XenstoreError, match=r"xenstore: writing /x: EACCES"):
        store.write("/x", "y")


def test_events_between_question_and_answer_do_no_harm(line: tuple[Xenstore, Daemon]) -> None:
    store, daemon = line
    daemon.say(EVENT, 0, b"@releaseDomain\0token\0")
    daemon.say(READ, 1, b"value")
    assert store.read("/x") == "value"


def test_it_waits_until_what_changes_is_as_wanted(line: tuple[Xenstore, Daemon]) -> None:
    store, daemon = line
    daemon.say(WATCH, 1, b"OK\0")
    for number, value in ((2, b"suspend"), (3, b"suspend"), (4, b"")):
        daemon.say(EVENT, 0, b"/x\0/x\0")
        daemon.say(READ, number, value)
    daemon.say(UNWATCH, 5, b"OK\0")
    assert store.wait_until(lambda: store.read("/x") == "", ["/x"], 60)
    kinds = [kind for kind, _ in daemon.asked()]
    assert (kinds[0], kinds[-1]) == (WATCH, UNWATCH)


def test_it_does_not_wait_for_ever(line: tuple[Xenstore, Daemon]) -> None:
    store, daemon = line
    daemon.say(WATCH, 1, b"OK\0")
    daemon.say(UNWATCH, 2, b"OK\0")
    assert not store.wait_until(lambda: False, ["/x"], 0.0)


@pytest.mark.parametrize(
    ("body", "says"),
    [(struct.pack("<IIII", READ, 1, 0, 5000), "a message of 5000 bytes"),
     (struct.pack("<IIII", READ, 1, 0, 8) + b"cut", "closed the connection"),
     (struct.pack("<IIII", WRITE, 1, 0, 0), "expected an answer of type 2, got 11")],
)  # fmt: skip
def test_a_daemon_that_says_nonsense_is_refused(
    line: tuple[Xenstore, Daemon], body: bytes, says: str
) -> None:
    store, daemon = line
    daemon.link.sendall(body)
    daemon.link.shutdown(socket.SHUT_WR)
    with pytest.raises(XenstoreError, match=says):
        store.read("/x")


def test_a_question_that_is_too_long_is_not_asked(line: tuple[Xenstore, Daemon]) -> None:
    with pytest.raises(XenstoreError, match="more than 4096 bytes"):
        line[0].write("/x", "y" * 5000)


def test_no_daemon_is_told_with_the_place(tmp_path_factory: pytest.TempPathFactory) -> None:
    missing = str(tmp_path_factory.mktemp("x") / "socket")
    with pytest.raises(XsaveError, match=r"xenstore does not answer \(.*socket: No such file"):
        Xenstore.connect([missing])
