"""ssh: is the system's client, told nothing but where to go and what to run there."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from xsave import LinkLostError, TryAgainError, UsageError
from xsave.link.connect import connect
from xsave.testing.transport_suite import read_exactly, read_to_end
from xsave_plugins.transports.ssh import SshTransport

TIME_S = 60.0
SSH = SshTransport()
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
# An end as `xsave receive pipe:` would be one: it answers each message.
FAR_END = """
import xsave
from xsave.link.server import serve
from xsave import LinkError

transport = xsave.build_manager().transports.find("pipe")
with transport.listen("") as listener, serve(listener) as server, server.accept(30) as link:
    while True:
        try:
            message = link.receive()
        except LinkError:
            break
        if "stream" in message:
            link.send({"got": len(link.source().read())})
        else:
            link.send({"you said": message})
"""


@pytest.fixture
def far_end(tmp_path: Path) -> str:
    """The command that runs it, as text for ``?command=``."""
    program = tmp_path / "far_end.py"
    program.write_text(FAR_END)
    return quote(f"exec {shlex.quote(sys.executable)} {shlex.quote(str(program))}")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh that writes down what it was told, and runs the command here."""
    said = tmp_path / "arguments"
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {said}\nfor last; do :; done\nexec sh -c "$last"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return said


def test_the_far_end_runs_the_command_and_its_output_is_the_channel(stand_in: Path) -> None:
    channel = SSH.connect(f"me@host?command={quote('tr a-z A-Z')}&port=2222", TIME_S)
    assert channel.peer == "ssh:me@host"
    channel.write_parts([b"hello ", b"there"])
    os.close(channel._out)  # as far as the other end can tell, this one has ended
    channel._out = os.open(os.devnull, os.O_WRONLY)
    assert read_exactly(channel, 11) == b"HELLO THERE"
    assert read_to_end(channel) == b""
    channel.close()
    assert channel._process.returncode == 0
    assert stand_in.read_text().split("\n") == [
        "-T", "-e", "none", "-o", "ClearAllForwardings=yes", "-p", "2222", "--", "me@host",
        "tr a-z A-Z", "",
    ]  # fmt: skip


def test_without_a_command_it_is_the_receiving_xsave(stand_in: Path) -> None:
    SSH.connect("host", TIME_S).close()
    assert stand_in.read_text().split("\n")[-3:] == ["host", "xsave receive pipe:", ""]


def test_a_link_goes_over_it(stand_in: Path, far_end: str) -> None:
    with connect(SSH, f"host?command={far_end}") as link:
        link.send({"hello": 1})
        assert link.receive(TIME_S) == {"you said": {"hello": 1}}
        link.send({"stream": True})
        link.sink.put([bytes(3 << 20)])
        link.sink.finish()
        assert link.receive(TIME_S) == {"got": 3 << 20}
    assert stand_in.exists()


def test_a_command_that_fails_is_said_with_its_exit_code(stand_in: Path) -> None:
    assert not stand_in.exists()
    with pytest.raises(TryAgainError, match="ssh has ended with exit code 3"):
        connect(SSH, f"host?command={quote('exit 3')}")


def test_a_link_ends_when_ssh_does(stand_in: Path, far_end: str) -> None:
    link = connect(SSH, f"host?command={far_end}")
    next(iter(link._lanes.values())).channel._process.send_signal(signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(LinkLostError, match=r"^the link with ssh:host broke: [^,]*$"):
        link.receive(TIME_S)
    link.close()
    assert stand_in.exists()


@pytest.mark.parametrize(
    "address",
    ["", "-oProxyCommand=evil", "me@-x", "a b", "host;ls", "host?color=red", "host?port=ssh",
     "host?port=0", "host?command"],
)  # fmt: skip
def test_an_address_that_ssh_could_take_for_something_else_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="ssh:"):
        SSH.connect(address, TIME_S)


def test_nobody_listens_at_ssh() -> None:
    with pytest.raises(UsageError, match="'xsave receive pipe:' is started by the end that"):
        SSH.listen("host")


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XSAVE_SSH", "/nonexistent/ssh")
    with pytest.raises(UsageError, match="there is no /nonexistent/ssh: install"):
        SSH.connect("host", TIME_S)


# A real one.


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server on loopback; its port, and a client's configuration that leads there."""
    for key in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key)], check=True
        )
    (tmp_path / "keys").write_text((tmp_path / "user.pub").read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "keys", "PidFile": "none", "StrictModes": "no",
        "UsePAM": "no", "PasswordAuthentication": "no",
    }  # fmt: skip
    (tmp_path / "sshd_config").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    public = " ".join((tmp_path / "host.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {public}\n")
    (tmp_path / "config").write_text(
        f"Host laboratory\n  HostName 127.0.0.1\n  Port {port}\n  IdentitiesOnly yes\n"
        f"  User {getpass.getuser()}\n"
        f"  IdentityFile {tmp_path / 'user'}\n  UserKnownHostsFile {tmp_path / 'known'}\n"
    )
    assert SSHD is not None
    with subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=subprocess.PIPE
    ) as server:
        assert server.stderr is not None
        try:
            assert b"listening" in server.stderr.readline().lower()
            yield str(port), tmp_path / "config"
        finally:
            server.terminate()


@pytest.mark.sshd
def test_a_link_goes_over_a_real_ssh(
    sshd: tuple[str, Path], far_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "with_config"
    program.write_text(f'#!/bin/sh\nexec ssh -F {sshd[1]} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("XSAVE_SSH", str(program))
    with connect(SSH, f"laboratory?command={far_end}") as link:
        link.send({"stream": True})
        link.sink.put([os.urandom(1 << 20)] * 5)
        link.sink.finish()
        assert link.receive(TIME_S) == {"got": 5 << 20}
