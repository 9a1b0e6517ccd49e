"""An end that kills itself at an exact moment: at the n-th thing that it asks of the system after
its journal got a state.

What counts: flushing a file, opening, renaming or removing one, locks, and what is sent to other
processes (the other end, and the host of the guest); number 0 is the flush of the state itself.
The process dies of SIGKILL, as by ``kill -9``: nothing is put back, finished or said.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

COUNTED = frozenset({
    "open", "os.rename", "os.remove", "fcntl.flock", "socket.sendmsg", "socket.sendto",
    "socket.connect",
})  # fmt: skip


class Doom:
    """:param role, state: of an entry of the journal."""

    def __init__(self, role: str, state: str, number: int) -> None:
        self._wanted = role, state
        self._left = number
        self._counts = False
        self._looks = False

    def install(self) -> None:
        sys.addaudithook(self._hear)
        for name in ("fsync", "fdatasync"):
            setattr(os, name, self._flushing(getattr(os, name)))

    def _hear(self, event: str, _arguments: tuple[Any, ...]) -> None:
        if event in COUNTED and self._counts and not self._looks:
            self._count()

    def _flushing(self, flush: Callable[[int], None]) -> Callable[[int], None]:
        def flush_and_count(fd: int) -> None:
            self._looks = True
            self._counts |= _last_state(fd) == self._wanted
            self._looks = False
            if self._counts:
                self._count()
            flush(fd)

        return flush_and_count

    def _count(self) -> None:
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def _last_state(fd: int) -> tuple[str, str]:
    """Role and state of the entry of a journal that is being written."""
    try:
        with open(f"/proc/self/fd/{fd}", "rb") as file:  # noqa: PTH123 - a name of the kernel's
            *_, line = file.read().splitlines()
        entry = json.loads(line[line.index(b"{") :])
        return entry["role"], entry["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""
