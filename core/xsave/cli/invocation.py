"""One invocation, from the arguments to the exit code: whatever happens ends here."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings

import click

from .group import xsave
from .interruption import interruptible
from .logs import logs_on_stderr
from .output import give_up_stdout, write_stderr
from .settings import Settings

EXIT_CANCELLED = 130  # as in errors.py, which is not imported before something goes wrong
COMPLETION = "_XSAVE_COMPLETE"  # set by the completion script that a shell runs


def invoke(arguments: list[str]) -> int:
    """:returns: the exit code; everything was told."""
    settings = Settings()
    # a name in an image may have characters that this terminal's encoding lacks
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # replaced by a test, or None
    try:
        with interruptible(), logs_on_stderr(), warnings.catch_warnings():
            if not sys.warnoptions:  # python -W was not asked for
                warnings.simplefilter("ignore")
            return _dispatch(arguments, settings)
    except KeyboardInterrupt:
        write_stderr(["xsave: interrupted"])
        return EXIT_CANCELLED


def _dispatch(arguments: list[str], settings: Settings) -> int:
    try:
        if instruction := os.environ.get(COMPLETION):
            return _complete(instruction)
        with xsave.make_context("xsave", arguments, obj=settings) as context:
            code: int = xsave.invoke(context) or 0
    except click.exceptions.Exit as leave:  # --help and --version
        code = leave.exit_code
    except Exception as error:
        if isinstance(error, OSError) and _is_from_click(error):
            code = give_up_stdout(error)
        else:
            code = _fail(error, settings)
    return code


def _fail(error: Exception, settings: Settings) -> int:
    from ..errors import XsaveError
    from .failure import report_failure

    try:
        return report_failure(error, settings)
    except XsaveError:  # the JSON about it could not be written either
        settings.json = False
        return report_failure(error, settings)


def _is_from_click(error: Exception) -> bool:
    """Whether click itself failed: to print help or a version, all that it ever prints."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("click.")


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(xsave, {}, "xsave", COMPLETION, instruction)
