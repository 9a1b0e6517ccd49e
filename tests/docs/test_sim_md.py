"""The examples of docs/backends/sim.md do what is shown."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

SIM = (Path(__file__).parents[2] / "docs" / "backends" / "sim.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SIM, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[tuple[str, str]]:
    """Each command, with what is shown under it."""
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, shown = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", part, re.DOTALL).groups()  # type: ignore[union-attr]
        found.append((command, shown))
    return found


def pattern(shown: str) -> str:
    """Three dots stand for anything, and columns may be wider."""
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    return r"\s*" + re.escape("\n".join(lines)).replace(r"\.\.\.", ".*") + r"\s*"


MARK = "-- what follows: "


@pytest.mark.parametrize("section", [slice(0, 1), slice(1, 3)], ids=["addresses", "processes"])
def test_the_commands_print_what_is_shown(section: slice, tmp_path: Path) -> None:
    """In one shell, for the processes that one command starts and another ends."""
    parts = [part for block in blocks("console")[section] for part in commands(block)]
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, arguments in {"xsave": "-m xsave", "python3": ""}.items():
        (tools / name).write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n'
        )
        (tools / name).chmod(0o755)
    script = "".join(f"echo '{MARK}{i}'\n{part}\n" for i, (part, _) in enumerate(parts))
    environment = {n: v for n, v in os.environ.items() if not n.startswith("XSAVE_")}
    environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{script}"], cwd=tmp_path,
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    said = re.split(rf"^{MARK}\d+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert len(said) == len(parts), done.stdout
    for (command, shown), got in zip(parts, said, strict=True):
        if shown or section == slice(1, 3):
            lines = "\n".join(" ".join(line.split()) for line in got.splitlines())
            assert re.fullmatch(pattern(shown), lines, re.DOTALL), f"$ {command}\n{got}"
    assert "error" not in done.stdout


def test_the_programs_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks("python"))],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")
