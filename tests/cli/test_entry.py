"""``xsave`` before any command: help, version, and what they import."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import xsave
from xsave.cli import main
from xsave.cli.group import _HOMES, COMMANDS, EXIT_CODES
from xsave.cli.group import xsave as group

CLI = Path(xsave.__file__).parent / "cli"
Run = Callable[..., subprocess.CompletedProcess[bytes]]
Enter = Callable[..., dict[str, str]]

IMPORTS = """
import contextlib, io, json, sys
from xsave.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)))
"""


def imported_by(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *arguments], capture_output=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


def test_version_is_answered_without_click() -> None:
    found = imported_by("--version")
    assert not {"click", "attr", "pluggy", "numpy", "xsave.errors", "logging"} & found


def test_help_is_answered_without_plugins_and_libraries() -> None:
    found = imported_by("--help")
    assert "click" in found
    assert not {"attr", "pluggy", "numpy", "rich", "cbor2", "importlib.metadata"} & found
    assert not {name for name in found if name.startswith("xsave_plugins")}


def cpu_s(arguments: Sequence[str]) -> float:
    """The least processor time of several runs: what it costs when nothing disturbs."""
    times = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(arguments, check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_help_and_version_cost_a_few_bare_interpreters() -> None:
    bare = cpu_s([sys.executable, "-c", "pass"])
    assert cpu_s([sys.executable, "-m", "xsave", "--version"]) < 4.5 * bare
    # 150 ms where a bare interpreter takes 10; a ratio holds on slower machines too
    assert cpu_s([sys.executable, "-m", "xsave", "--help"]) < 15 * bare


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "--help"]])
def test_version_says_the_version(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capfd.readouterr().out == f"xsave {xsave.__version__}\n"


def test_the_console_script_is_this_program(run_xsave: Run) -> None:
    script = Path(sys.executable).with_name("xsave")
    done = subprocess.run([script, "--help"], capture_output=True, check=True, timeout=60)
    assert done.stdout == run_xsave("--help").stdout


def test_help_lists_every_command_and_every_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capfd.readouterr().out
    homes = {home: name for name, home in _HOMES.items()}
    files = {
        homes.get(path.stem, path.stem)
        for path in CLI.glob("*.py")
        if "@click.command(" in path.read_text()
    }
    assert files == set(COMMANDS)
    for name, about in COMMANDS.items():
        assert f"  {name} " in text
        assert about in " ".join(text.split())
    for code, meaning in EXIT_CODES.items():
        assert f"{code:>5}  {meaning}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_examples(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([name, "-h"]) == 0
    text = capfd.readouterr().out
    assert f"Usage: xsave {name} " in text
    examples = text.partition("Examples:\n")[2].partition("\n\n")[0]
    assert f"xsave {name}" in examples
    assert main([name, "--help"]) == 0
    assert capfd.readouterr().out == text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    command = group.get_command(group.make_context("xsave", [name]), name)
    assert command is not None
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), parameter.name


def test_without_arguments_help_is_shown_and_it_is_a_usage_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "Commands:" in shown.err


def test_exit_codes_are_those_of_the_errors() -> None:
    errors = [getattr(xsave, name) for name in xsave.__all__ if name.endswith("Error")]
    assert {error.exit_code for error in errors} | {0, 6} == set(EXIT_CODES)


def test_python_warnings_are_not_shown(run_xsave: Run, enter_plugin: Enter, tmp_path: Path) -> None:
    env = enter_plugin(tmp_path, "loud", "import warnings\nwarnings.warn('look at me')\n")
    done = run_xsave("plugins", env=env)
    assert done.returncode == 0
    assert done.stderr == b""


def test_main_in_a_thread_leaves_signals_and_logging_alone() -> None:
    import logging
    import signal
    import threading

    before = signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["completion", os.devnull])))
    thread.start()
    thread.join()
    assert codes == [2]
    assert main(["completion", "nu"]) == 2
    assert before == (signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers))
