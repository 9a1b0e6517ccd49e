"""The examples of docs/backends/sim.md do what is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.console import commands, is_as_shown, run_in_one_shell

SIM = (Path(__file__).parents[2] / "docs" / "backends" / "sim.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SIM, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("section", [slice(0, 1), slice(1, 3)], ids=["addresses", "processes"])
def test_the_commands_print_what_is_shown(section: slice, tmp_path: Path) -> None:
    parts = [part for block in blocks("console")[section] for part in commands(block)]
    said = run_in_one_shell([command for command, _ in parts], tmp_path)
    for (command, shown), got in zip(parts, said, strict=True):
        if shown or section == slice(1, 3):
            assert is_as_shown(shown, got), f"$ {command}\n{got}"
    assert not any("error" in text for text in said)


def test_the_programs_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks("python"))],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")
