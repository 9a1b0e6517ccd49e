"""Guests that run, measured in one process with them: prints JSON.

    python tests/bench/live.py socket --memory 2G --pairs 5

Building a simulated guest takes longer than saving it, so commands cannot be measured as a
whole here: this process makes the guest, and counts its own processor time around each save,
in which the guest goes on running.

What a transfer costs is the processor time of both ends, sender and receiver: that says the
same on a busy machine, where a clock on the wall says nothing. README.md has more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xsave

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
RECEIVER = """
import os, resource, sys
room = memoryview(bytearray(1 << 20))
total = 0
while got := os.readv(int(sys.argv[1]), [room]):
    total += got
usage = resource.getrusage(resource.RUSAGE_SELF)
print(total, usage.ru_utime + usage.ru_stime)
"""
Send = Callable[[int], float]  # into a descriptor; returns processor seconds


# Through a socket ---------------------------------------------------------------------------


def transfer(send: Send) -> dict[str, float]:
    """Send into a socket of this machine, whose other end is read by a process that throws
    everything away."""
    near, far = socket.socketpair()
    argv = (sys.executable, "-S", "-c", RECEIVER, str(far.fileno()))
    start = time.perf_counter()
    with subprocess.Popen(argv, pass_fds=[far.fileno()], stdout=subprocess.PIPE) as receiver:
        far.close()
        with near:
            cpu_s = send(near.fileno())
        assert receiver.stdout is not None
        size, received_s = receiver.stdout.read().split()
    return {
        "bytes": int(size),
        "sender_s": cpu_s,
        "receiver_s": float(received_s),
        "cpu_s": cpu_s + float(received_s),
        "wall_s": time.perf_counter() - start,
    }


def own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def by_command(*argv: str) -> Send:
    """A command that sends its standard output."""

    def send(fd: int) -> float:
        with subprocess.Popen((shutil.which(argv[0]) or argv[0], *argv[1:]), stdout=fd) as command:
            _, status, usage = os.wait4(command.pid, 0)
            command.returncode = os.waitstatus_to_exitcode(status)
        if command.returncode:
            raise SystemExit(f"{argv[0]} ended with {command.returncode}")
        return usage.ru_utime + usage.ru_stime

    return send


def by_save(manager: xsave.PluginManager, address: str, **options: Any) -> Send:
    def send(fd: int) -> float:
        before = own_cpu_s()
        xsave.run(address, fd, manager=manager, **options)
        return own_cpu_s() - before

    return send


def through_socket(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ours: the guest while it runs; theirs: the same bytes from a file."""
    from xsave.cli.memory import keep_freed_memory

    keep_freed_memory()
    manager = xsave.build_manager()
    address = (
        f"sim:hvm?memory={arguments.memory}&workload=random&dirty=40M/s&clock=reads&name=bench"
    )
    options: dict[str, Any] = {"to": arguments.to, "codec": arguments.codec or None}
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        stream = Path(folder) / "stream"
        # what a compressor is given is the guest as it is; cat, what was sent
        plain = {"to": "xl"} if arguments.codec else options
        xsave.run(address, stream, manager=manager, **plain)
        argv = ("zstd", "-q1", "-T2", "-c", str(stream)) if arguments.codec else ("cat", stream)
        ours, theirs = by_save(manager, address, **options), by_command(*map(str, argv))
        return pairs(ours, theirs, arguments.pairs)


def pairs(ours: Send, theirs: Send, count: int) -> dict[str, list[dict[str, float]]]:
    """In turn, the second pair the other way round."""
    for send in (ours, theirs):
        transfer(send)
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    sides = (("ours", ours), ("theirs", theirs))
    for number in range(count):
        for name, send in sides if number % 2 == 0 else reversed(sides):
            runs[name].append(transfer(send))
    return runs


# Iterations ---------------------------------------------------------------------------------


