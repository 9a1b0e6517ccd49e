"""The core file formats, as the registry sees them. The rest is loaded when it is used."""

from __future__ import annotations

import struct
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
        WriteOptions,
        Writer,
    )

ELF_IDENT = b"\x7fELF\x02\x01\x01"  # 64-bit, little-endian, version 1
ET_CORE = 4


class VmcoreFormat(Format):
    """``vmcore``: memory in PT_LOAD segments by physical address, registers in notes."""

    name = "vmcore"
    summary = "ELF core file of a guest's memory and registers, for debuggers"
    suffixes = (".vmcore",)
    needs_file = True

    def sniff(self, head: bytes) -> bool:
        """An ELF core with program headers; Xen's own has none."""
        if not head.startswith(ELF_IDENT) or len(head) < 64:
            return False
        kind, nr_segments = struct.unpack_from("<H38xH", head, 16)
        return bool(kind == ET_CORE and nr_segments)

    def explain(self, head: bytes) -> str:
        (nr_segments,) = struct.unpack_from("<H", head, 56)
        return f"an ELF core of 64 bits with {nr_segments} program headers: notes and memory"

    def reader(self, source: ByteSource, options: ReadOptions) -> Reader:
        from .vmcore_reader import VmcoreReader

        return VmcoreReader(source, options)

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> Writer:
        from .vmcore_writer import VmcoreWriter

        return VmcoreWriter(sink, info, options)

    def page_finder(self, image: RandomAccess, options: ReadOptions) -> PageFinder | None:
        from .vmcore_reader import vmcore_finder

        return vmcore_finder(image)


class XenCoreFormat(Format):
    """``xen-core``: sections, as Xen's toolstack writes them."""

    name = "xen-core"
    summary = "core file of Xen's own (xl dump-core): a guest for debuggers"
    needs_file = True

    def sniff(self, head: bytes) -> bool:
        """An ELF core with sections and without program headers."""
        if not head.startswith(ELF_IDENT) or len(head) < 64:
            return False
        kind, nr_segments, nr_sections = struct.unpack_from("<H38xH2xH", head, 16)
        return bool(kind == ET_CORE and not nr_segments and nr_sections > 1)

    def explain(self, head: bytes) -> str:
        (nr_sections,) = struct.unpack_from("<H", head, 60)
        return f"an ELF core of 64 bits with {nr_sections} sections and no program headers"

    def reader(self, source: ByteSource, options: ReadOptions) -> Reader:
        from .xen_core_reader import XenCoreReader

        return XenCoreReader(source, options)

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> Writer:
        from .xen_core_writer import XenCoreWriter

        return XenCoreWriter(sink, info, options)

    def page_finder(self, image: RandomAccess, options: ReadOptions) -> PageFinder | None:
        from .xen_core_reader import xen_core_finder

        return xen_core_finder(image)
