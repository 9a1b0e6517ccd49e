"""Reading legacy images in memory, with the formats of the ``legacy`` plugin alone."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import xsave
from xsave.testing import MemoryPipe, MemorySource
from xsave_plugins.legacy.formats import FORMATS
from xsave_plugins.legacy.reader import LegacyReader

if TYPE_CHECKING:
    from xsave import Event

BY_NAME = {format_.name: format_ for format_ in FORMATS}


def open_reader(
    data: bytes, name: str = "legacy", mode: xsave.PageMode = xsave.PageMode.FULL, *,
    pipe: bool = False,
) -> LegacyReader:  # fmt: skip
    source = MemoryPipe(data) if pipe else MemorySource(data)
    reader = BY_NAME[name].reader(source, xsave.ReadOptions(mode, {}, xsave.Workers(1)))
    assert isinstance(reader, LegacyReader)
    return reader


def read(
    data: bytes, name: str = "legacy", mode: xsave.PageMode = xsave.PageMode.FULL
) -> list[Event]:
    return list(open_reader(data, name, mode))


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def bodies(events: list[Event], name: str) -> list[bytes]:
    """Of the records of this name."""
    return [
        bytes(event.body)
        for event in events
        if isinstance(event, xsave.Record) and event.name == name
    ]


def remarks(data: bytes, name: str = "legacy") -> list[tuple[str, bool]]:
    """Text, and whether something is lost."""
    reader = open_reader(data, name)
    for _event in reader:
        pass
    return [(remark.text, remark.is_loss) for remark in reader.remarks]


def convert(data: bytes, to: str, manager: xsave.PluginManager, **options: object) -> bytes:
    """Through the whole pipeline."""
    out = io.BytesIO()
    xsave.run(io.BytesIO(data), out, to=to, manager=manager, **options)  # type: ignore[arg-type]
    return out.getvalue()
