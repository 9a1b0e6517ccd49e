"""A report's page: opened before anything is begun, and whole or not there, as images are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UsageError
from ..io.sink import open_sink


@contextmanager
def page_file(
    path: str | None, *others: str | None
) -> Iterator[Callable[[Callable[[], str]], None]]:
    """What is given takes a function that makes the page. Nothing is written unless it is
    called.

    :param path: None for no page: then the function is not called.
    :param others: files that the command reads or writes, too.
    :raises OutputError: it cannot be written: found out before, not after.
    :raises UsageError: it is one of the others.
    """
    if path is None:
        yield lambda _make: None
        return
    for other in others:
        if other not in (None, "-") and Path(path).resolve() == Path(other).resolve():
            raise UsageError(f"{path} cannot be both the report and an image")
    with open_sink(path) as sink:

        def write(make: Callable[[], str]) -> None:
            sink.put([make().encode()])
            sink.commit()

        yield write


def write_page(path: str, page: str) -> None:
    """:raises OutputError: it cannot be written."""
    with page_file(path) as write:
        write(lambda: page)
