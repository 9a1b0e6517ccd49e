"""Runs the command line as other programs do, and judges its JSON by the schemas.

Not among the tests of the core, which pass without any plugin: here the bundled ones are used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
XSAVE = (sys.executable, "-m", "xsave")

# A plugin of another distribution: an optional record, and a format that only fails.
ACME = """
from xsave import FieldError, Format, Phase, PluginInfo, RecordHandler, TryAgainError, hookimpl

PLUGIN = PluginInfo(name="acme", summary="notes about guests", contract=(1, 1))


class Note(RecordHandler):
    name = "acme.note"
    summary = "what somebody wrote about the guest"
    mandatory = False
    phase = Phase.DEVICE_MODEL

    def decode(self, body):
        if not body:
            raise FieldError(field="text", expected="some", got="none")
        return bytes(body)

    def encode(self, state):
        return (state,)

    def describe(self, state, seen):
        return {"text": state.decode("utf-8", "replace")}


class Seal(Note):
    name = "acme.seal"
    summary = "a mandatory note"
    mandatory = True


class Failing(Format):
    name = "acme"
    summary = "fails as its first byte says"
    writable = False

    def sniff(self, head):
        return head[1:5] == b"acme"

    def reader(self, source, options):
        if source.peek(1) == b"L":
            raise TryAgainError("the image is locked by its writer")
        raise ZeroDivisionError("one by zero")

    def writer(self, sink, info, options):
        raise AssertionError


@hookimpl
def xsave_register_handlers(register):
    register(Note())
    register(Seal())


@hookimpl
def xsave_register_formats(register):
    register(Failing())
"""


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XSAVE_PLUGINS", "XSAVE_DEBUG", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture(scope="session")
def run_xsave() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """``run_xsave("verify", path)`` as a process; ``env`` adds to the environment."""

    def run(
        *arguments: str | Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*XSAVE, *map(str, arguments)],
            capture_output="stdout" not in options,
            check=False,
            timeout=120,
            env={**os.environ, **(env or {})},
            stdin=None if "input" in options or "stdin" in options else subprocess.DEVNULL,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def native_image(
    run_xsave: Callable[..., subprocess.CompletedProcess[bytes]],
    small_image: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The small image as native, with zstd."""
    path = tmp_path_factory.mktemp("native") / "guest.xsv"
    done = run_xsave("run", small_image, path, "--codec", "zstd:1")
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def enter_plugin() -> Callable[..., dict[str, str]]:
    """Puts a distribution into a folder; the environment in which it is installed."""

    def enter(
        folder: Path, name: str, source: str, distribution: str | None = None
    ) -> dict[str, str]:
        distribution = distribution or f"xsave-{name}"
        module = distribution.replace("-", "_")
        (folder / f"{module}.py").write_text(source)
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[xsave]\n{name} = {module}\n")
        return {"PYTHONPATH": str(folder)}

    return enter


@pytest.fixture(scope="session")
def acme(
    enter_plugin: Callable[..., dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """An environment with the plugin ``acme``."""
    return enter_plugin(tmp_path_factory.mktemp("acme"), "acme", ACME)


@pytest.fixture(scope="session")
def valid() -> Callable[[bytes | str], dict[str, Any]]:
    """One JSON object that is what the schema it names says; the object."""

    def validate(text: bytes | str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(text)
        project, name, version = found["schema"].split("/")
        assert (project, version) == ("xsave", "1")
        schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text())
        Draft202012Validator(schema).validate(found)
        return found

    return validate
