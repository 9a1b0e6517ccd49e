"""The examples of docs/cli.md and docs/exit-codes.md are run, and print what they show."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from xsave.cli.group import COMMANDS, EXIT_CODES
from xsave.cli.group import xsave as group
from xsave.io.journal import Entry, Journal

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Those that need a plugin, a forgery or a clock: tests/cli does the same.
NEEDS_MORE = ("acme.note", "noted.xsv", "forged.xsv", "locked.img", "timeout")


def examples(document: str) -> list[tuple[str, str]]:
    """Command and output, in the order of the document."""
    found: list[tuple[str, str]] = []
    for block in _BLOCK.findall((DOCS / document).read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def matches(shown: str, said: str) -> bool:
    """Whether they agree: three dots stand for anything, and columns may be wider."""

    def plain(text: str) -> str:
        return "\n".join(" ".join(line.split()) for line in text.splitlines())

    first, *others = plain(shown).split("...")
    rest = plain(said)
    if not others or not rest.startswith(first):
        return rest == first
    rest = rest.removeprefix(first)
    *others, last = others
    for part in others:
        _, found, rest = rest.partition(part) if part else ("", " ", rest)
        if not found:
            return False
    return rest.endswith(last)


@pytest.fixture
def folder(tmp_path: Path, small_image: Path) -> Path:
    shutil.copy(small_image, tmp_path / "guest.save")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, arguments in {"xsave": "-m xsave", "python3": ""}.items():
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        tool.chmod(0o755)
    with patch("xsave.io.journal.time.time", return_value=1767225600.0):
        identity = "00112233445566778899aabbccddeeff"
        with Journal(tmp_path / "journal").hold(identity, "source") as held:
            held.write(Entry(id=identity, role="source", state="given", guest="web",
                             backend="sim", address="unix:gone.sock"))  # fmt: skip
    return tmp_path


@pytest.mark.parametrize("document", ["cli.md", "exit-codes.md"])
def test_the_examples_print_what_they_show(document: str, folder: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("XSAVE_")},
        "PATH": f"{folder / 'tools'}:{os.environ['PATH']}",
        "SOURCE_DATE_EPOCH": "1767225600", "COLUMNS": "90",
    }  # fmt: skip
    ran = 0
    for command, shown in examples(document):
        if any(name in command for name in NEEDS_MORE):
            continue
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert matches(shown, done.stdout), f"$ {command}\n{done.stdout}"
        ran += 1
    assert ran >= 5


def test_each_command_and_option_is_in_the_document() -> None:
    text = (DOCS / "cli.md").read_text()
    for name in COMMANDS:
        assert f"\n## xsave {name}\n" in text
        command = group.get_command(group.make_context("xsave", [name]), name)
        assert command is not None
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                if option.startswith("--") and option not in {"--quiet", "--verbose"}:
                    assert f"{option}" in text, (name, option)


def test_each_exit_code_has_its_section_and_its_example() -> None:
    text = (DOCS / "exit-codes.md").read_text()
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in text
        section = text.partition(f"\n## {code}: ")[2].partition("\n## ")[0]
        assert "; echo $?\n" in section
        assert re.search(rf"^{code}$", section, re.MULTILINE)
