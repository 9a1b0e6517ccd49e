"""The examples of docs/transports.md run, and its tables are those of the code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from xsave import build_manager
from xsave.link.frame import BODY_LIMITS, HEAD, Kind
from xsave.link.options import LinkOptions

DOCUMENT = (Path(__file__).parents[2] / "docs" / "transports.md").read_text()
_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_examples_run(tmp_path: Path) -> None:
    """In their order, in one process and folder; commands where they stand."""
    program = "import subprocess\n"
    for kind, text in _BLOCK.findall(DOCUMENT):
        if kind == "console":
            for command in re.findall(r"^\$ xsave (.*)$", text, re.MULTILINE):
                argv = [sys.executable, "-m", "xsave", *shlex.split(command)]
                program += f"subprocess.run({argv!r}, check=True)\n"
        else:
            program += text
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XSAVE_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_each_transport_has_its_section() -> None:
    for name in build_manager().transports.names():
        assert f"\n## {name}\n" in DOCUMENT
        assert f"](#{name})" in DOCUMENT


def test_frames_are_the_documented_ones() -> None:
    rows = dict(re.findall(r"^\| (\d) \| (\w+) \|", DOCUMENT, re.MULTILINE))
    assert {int(number): name for number, name in rows.items() if name.islower()} | {
        kind.value: kind.name.lower() for kind in Kind
    } == {kind.value: kind.name.lower() for kind in Kind}
    assert set(BODY_LIMITS) == set(Kind)
    assert HEAD.size == 16


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("window_bytes", "at most the window of 4 MiB"),
        ("ping_s", "a sign of life each 5 s"),
        ("silence_s", "After 20 s of silence"),
        ("patience_s", "after 60 s without a channel"),
    ],
)
def test_what_holds_by_default_is_what_is_said(name: str, said: str) -> None:
    text = " ".join(DOCUMENT.split())
    assert said in text
    value = getattr(LinkOptions(), name)
    number = value >> 20 if name.endswith("_bytes") else value  # and a little for its table
    assert re.search(rf"\b{number:g}\b", said)
