"""The examples of docs/plugins.md are run, and the worked one is the plugin in the tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from xsave import PluginInfo, build_manager
from xsave.testing import BackendSuite, CodecSuite, FormatSuite, HandlerSuite, MemoryHandlerSuite

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "plugins.md").read_text()
VTPM = ROOT / "plugins_contrib" / "xsave-vtpm"

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^\*\*`([^`]+)`\*\*\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)

EXAMPLES, WORKED = DOCUMENT.split("\n## A worked example\n")
HOOKS = {
    match[1]: match[2]
    for match in re.finditer(r"^### `(xsave_\w+)\(.*?```python\n(.*?)^```", EXAMPLES, re.M | re.S)
}
FILES: Mapping[str, str] = dict(_FILE.findall(WORKED))


def run_examples() -> ModuleType:
    """All examples before the worked one, in one module, in their order."""
    module = ModuleType("examples_of_plugins_md")
    for match in _BLOCK.finditer(EXAMPLES):
        line = DOCUMENT[: match.start(1)].count("\n")
        exec(compile("\n" * line + match[1], "docs/plugins.md", "exec"), vars(module))
    return module


def test_every_example_runs_and_all_together_are_a_plugin() -> None:
    module = run_examples()
    module.__dict__["PLUGIN"] = PluginInfo("examples", "those of the document", (1, 1))
    manager = build_manager([module])
    status = manager.plugins[0]
    assert status.hooks == sorted(HOOKS)
    assert status.provides == {
        "record handler": ["acme.last_words"],
        "format": ["acme-log"],
        "codec": ["deflate"],
        "domain backend": ["acme"],
        "transport": ["pigeon"],
        "pre-copy policy": ["patient"],
    }
    assert all(fine for _, _, fine, _ in manager.doctor())


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_of_a_hook_is_a_plugin_by_itself(hook: str) -> None:
    module = ModuleType(f"example_of_{hook}")
    exec(HOOKS[hook], vars(module))
    module.__dict__["PLUGIN"] = PluginInfo("example", "one of the document", (1, 1))
    assert build_manager([module]).plugins[0].hooks == [hook]


# The suites that the document shows, run on the classes that it shows.
_EXAMPLES: Any = run_examples()


class TestClock(_EXAMPLES.TestClock, HandlerSuite):  # type: ignore[misc]  # made by the document
    pass


class TestFlatMemory(_EXAMPLES.TestFlatMemory, MemoryHandlerSuite):  # type: ignore[misc]  # the same
    pass


class TestDeflate(_EXAMPLES.TestDeflate, CodecSuite):  # type: ignore[misc]  # the same
    pass


class TestCounter(_EXAMPLES.TestCounter, BackendSuite):  # type: ignore[misc]  # the same
    pass


class TestLog(_EXAMPLES.TestLog, FormatSuite):  # type: ignore[misc]  # the same
    pass


@pytest.mark.parametrize("name", ["pyproject.toml", "src/xsave_vtpm/__init__.py"])
def test_the_worked_example_is_the_plugin_in_the_tree(name: str) -> None:
    assert FILES[name] == (VTPM / name).read_text()


def test_the_worked_example_works_when_it_is_installed(tmp_path: Path) -> None:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    site = tmp_path / "src"
    _install(tomllib.loads(FILES["pyproject.toml"])["project"], site)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def _install(project: Mapping[str, Any], site: Path) -> None:
    """As an installer would enter it into a folder on the path."""
    info = site / f"xsave_vtpm-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {value}" for name, value in project["entry-points"]["xsave"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[xsave]", *lines]))
