from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Enter = Callable[..., dict[str, str]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_calls_xsave(run_xsave: Run, shell: str) -> None:
    done = run_xsave("completion", shell)
    assert done.returncode == 0
    assert f"_XSAVE_COMPLETE={shell}_complete".encode() in done.stdout
    assert done.stdout.endswith(b"\n")


def test_bash_understands_its_script(run_xsave: Run) -> None:
    script = run_xsave("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, check=True, timeout=60)


def test_an_unknown_shell_is_a_usage_error(run_xsave: Run) -> None:
    done = run_xsave("completion", "nu")
    assert done.returncode == 2
    assert b"'bash', 'zsh', 'fish'" in done.stderr


def complete(run_xsave: Run, *words: str, **env: str) -> list[str]:
    """What a bash would offer for the last word."""
    done = run_xsave(
        env={
            "_XSAVE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["xsave", *words]),
            "COMP_CWORD": str(len(words)), **env,
        },
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == b""
    return [line.partition(",")[2] for line in done.stdout.decode().split("\n") if line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plu"], ["plugins"]),
        (["run", "--work"], ["--workers"]),
        (["run", "--codec", "zs"], ["zstd"]),
        (["run", "--to", "libxc-"], ["libxc-v2", "libxc-v3"]),
        (["verify", "--plugins", "hvm,qe"], ["hvm,qemu"]),
        (["plugins", "hv"], ["hvm"]),
        (["inspect", "--record", "xen.hvm.p"], ["xen.hvm.page_data", "xen.hvm.params"]),
        (["run", "--add", "xen.hvm.pa"], ["xen.hvm.page_data=", "xen.hvm.params="]),
        (["completion", "f"], ["fish"]),
    ],
)
def test_commands_options_and_names_complete(
    run_xsave: Run, words: list[str], expected: list[str]
) -> None:
    assert complete(run_xsave, *words) == expected


def test_with_contradicting_plugins_there_is_nothing_to_offer(
    run_xsave: Run, enter_plugin: Enter, tmp_path: Path
) -> None:
    enter_plugin(tmp_path, "flux", "", distribution="flux-one")
    env = enter_plugin(tmp_path, "flux", "", distribution="flux-two")
    assert complete(run_xsave, "run", "--codec", "z", **env) == []
