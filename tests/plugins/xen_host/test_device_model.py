from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from xsave import XsaveError
from xsave_plugins.xen_host.device_model import DeviceModel, Qmp

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
FINE = b'{"return": {}}\r\n'


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_command_is_answered(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    theirs.sendall(GREETING + FINE + b'{"event": "STOP"}\r\n{"return": {"a": 1}}\r\n')
    assert Qmp(ours).ask("query", what="x") == {"a": 1}
    asked = [json.loads(one) for one in theirs.recv(1 << 16).splitlines()]
    assert asked == [
        {"execute": "qmp_capabilities"},
        {"execute": "query", "arguments": {"what": "x"}},
    ]


def test_a_refusal_is_told(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    theirs.sendall(GREETING + FINE + b'{"error": {"class": "GenericError", "desc": "no"}}\r\n')
    with pytest.raises(XsaveError, match=r"refused stop: .*GenericError"):
        Qmp(ours).ask("stop")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (b'{"hello": 1}\n', "does not greet"),
        (b"no json\n", "does not speak QMP"),
        (b"[1]\n", "does not speak QMP"),
        (b"half a line", "closed the connection"),
    ],
)
def test_what_is_no_device_model_is_told(
    line: tuple[socket.socket, socket.socket], said: bytes, says: str
) -> None:
    ours, theirs = line
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(XsaveError, match=says):
        Qmp(ours)


def test_a_guest_without_device_model_has_none(tmp_path: Path) -> None:
    model = DeviceModel(7, str(tmp_path / "qmp"))
    assert not model.is_there
    with pytest.raises(XsaveError, match="No such file"):
        model.stop()


def test_a_device_model_that_runs_is_not_saved(
    line: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = line
    theirs.sendall(GREETING + FINE + b'{"return": {"status": "running", "running": true}}\n')
    monkeypatch.setattr(
        DeviceModel, "_conversation", lambda _self: contextlib.nullcontext(Qmp(ours))
    )
    with pytest.raises(XsaveError, match="domain 7: its device model has not stopped"):
        DeviceModel(7, "there").state()


def test_nothing_is_loaded_into_one(tmp_path: Path) -> None:
    model = DeviceModel(7, str(tmp_path / "qmp"))
    assert model.xenstore_data() == b""
    for load in (model.load, model.load_xenstore_data):
        with pytest.raises(XsaveError, match="started by the toolstack"):
            load(2, b"QEVM")
