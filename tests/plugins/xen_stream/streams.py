"""Reading and writing bytes with the formats of the ``xen`` plugin alone."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

import xsave
from xsave.testing import MemoryPipe, MemorySink, MemorySource
from xsave_plugins.xen_stream.formats import FORMATS

if TYPE_CHECKING:
    from xsave import Event

BY_NAME = {format_.name: format_ for format_ in FORMATS}


def open_reader(
    data: bytes, name: str, mode: xsave.PageMode = xsave.PageMode.FULL, *, pipe: bool = False
) -> xsave.Reader:
    source = MemoryPipe(data) if pipe else MemorySource(data)
    return BY_NAME[name].reader(source, xsave.ReadOptions(mode, {}, xsave.Workers(1)))


def read(data: bytes, name: str, mode: xsave.PageMode = xsave.PageMode.FULL) -> list[Event]:
    return list(open_reader(data, name, mode))


def names(events: Iterable[Event]) -> list[str]:
    return [event.name for event in events]


def write(events: Iterable[Event], info: xsave.ImageInfo, name: str) -> tuple[bytes, list[str]]:
    """:returns: the bytes; what was left out."""
    sink = MemorySink()
    options = xsave.WriteOptions(None, {}, xsave.Workers(1))
    writer = BY_NAME[name].writer(sink, info, options)
    for event in events:
        writer.put(event)
    writer.finish()
    return sink.data, list(writer.left_out)


def convert(data: bytes, source: str, dest: str) -> tuple[bytes, list[str]]:
    """Through the formats only: no handler looks at a body."""
    reader = open_reader(data, source)
    return write(reader, reader.info, dest)


def run(
    data: bytes, dest: str, manager: xsave.PluginManager, *, codec: str | None = None
) -> tuple[bytes, xsave.RunReport]:
    """Through the whole pipeline."""
    out = io.BytesIO()
    report = xsave.run(io.BytesIO(data), out, to=dest, codec=codec, manager=manager)
    return out.getvalue(), report
