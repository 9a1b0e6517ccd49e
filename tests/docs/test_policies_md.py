"""The examples of docs/policies.md do what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xsave.estimate import read_trace

DOCUMENT = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_example_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), "docs/policies.md", "exec"), {})
    assert capsys.readouterr().out == block("text")


def test_the_trace_shown_is_the_one_of_the_example() -> None:
    trace = read_trace(block("json"))
    assert trace.nr_pages == 262144
    assert trace.samples == ((0.1, 2000), (1.0, 9000), (10.0, 15000), (30.0, 17000))
