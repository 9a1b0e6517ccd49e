"""Log records as lines on standard error, while a command runs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from .output import printable

_RUN = logging.getLogger("xsave.run")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(f"xsave: {record.levelname.lower()}: {record.getMessage()}")


@contextlib.contextmanager
def logs_on_stderr() -> Iterator[None]:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    before = root.level, _RUN.level
    root.addHandler(handler)
    set_verbosity(0)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        _RUN.setLevel(before[1])


def set_verbosity(verbosity: int) -> None:
    """:param verbosity: -1 for ``-q``, else the number of ``-v``."""
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    logging.getLogger().setLevel(level)
    # what a run carried and left out stands in its report too
    _RUN.setLevel(logging.ERROR if verbosity < 1 else level)
