"""Ctrl-C and kill: exit 130, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xsave.cli.interruption import interruptible

# As a shell starts it in the foreground: one in the background has SIGINT ignored.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from xsave.cli import main
sys.exit(main())
"""
# more than a pipe holds (1 MiB at most without privileges): when it is written, it is read
FED_BYTES = 4 << 20


def begin(*arguments: str | Path, feed: bytes) -> subprocess.Popen[bytes]:
    """A process that has read most of ``feed`` and waits for more."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(feed)
    process.stdin.flush()
    return process


def end(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Exit code and standard error, with standard input still open."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        said = process.stderr.read()
        code = process.wait(timeout=60)
    process.stdin.close()
    return code, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing_and_keeps_what_was(
    small_image: Path, tmp_path: Path, number: signal.Signals
) -> None:
    older = tmp_path / "older.xsv"
    older.write_text("older")
    for dest in (older, tmp_path / "new.xsv"):
        feed = small_image.read_bytes()[:FED_BYTES]
        process = begin("run", "-", dest, "--codec", "zstd:1", feed=feed)
        process.send_signal(number)
        assert end(process) == (130, b"xsave: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["older.xsv"]
    assert older.read_text() == "older"


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_command_that_waits_for_input_is_interrupted(small_image: Path, command: str) -> None:
    process = begin(command, "-", feed=small_image.read_bytes()[:FED_BYTES])
    process.send_signal(signal.SIGTERM)
    assert end(process) == (130, b"xsave: interrupted\n")


def test_a_second_signal_does_not_interrupt_the_cleaning_up() -> None:
    cleaned = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            cleaned.append(True)
    assert cleaned == [True]


def test_handlers_are_put_back_and_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) not in handlers
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
