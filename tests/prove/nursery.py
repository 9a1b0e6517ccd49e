"""A process that has loaded xsave, and of which others are made: loading it for each of many
hundred processes would take longer than all that they do.

    python nursery.py

On its standard input come lines of JSON: a number, the arguments of ``xsave``, a file for all
that it says, and where it is to end (see doomed.py) or null. On its standard output go lines:
the number and the process's id when there is one, the number and its exit code when it has
ended, negative for a signal. It ends with its standard input, and its children with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> int:
    import numpy  # noqa: F401 - to have it

    import xsave
    import xsave.cli.invocation
    from xsave.cli import main as program

    xsave.build_manager()
    signal.signal(signal.SIGCHLD, lambda *_: None)
    awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    numbers: dict[int, int] = {}
    told = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(awake, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == awake:
                    os.read(awake, 4096)
                    _reap(numbers)
                    continue
                if not (data := os.read(0, 1 << 16)):
                    return 0
                *lines, told = (told + data).split(b"\n")
                for line in lines:
                    number, *rest = json.loads(line)
                    child = os.fork()
                    if not child:
                        os._exit(_grow_up(program, *rest))
                    numbers[child] = number
                    _say({"number": number, "pid": child})


def _reap(numbers: dict[int, int]) -> None:
    while numbers:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        _say({"number": numbers.pop(child), "code": os.waitstatus_to_exitcode(status)})


def _say(what: dict[str, int]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _grow_up(program: Any, arguments: list[str], log: str, doomed: list[Any] | None) -> int:
    """The child. :returns: its exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd in range(3):
        os.close(fd)
    os.open(os.devnull, os.O_RDONLY)
    os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(1, 2)
    try:
        if doomed is not None:
            from doomed import Doom

            Doom(*doomed).install()
        code: int = program(arguments)
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        return 70
    return code


if __name__ == "__main__":
    sys.exit(main())
