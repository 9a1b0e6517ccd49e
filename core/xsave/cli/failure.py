"""An error as the one line, the JSON object and the exit code that it becomes."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any

from ..errors import EXIT_FAILED, EXIT_USAGE
from .output import write_json, write_stderr
from .settings import Settings

if TYPE_CHECKING:
    import click

    from ..errors import XsaveError


def report_failure(error: Exception, settings: Settings) -> int:
    """Tell what went wrong. Bad input never shows a traceback; an error that nobody meant
    does with ``-vv`` or ``XSAVE_DEBUG=1``.

    :returns: the exit code.
    """
    import click

    from ..errors import XsaveError

    if isinstance(error, click.ClickException):
        return _report_usage(error, settings)
    if isinstance(error, XsaveError):
        return report_error(error, settings)
    if isinstance(error, MemoryError):
        return _report(["xsave: error: out of memory"], "MemoryError", "out of memory", settings)
    if settings.verbosity > 1 or os.environ.get("XSAVE_DEBUG", "0") not in {"", "0"}:
        write_stderr("".join(traceback.format_exception(error)).splitlines())
    kind = type(error).__name__
    message = f"this is a bug in xsave or in a plugin: {kind}: {one_line(error)}"
    hint = "       run it with XSAVE_DEBUG=1 to see where, and please report it"
    return _report([f"xsave: error: {message}", hint], kind, message, settings)


def report_error(error: XsaveError, settings: Settings) -> int:
    """An error that xsave raised on purpose. Returns its exit code."""
    if settings.json:
        write_json(settings, "error", {"ok": False, "error": error_as_json(error)})
    if not settings.json_on_stderr or not settings.json:
        write_stderr([f"xsave: error: {one_line(error)}"])
    return error.exit_code


def error_as_json(error: XsaveError) -> dict[str, Any]:
    """Class, message and exit code, and the fields of that class under their names."""
    import attrs

    from ..present import to_json

    fields = to_json(error) if attrs.has(type(error)) else {}
    return {
        "class": type(error).__name__,
        "message": str(error),
        "exit_code": error.exit_code,
        **fields,
    }


def one_line(error: object) -> str:
    return " ".join(str(error).split("\n"))


def _report_usage(error: click.ClickException, settings: Settings) -> int:
    import click

    message = one_line(error.format_message())
    lines = [f"xsave: error: {message}"]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        lines.append(f"Try '{error.ctx.command_path} --help'.")
    return _report(lines, "UsageError", message, settings, EXIT_USAGE)


def _report(
    lines: list[str], kind: str, message: str, settings: Settings, exit_code: int = EXIT_FAILED
) -> int:
    if settings.json:
        error = {"class": kind, "message": message, "exit_code": exit_code}
        write_json(settings, "error", {"ok": False, "error": error})
    if not (settings.json and settings.json_on_stderr):
        write_stderr(lines)
    return exit_code
