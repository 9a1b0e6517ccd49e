"""The nestings of Xen's streams, as formats."""

from __future__ import annotations

from typing import ClassVar

from xsave import ByteSink, ByteSource, Format, ImageInfo, Reader, ReadOptions, WriteOptions, Writer

from . import framing as f


class _XenFormat(Format):
    """:cvar layers: of headers, from the outside.
    :cvar begins: the first bytes of such an input.
    :cvar version: of the libxc stream written; None to keep that of the source, or 3.
    """

    layers: tuple[str, ...]
    begins: bytes
    version: int | None = None

    def sniff(self, head: bytes) -> bool:
        return self.readable and head.startswith(self.begins)

    def reader(self, source: ByteSource, options: ReadOptions) -> Reader:
        from .reader import XenReader

        return XenReader(source, self.layers, options.pages)

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> Writer:
        from .writer import XenWriter

        return XenWriter(sink, self.layers, info, self.version)


class XlFormat(_XenFormat):
    name = "xl"
    summary = "xl save file (Xen 4.6 and later)"
    suffixes = (".xl",)
    layers = ("xl", "libxl", "libxc")
    begins = f.XL_MAGIC


class LibxlFormat(_XenFormat):
    name = "libxl"
    summary = "libxl v2 stream, without xl's header and configuration"
    suffixes = (".libxl",)
    layers = ("libxl", "libxc")
    begins = f.LIBXL_IDENT


class LibxcFormat(_XenFormat):
    name = "libxc"
    summary = "libxc stream; written in the version it was read in, else v3"
    suffixes: ClassVar[tuple[str, ...]] = (".libxc",)
    layers = ("libxc",)
    begins = f.LIBXC_MARKER + f.LIBXC_ID


class Libxc2Format(LibxcFormat):
    name = "libxc-v2"
    summary = "libxc stream v2 for Xen 4.6 to 4.13 (has no CPUID and MSR policy)"
    suffixes = ()
    readable = False  # the libxc format reads both
    version = 2


class Libxc3Format(LibxcFormat):
    name = "libxc-v3"
    summary = "libxc stream v3 for Xen 4.14 and later, static data end inferred"
    suffixes = ()
    readable = False
    version = 3


FORMATS: tuple[Format, ...] = (
    XlFormat(),
    LibxlFormat(),
    LibxcFormat(),
    Libxc2Format(),
    Libxc3Format(),
)
