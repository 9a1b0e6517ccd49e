"""docs/migration.md: its tables are those that drive the program, and its examples run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "migration.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
MARK = "-- what follows: "


def test_the_tables_are_those_of_the_program() -> None:
    spec = importlib.util.spec_from_file_location("make_migration", ROOT / "docs/make_migration.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.filled(TEXT) == TEXT, "run python docs/make_migration.py"
    assert TEXT.count("| in | what happens |") == 2


def test_each_refusal_that_there_is_is_listed() -> None:
    names = set()
    for file in [ROOT / "core/xsave/pipeline/negotiate.py", *ROOT.glob("plugins/*/*/examine.py")]:
        source = file.read_text()
        names |= set(re.findall(r'Refusal\(\s*"([a-z-]+)"', source))
        names |= set(re.findall(r'refuse\(\s*"([a-z-]+)"', source))
        names |= set(re.findall(r'yield \(?\s*"((?:cpu|msr)-[a-z]+)"', source))
    listed = set(re.findall(r"`([a-z-]+)`", TEXT.partition("### Refusals")[2].partition("## ")[0]))
    assert names
    assert names <= listed


def test_the_commands_print_what_is_shown(tmp_path: Path) -> None:
    """In one shell, for the processes that one command starts and another ends."""
    blocks = re.findall(r"^```console\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    parts = [
        part.partition("\n")
        for block in blocks
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    ]
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, arguments in {"xsave": "-m xsave", "python3": ""}.items():
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        tool.chmod(0o755)
    environment = {n: v for n, v in os.environ.items() if not n.startswith("XSAVE_")}
    environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    script = "".join(f"echo '{MARK}'\n{command}\n" for command, _, _ in parts)
    done = subprocess.run(
        ["bash", "-c", f"trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{script}"], cwd=tmp_path,
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=180, check=False,
    )  # fmt: skip
    said = done.stdout.split(f"{MARK}\n")[1:]
    assert len(said) == len(parts), done.stdout
    for (command, _, shown), got in zip(parts, said, strict=True):
        wanted = "\n".join(" ".join(line.split()) for line in shown.splitlines())
        lines = "\n".join(" ".join(line.split()) for line in got.splitlines())
        pattern = re.escape(wanted).replace(r"\.\.\.", ".*")
        assert re.fullmatch(rf"\s*{pattern}\s*", lines, re.DOTALL), f"$ {command}\n{got}"