class Dirtying(xsave.PrecopyPolicy):
    """Lets a guest write between iterations, so that each one finds as much to send, and
    counts processor time from one question to the next."""

    name = "dirtying"

    def __init__(self, guest: Any, nr_iterations: int, nr_dirty: int) -> None:
        self._guest = guest
        self._left = nr_iterations
        self._nr_dirty = nr_dirty
        self._since = 0.0
        self.cpu_s: list[float] = []
        self.nr_sent: list[int] = []

    def configure(self, options: Mapping[str, str]) -> xsave.PrecopyPolicy:
        return self

    def decide(self, stats: xsave.PrecopyStats) -> xsave.Ruling:
        import numpy as np

        if stats.last.number:  # what iteration 0 costs is the guest's size
            self.cpu_s.append(own_cpu_s() - self._since)
            self.nr_sent.append(stats.last.nr_sent)
        self._left -= 1
        # the same pages for each size of guest: a 64th of the smallest, in runs and alone
        pfns = np.arange(self._nr_dirty, dtype=np.uint64) * 3 // 2 + 4096
        self._guest.rows(pfns)
        self._since = own_cpu_s()
        go_on = xsave.Decision.CONTINUE if self._left else xsave.Decision.STOP_AND_COPY
        return xsave.Ruling(go_on, "measured")


def iterations(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of guests of each size, with the same pages dirty: processor seconds of an iteration."""
    from xsave.pipeline.save import DomainReader
    from xsave_plugins.sim_host import SimBackend

    manager = xsave.build_manager()
    found: dict[str, Any] = {}
    for memory in arguments.sizes.split(","):
        domain = SimBackend(clock="manual").open(f"hvm?memory={memory}&resident=64M")
        policy = Dirtying(domain.guest, arguments.iterations + 2, arguments.dirty)
        reader = DomainReader(domain, manager, manager.handler_table(None), policy, lambda: 0)
        with Path(os.devnull).open("wb", buffering=0) as out:
            xsave.run(reader, out, manager=manager)
        reader.release("destroy")
        # the first one finds the pages for the first time
        found[memory] = {"cpu_s": policy.cpu_s[1:], "nr_sent": policy.nr_sent[1:]}
    return found


# Downtime -----------------------------------------------------------------------------------


def downtimes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Moves of a guest with hot pages, without tmem and with it: milliseconds."""
    found: dict[str, Any] = {"target_ms": arguments.target, "plain": [], "tmem": []}
    for number in range(arguments.pairs):
        kinds = ("plain", "tmem") if number % 2 == 0 else ("tmem", "plain")
        for kind in kinds:
            found[kind].append(_move(arguments, kind))
    return found


def _move(arguments: argparse.Namespace, kind: str) -> dict[str, float]:
    manager = xsave.build_manager()
    tmem = f"&tmem={arguments.tmem}" if kind == "tmem" else ""
    report = xsave.run(
        f"sim:hvm?memory={arguments.memory}&dirty=60M/s&workload=random{tmem}",
        "sim:?host=b", manager=manager, policy=f"downtime:target={arguments.target}ms",
        then="destroy",
    )  # fmt: skip
    assert report.save is not None
    downtime = report.save.downtime
    paused = [one for state in report.save.beside for one in state.passes if one.name == "paused"]
    figures = {name: count for one in paused for name, count in one.figures.items()}
    return {
        "total_ms": 1e3 * downtime.total_s,
        "memory_ms": 1e3 * downtime.memory_s,
        "beside_ms": 1e3 * downtime.beside_s,
        "nr_iterations": len(report.save.iterations),
        "converged": " is within the target of " in report.save.rulings[-1].reason,
        "paused_records": sum(one.nr_records for one in paused),
        **figures,
    }


# The command --------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure saving guests that run.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("socket", help="a guest, and the same bytes, through a socket")
    one.add_argument("--memory", default="2G")
    one.add_argument("--to", default="xl", help="format of the stream")
    one.add_argument("--codec", default="", help="then theirs is zstd, of the guest as it is")
    one.add_argument("--pairs", type=int, default=5)
    one.add_argument("--dir", type=Path, default=None, help="for the stream in a file")
    one.set_defaults(measure=through_socket)
    two = commands.add_parser("iterations", help="cost of an iteration by size of the guest")
    two.add_argument("--sizes", default="1G,16G")
    two.add_argument("--dirty", type=int, default=16384, help="pages, in each iteration")
    two.add_argument("--iterations", type=int, default=7)
    two.set_defaults(measure=iterations)
    three = commands.add_parser("downtime", help="with hot pages, without tmem and with it")
    three.add_argument("--memory", default="256M")
    three.add_argument("--target", type=int, default=200, help="of the policy, milliseconds")
    three.add_argument("--tmem", type=int, default=4000, help="pages")
    three.add_argument("--pairs", type=int, default=5)
    three.set_defaults(measure=downtimes)
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse_arguments()
    print(json.dumps(arguments.measure(arguments)))


if __name__ == "__main__":
    main()
