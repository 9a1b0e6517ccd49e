"""The examples of docs/live.md, and those about domains in other documents, do what is shown."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
LIVE = (DOCS / "live.md").read_text(encoding="utf-8")
CLI = (DOCS / "cli.md").read_text(encoding="utf-8")
TMEM = (DOCS / "formats" / "tmem.md").read_text(encoding="utf-8")
SECTIONS = {
    "live.md": LIVE,
    "cli.md: domains": CLI.partition("\n### Domains\n")[2].partition("\n### ")[0],
    "cli.md: main job": CLI.partition("\n### Without SOURCE")[2].partition("\n## ")[0],
    "formats/tmem.md": TMEM,
    "cli.md: plan": CLI.partition("\n## xsave plan\n")[2].partition("\n## ")[0],
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def pattern(shown: str) -> str:
    """Three dots stand for anything, and columns may be wider."""
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    return r"\s*" + re.escape("\n".join(lines)).replace(r"\.\.\.", ".*") + r"\s*"


@pytest.mark.parametrize("section", SECTIONS)
def test_the_commands_print_what_is_shown(section: str, tmp_path: Path, small_image: Path) -> None:
    (tmp_path / "guest.save").symlink_to(small_image)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, arguments in {"xsave": "-m xsave", "python3": ""}.items():
        (tools / name).write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n'
        )
        (tools / name).chmod(0o755)
    environment = {n: v for n, v in os.environ.items() if not n.startswith("XSAVE_")}
    environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    commands = [part for block in blocks(SECTIONS[section], "console")
                for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]  # fmt: skip
    assert commands
    for part in commands:
        command, _, shown = part.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip
        said = "\n".join(" ".join(line.split()) for line in done.stdout.splitlines())
        assert re.fullmatch(pattern(shown), said, re.DOTALL), f"$ {command}\n{done.stdout}"


PROGRAMS = re.findall(r"^```python\n(.*?)^```\s+^```text\n(.*?)^```", LIVE, re.M | re.S)


@pytest.mark.parametrize(("program", "shown"), PROGRAMS, ids=["checkpoints", "proof"])
def test_a_program_prints_what_is_shown(program: str, shown: str) -> None:
    """As a program of its own: the guest that it leaves running ends with it."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stderr, done.stdout) == ("", shown)


def test_every_part_of_the_downtime_is_explained() -> None:
    from attrs import fields

    from xsave.progress import DOWNTIME_PARTS, DowntimeReport

    assert set(DOWNTIME_PARTS) == {one.name for one in fields(DowntimeReport)}
    for part in DOWNTIME_PARTS:
        assert f"| `{part}` |" in LIVE
