"""docs/migration.md: its tables are those that drive the program, and its examples run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from tests.docs.console import commands, is_as_shown, run_in_one_shell

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "migration.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


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
    blocks = re.findall(r"^```console\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    parts = [part for block in blocks for part in commands(block)]
    said = run_in_one_shell([command for command, _ in parts], tmp_path)
    for (command, shown), got in zip(parts, said, strict=True):
        assert is_as_shown(shown, got), f"$ {command}\n{got}"
