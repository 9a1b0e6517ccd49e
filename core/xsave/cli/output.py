"""Writing to standard output and standard error: text, JSON, sizes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..quantities import size as size  # noqa: PLC0414  # for the commands
from .settings import Settings

# An image may hold any bytes; what a terminal would obey instead of show is spelt out.
# C0 but tab and newline, DEL, C1, and the marks that reverse the direction of text.
_CONTROL = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F),
                 *range(0x2066, 0x206A))
}  # fmt: skip


def printable(text: str) -> str:
    """The same text, safe to show on a terminal."""
    return text.translate(_CONTROL)


def write_text(lines: Iterable[str]) -> None:
    """Lines to standard output.

    :raises OutputError: they cannot be written.
    """
    text = "".join(f"{printable(line)}\n" for line in lines)
    write_stdout(text)


def write_stdout(text: str) -> None:
    from ..errors import OutputError

    if sys.stdout is None:
        raise OutputError("cannot write the output: standard output is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        message = give_up_message(error)
        silence_stdout()
        raise OutputError(message) from error


def write_stderr(lines: Iterable[str]) -> None:
    """Lines to standard error; if that is gone, there is nobody left to tell."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))
        sys.stderr.flush()


def write_json(settings: Settings, schema: str, content: Mapping[str, Any]) -> None:
    """One object, led by its schema; docs/schemas/NAME.json describes ``xsave/NAME/1``."""
    stream = sys.stderr if settings.json_on_stderr else sys.stdout
    indent = 2 if is_terminal(stream) else None
    text = json.dumps({"schema": f"xsave/{schema}/1", **content}, indent=indent, allow_nan=False)
    if settings.json_on_stderr:
        write_stderr([text])
    else:
        write_stdout(text + "\n")


def is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def give_up_message(error: OSError) -> str:
    if isinstance(error, BrokenPipeError):
        return "whoever reads the output has gone away"
    return f"cannot write the output: {error.strerror or error}"


def give_up_stdout(error: OSError) -> int:
    """Standard output cannot be written: say so. Returns the exit code."""
    silence_stdout()
    write_stderr([f"xsave: error: {give_up_message(error)}"])
    return 1


def silence_stdout() -> None:
    """Send what is still buffered to nowhere, so that Python does not complain about it
    when it ends."""
    with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Rows of cells, each column as wide as its widest cell but the last."""
    if not rows:
        return []
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        indent
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
