"""The man pages are those that docs/make_man.py makes from the commands."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from xsave.cli.group import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def make_man() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_man", DOCS / "make_man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_is_made_of_the_commands(make_man: ModuleType) -> None:
    made = make_man.pages()
    assert {path.name for path in (DOCS / "man").iterdir()} == set(made)
    for name, text in made.items():
        assert (DOCS / "man" / name).read_text() == text, f"python docs/make_man.py ({name})"


def test_there_is_a_page_for_each_command(make_man: ModuleType) -> None:
    assert set(make_man.pages()) == {"xsave.1", *(f"xsave-{name}.1" for name in COMMANDS)}


def test_the_formatter_has_nothing_to_say_about_them(make_man: ModuleType) -> None:
    groff = shutil.which("groff")
    for text in make_man.pages().values():
        assert text.startswith('.TH "XSAVE')
        assert "\b" not in text
        if groff is not None:
            done = subprocess.run(
                [groff, "-man", "-ww", "-z"], input=text.encode(), capture_output=True,
                check=True, timeout=60,
            )  # fmt: skip
            assert done.stderr == b""


def test_text_that_means_something_to_the_formatter_is_kept_as_text(make_man: ModuleType) -> None:
    assert make_man.roff(".so a\\b 'c' --d") == "\\&.so a\\eb \\(aqc\\(aq \\-\\-d"
