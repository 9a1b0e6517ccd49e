"""What plugins add to the report of a run: numbers with names, of which core knows no more."""

from __future__ import annotations

from .value_class import frozen

BYTES = "bytes"


@frozen
class Figure:
    """One number.

    :ivar name: in JSON: ``pages_sent``.
    :ivar label: for people: ``pages sent``.
    :ivar unit: "" for a count, ``bytes`` for bytes.
    :ivar plotted: of a stream of state: its way over the iterations is drawn. Two of a stream
        are enough.
    """

    name: str
    label: str
    value: int
    unit: str = ""
    plotted: bool = False
