"""The native format, as the registry sees it. The rest is loaded when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsave import Format

if TYPE_CHECKING:
    from xsave import (
        ByteSink,
        ByteSource,
        ImageInfo,
        PageFinder,
        RandomAccess,
        Reader,
        ReadOptions,
        SalvageReader,
        WriteOptions,
        Writer,
    )

MAGIC = b"\x89XSV\r\n\x1a\n"  # a transfer that mends line ends, or drops bit 7, breaks it


class NativeFormat(Format):
    name = "native"
    summary = "xsave image: checksummed, sealed, indexed, compressed if asked for"
    suffixes = (".xsv",)
    writes_deltas = True
    nests = True

    def sniff(self, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def reader(self, source: ByteSource, options: ReadOptions) -> Reader:
        from .reader import NativeReader

        return NativeReader(source, options)

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> Writer:
        from .writer import NativeWriter

        return NativeWriter(sink, info, options)

    def salvage(self, image: RandomAccess, options: ReadOptions) -> SalvageReader:
        from .salvage import NativeSalvager

        return NativeSalvager(image, options)

    def page_finder(self, image: RandomAccess, options: ReadOptions) -> PageFinder | None:
        from .finder import NativeFinder

        return NativeFinder(image, options)
