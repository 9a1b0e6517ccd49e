"""The earlier image that another one is, or was, written against."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from ..errors import UsageError
from ..format import Format
from ..io.source import FileImage


def open_base(stack: ExitStack, path: str | Path | None) -> FileImage | None:
    """:raises UsageError: it is no file: pages of it are read in any order."""
    if path is None:
        return None
    if not Path(path).is_file() and Path(path).exists():
        raise UsageError(f"the base {path} must be a file")
    return stack.enter_context(FileImage(Path(path)))


def base_to_write(base: FileImage | None, format_: Format | None) -> FileImage | None:
    """For a source that needs none.

    :param format_: of the destination; None for a domain.
    :raises UsageError: that cannot make use of it.
    """
    if base is None:
        return None
    if format_ is None or not format_.writes_deltas:
        what = "a domain" if format_ is None else f"of format {format_.name}"
        raise UsageError(
            f"a base is of no use: SOURCE was not written against any, and DEST is {what}"
        )
    return base


def deltas_to_write(asked: bool | None, format_: Format | None, *, live: bool) -> bool | None:
    """Whether pages that come again may be written as differences: by default where a guest
    is saved while it runs.

    :param format_: of the destination; None for a domain.
    :raises UsageError: it was asked for, and cannot be.
    """
    able = format_ is not None and format_.writes_deltas
    if asked and not able:
        what = "a domain" if format_ is None else f"of format {format_.name}"
        raise UsageError(f"--delta is about pages in an image, and DEST is {what}")
    if asked is None and live and able:
        return True
    return asked
