"""What is drawn on a terminal, what is refused there, and what happens when it is gone."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[bytes]]
WITHOUT_RICH = "import sys; sys.modules['rich.console'] = None\n"
MAIN = "import sys; from xsave.cli import main; sys.exit(main())"


def on_terminal(
    *arguments: str | Path,
    streams: tuple[str, ...] = ("stdout",),
    env: Mapping[str, str] | None = None,
    before: str = "",
    width: int = 100,
) -> tuple[int, str]:
    """Exit code, and what the terminal got; other streams go nowhere."""
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    process = subprocess.Popen(
        [sys.executable, "-c", before + MAIN, *map(str, arguments)],
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        **{**ends, **dict.fromkeys(streams, terminal)},  # type: ignore[call-overload]  # names of streams
    )
    os.close(terminal)
    got = b""
    while True:
        try:
            piece = os.read(control, 1 << 16)
        except OSError:  # EIO: nobody has it open any more
            break
        if not piece:
            break
        got += piece
    os.close(control)
    return process.wait(timeout=60), got.decode()


def test_the_tree_is_drawn(native_image: Path) -> None:
    code, got = on_terminal("inspect", native_image)
    assert code == 0
    assert "├── " in got
    assert "\x1b[1m" in got
    assert "xen.hvm.params" in got


def test_no_color_leaves_the_tree_and_takes_the_escapes(native_image: Path) -> None:
    code, got = on_terminal("inspect", native_image, env={"NO_COLOR": "1"})
    assert code == 0
    assert "├── " in got
    assert "\x1b" not in got


def test_without_rich_the_text_is_plain(native_image: Path) -> None:
    code, got = on_terminal("inspect", native_image, before=WITHOUT_RICH)
    assert code == 0
    assert "├" not in got
    assert "\r\n  xen.hvm.params  " in got


def test_json_is_indented_on_a_terminal(native_image: Path) -> None:
    _, got = on_terminal("verify", native_image, "--json", "--no-progress")
    assert got.startswith('{\r\n  "schema": "xsave/verify/1",\r\n')


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "IMAGE", "--record", "xen.hvm.params", "--raw"),
        ("inspect", "IMAGE", "--pfn", "1", "--raw"),
        ("run", "IMAGE", "-"),
    ],
)
def test_bytes_are_not_written_to_a_terminal(
    native_image: Path, arguments: tuple[str, ...]
) -> None:
    given = [str(native_image) if part == "IMAGE" else part for part in arguments]
    code, got = on_terminal(*given, streams=("stdout", "stderr"))
    assert code == 2
    assert "xsave: error: standard output is a terminal" in got


def test_an_image_is_not_read_from_a_terminal(tmp_path: Path) -> None:
    code, got = on_terminal("run", "-", tmp_path / "a.xsv", streams=("stdin", "stderr"))
    assert code == 2
    assert "xsave: error: standard input is a terminal" in got
    assert not list(tmp_path.iterdir())


def test_progress_is_drawn_on_a_terminal_and_wiped_away(small_image: Path, tmp_path: Path) -> None:
    code, got = on_terminal("run", small_image, tmp_path / "a", streams=("stderr",))
    assert code == 0
    bar, wiped, report = got.partition("\r\x1b[K")
    assert wiped
    assert "━" in bar
    assert "100 %  24.0 MiB of 24.0 MiB" in bar
    assert "\n" not in bar
    assert report.startswith("xl image of an x86_hvm guest")


def test_progress_without_colour_fits_a_narrow_terminal(small_image: Path, tmp_path: Path) -> None:
    code, got = on_terminal(
        "run", small_image, tmp_path / "a", "--to", "native",
        streams=("stderr",), width=30, env={"NO_COLOR": "1"},
    )  # fmt: skip
    assert code == 0
    bar, wiped, _ = got.partition("\r\x1b[K")
    assert wiped
    assert "\x1b" not in bar
    assert max(len(drawn) for drawn in bar.split("\r")) < 30


@pytest.mark.parametrize("option", ["--no-progress", "-q"])
def test_progress_can_be_switched_off(small_image: Path, tmp_path: Path, option: str) -> None:
    _, got = on_terminal("run", small_image, tmp_path / "a", option, streams=("stderr",))
    assert " % " not in got.partition("xl image")[0]


def test_progress_elsewhere_is_lines_where_asked_for(
    run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    assert b" % " not in run_xsave("verify", small_image).stderr
    done = run_xsave("verify", small_image, "--progress")
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("xsave: verify   0 %")
    assert lines[-1].startswith("xsave: verify 100 %  24.0 MiB of 24.0 MiB")
    piped = run_xsave("verify", "-", "--progress", input=small_image.read_bytes())
    assert piped.stderr.startswith(b"xsave: verify  1.4 KiB  ")  # a pipe does not say its size


# Gone.


@pytest.mark.parametrize(
    "arguments",
    [["plugins"], ["plugins", "--json"], ["--help"], ["--version"], ["run", "--help"],
     ["completion", "zsh"], ["doctor"]],
)  # fmt: skip
def test_a_reader_that_went_away_is_told_quietly(run_xsave: Run, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run_xsave(*arguments, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b"xsave: error: whoever reads the output has gone away\n"


def test_a_reader_of_an_image_that_went_away_is_told(run_xsave: Run, native_image: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run_xsave("run", native_image, "-", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b"xsave: error: whoever reads the output has gone away\n"


@pytest.mark.parametrize("arguments", [["plugins"], ["--help"], ["--version"]])
def test_a_full_disk_is_told(run_xsave: Run, arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run_xsave(*arguments, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"xsave: error: cannot write the output: No space left on device\n"


def test_closed_streams_do_not_confuse(small_image: Path, tmp_path: Path) -> None:
    script = (
        '"$0" -m xsave run "$1" "$2" -q >&- 2>&- && "$0" -m xsave verify "$2" -q >&- && '
        '! "$0" -m xsave plugins >&-'
    )
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, small_image, tmp_path / "a.xsv"],
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == (b"xsave: error: cannot write the output: standard output is closed\n")
