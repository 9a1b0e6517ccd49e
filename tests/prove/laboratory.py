"""Two hosts in processes of their own, a link that can be cut, and processes of xsave that can
be killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from attrs import astuple, define, field

from tests.e2e.proxy import Relay
from xsave import XsaveError
from xsave_plugins.sim_host.remote import Hosts
from xsave_plugins.sim_host.served import ServedHosts

PATIENCE_S = 300.0  # for what has to happen; on a machine that is not busy, a second or two
LOOK_S = 0.002
PATIENCE = ("--patience", "2", "--answer", "10")  # of both ends; a person would have more


class HangsError(Exception):
    """What had to happen did not."""


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    """:returns: what the condition said when it was true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise HangsError(what)
        time.sleep(LOOK_S)
    return found


class Process:
    """One process of xsave.

    :ivar log: file with all that it said.
    :ivar code: exit code, negative for a signal; None while it lives.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self.code: int | None = None
        self._pidfd = -1
        self._born, self._ended = threading.Event(), threading.Event()

    def born(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)
        self._born.set()

    def ended(self, code: int) -> None:
        self.code = code
        os.close(self._pidfd)
        self._ended.set()

    def send(self, number: int) -> None:
        """A signal, to this very process."""
        if self._born.wait(PATIENCE_S) and not self._ended.is_set():
            with suppress(OSError):  # it ended by itself meanwhile
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """It is no more when this returns."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        if not self._ended.wait(PATIENCE_S):
            raise HangsError(f"{self.name} to end")
        assert self.code is not None
        return self.code

    @property
    def is_alive(self) -> bool:
        return self.code is None

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Nursery:
    """A context manager: see nursery.py."""

    def __init__(self) -> None:
        self._processes: list[Process] = []
        self._reader = threading.Thread(target=self._listen)

    def __enter__(self) -> Nursery:
        self._popen = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
            env={n: v for n, v in os.environ.items() if not n.startswith("XSAVE_")},
            start_new_session=True,  # Ctrl-C ends the series, not a run
        )  # fmt: skip
        self._reader.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        for process in self._processes:
            process.kill()
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self._popen.stdout is not None
        self._popen.stdout.close()

    def start(self, name: str, log: Path, arguments: Sequence[str], doomed: Any) -> Process:
        process = Process(name, log)
        number = len(self._processes)
        self._processes.append(process)
        assert self._popen.stdin is not None
        line = json.dumps([number, arguments, str(log), doomed])
        self._popen.stdin.write(line.encode() + b"\n")
        self._popen.stdin.flush()
        return process

    def _listen(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            told = json.loads(line)
            process = self._processes[told["number"]]
            if "pid" in told:
                process.born(told["pid"])
            else:
                process.ended(told["code"])


@define(eq=False)
class Doomed:
    """Where a process kills itself: see doomed.py."""

    role: str
    state: str
    number: int

    def __str__(self) -> str:
        return f"{self.state} + {self.number}"


@define(eq=False)
class Way:
    """One transport from the source's to the destination's end.

    :ivar listens, connects: what its addresses have before and after the port.
    :ivar receiver: the process that listens, if one does.
    """

    relay: Relay
    listens: tuple[str, str]
    connects: tuple[str, str]
    receiver: Process | None = None


@define(eq=False)
class Laboratory:
    """A context manager.

    :ivar one, two: sockets of the source's and of the destination's host.
    :ivar ways: by transport.
    """

    folder: Path
    one: str = field(init=False)
    two: str = field(init=False)
    ways: dict[str, Way] = field(factory=dict, init=False)
    _stack: ExitStack = field(factory=ExitStack, init=False)
    _nursery: Nursery = field(factory=Nursery, init=False)
    _nr_processes: int = field(default=0, init=False)

    def __enter__(self) -> Laboratory:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.one, self.two = (str(self.folder / f"{name}.sock") for name in ("one", "two"))
        self._stack.enter_context(ServedHosts(self.one))
        self._stack.enter_context(ServedHosts(self.two))
        self._stack.enter_context(self._nursery)
        certificates = self.folder / "certificates"
        if (made := self._start("certs", None, "certs", str(certificates))).wait():
            raise HangsError(f"there are no certificates: {made.said}")
        self._add_way("tcp", "", "")
        self._add_way("tls", f"?certs={certificates}/destination", f"?certs={certificates}/source")
        return self

    def _add_way(self, transport: str, listens: str, connects: str) -> None:
        relay = self._stack.enter_context(Relay(("127.0.0.1", 9)))
        before = f"{transport}:127.0.0.1:"
        self.ways[transport] = Way(relay, (before, listens), (before, connects))

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    # -- processes ---------------------------------------------------------------------

    def receive(self, way: Way, doomed: Doomed | None = None) -> Process:
        """Start it again, unless it runs; with a doom always."""
        running = way.receiver
        if running is not None and running.is_alive:
            if doomed is None and running.name == "receive":
                return running
            running.send(signal.SIGTERM)
            running.wait()
        before, after = way.listens
        started = way.receiver = self._start(
            "receive" if doomed is None else "doomed receive", doomed, "receive",
            f"{before}0{after}", "--into", f"sim:?prove=yes&at={self.two}", *PATIENCE,
            "--state", str(self.folder / "two"),
        )  # fmt: skip
        listens = re.compile(r"receiving on \w+:127\.0\.0\.1:(\d+)")
        said = wait_for(
            "receive to listen", lambda: listens.search(started.said) or not started.is_alive
        )
        if isinstance(said, re.Match):
            way.relay.target = ("127.0.0.1", int(said[1]))
        return started

    def migrate(self, way: Way, guest: str, doomed: Doomed | None = None, *options: str) -> Process:
        before, after = way.connects
        return self._start(
            "migrate", doomed, "migrate", f"sim:?name={guest}&at={self.one}",
            f"{before}{way.relay.port}{after}", "--ask", "2", *PATIENCE, *options,
            "--state", str(self.folder / "one"),
        )  # fmt: skip

    def resolve(self, *arguments: str) -> Process:
        return self._start(
            "resolve", None, "resolve", *PATIENCE, *arguments, "--state", str(self.folder / "one")
        )

    def _start(self, name: str, doomed: Doomed | None, command: str, *arguments: str) -> Process:
        log = self.folder / f"{self._nr_processes:04}-{command}.log"
        self._nr_processes += 1
        end = None if doomed is None else astuple(doomed)
        return self._nursery.start(name, log, [command, *arguments], end)

    # -- what there is -------------------------------------------------------------------

    def boot(self, address: str) -> None:
        Hosts(self.one).open(address).close()

    def guest(self, socket: str, name: str) -> Mapping[str, Any] | None:
        with Hosts(socket) as hosts:
            return hosts.guest(name)

    def journal(self, end: str) -> dict[str, str]:
        """Of the source's (``one``) or the destination's end: state by guest."""
        found = {}
        for path in sorted((self.folder / end / "migrations").glob("*.jsonl")):
            for entry in _entries(path):
                found[entry["guest"]] = entry["state"]
        return found

    def start_over(self) -> None:
        """After a run that went wrong: others are not to suffer from it. The journals are
        kept under another name."""
        for way in self.ways.values():
            if way.receiver is not None:
                way.receiver.kill()
            way.relay.go_on()
            way.relay.mend()
        for end in ("one", "two"):
            state = self.folder / end
            if state.exists():
                state.rename(self.folder / f"{end}-before-{self._nr_processes:04}")

    def end_guests(self) -> None:
        """None is left for the next run."""
        for socket in (self.one, self.two):
            with Hosts(socket) as hosts:
                for guest in hosts.guests():
                    with suppress(XsaveError):  # it may end by itself just now
                        hosts.call("destroy", guest["id"])


def _entries(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: one may be under way."""
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line[line.index(b"{") :]))
        except ValueError:
            continue
    return found
