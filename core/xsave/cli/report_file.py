"""Writing a report's page: whole or not at all, as images are."""

from __future__ import annotations

from ..io.sink import open_sink


def write_page(path: str, page: str) -> None:
    """:raises OutputError: it cannot be written."""
    with open_sink(path) as sink:
        sink.put([page.encode()])
        sink.commit()
