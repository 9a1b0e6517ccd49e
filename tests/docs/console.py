"""What a document shows in a console: its commands run in one shell, and what they print."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MARK = "-- what follows: "
LIMIT_S = 180
TOOLS = {"xsave": "-m xsave", "python3": ""}


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a block, with what is shown under it."""
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, shown = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", part, re.DOTALL).groups()  # type: ignore[union-attr]
        found.append((command, shown))
    return found


def is_as_shown(shown: str, got: str) -> bool:
    """Three dots stand for anything, and columns may be wider."""
    pattern = re.escape(_narrow(shown)).replace(r"\.\.\.", ".*")
    return re.fullmatch(rf"\s*{pattern}\s*", _narrow(got), re.DOTALL) is not None


def _narrow(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def run_in_one_shell(parts: Sequence[str], folder: Path) -> list[str]:
    """In one shell, for the processes that one command starts and another ends. None of them
    is left behind, whatever happens.

    :returns: what each printed, both streams.
    """
    tools = folder / "tools"
    tools.mkdir()
    for name, arguments in TOOLS.items():
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        tool.chmod(0o755)
    environment = {n: v for n, v in os.environ.items() if not n.startswith("XSAVE_")}
    environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    script = "".join(f"echo '{MARK}'\n{command}\n" for command in parts)
    shell = subprocess.Popen(
        ["bash", "-c", f"trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{script}"], cwd=folder,
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = shell.communicate(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):  # a group that is over
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    said = printed.split(f"{MARK}\n")[1:]
    assert len(said) == len(parts), printed
    return said
