"""The nestings of Xen's streams, as formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from xsave import Format

from . import framing as f

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

        return XenReader(source, self.name, self.layers, options)

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> Writer:
        from .writer import XenWriter

        return XenWriter(sink, self.layers, info, self.version, options.about.get("created", ""))

    def page_finder(self, image: RandomAccess, options: ReadOptions) -> PageFinder | None:
        from .page_finder import page_finder

        return page_finder(image, self.name, self.layers)


class XlFormat(_XenFormat):
    name = "xl"
    summary = "xl save file (Xen 4.6 and later)"
    suffixes = (".xl",)
    layers = ("xl", "libxl", "libxc")
    begins = f.XL_MAGIC

    def sniff(self, head: bytes) -> bool:
        """Without the bit for stream v2 a legacy stream follows: another format."""
        flags = int.from_bytes(head[36:40], "little")
        return head.startswith(f.XL_MAGIC) and bool(flags & f.XL_FLAG_V2)

    def explain(self, head: bytes) -> str:
        flags = int.from_bytes(head[36:40], "little")
        return (
            f"bytes 0-31 are xl's magic; mandatory flags {flags:#x} at 36 have bit 1 set: "
            "libxl v2 follows"
        )


class XlMigrateFormat(_XenFormat):
    name = "xl-migrate"
    summary = "captured conversation of xl migrate, both ends in one file (Xen 4.6 and later)"
    writable = False
    layers = ("migration", "xl", "libxl", "libxc")
    begins = f.XL_BANNER

    def sniff(self, head: bytes) -> bool:
        return head.startswith(f.XL_BANNER) and XL.sniff(head[len(f.XL_BANNER) :])

    def explain(self, head: bytes) -> str:
        inside = XL.explain(head[len(f.XL_BANNER) :])
        return f"it begins with what xl's receiver says first; {len(f.XL_BANNER)} bytes in {inside}"


class LibvirtFormat(_XenFormat):
    name = "libvirt"
    summary = "libvirt (libxl driver) save file (Xen 4.6 and later)"
    layers = ("libvirt", "libxl", "libxc")
    begins = f.LIBVIRT_MAGIC

    def sniff(self, head: bytes) -> bool:
        """Version 1 has a legacy stream inside: another format."""
        return head.startswith(f.LIBVIRT_MAGIC) and head[16:20] != b"\1\0\0\0"

    def explain(self, head: bytes) -> str:
        version = int.from_bytes(head[16:20], "little")
        return f"bytes 0-15 are libvirt's magic; version {version} at 16: libxl v2 follows"


class XapiFormat(_XenFormat):
    name = "xapi"
    summary = "suspend image of xapi (XenServer, XCP-ng), structured form"
    suffixes: ClassVar[tuple[str, ...]] = (".xapi",)
    layers = ("xapi", "libxc")
    begins = f.XAPI_MAGIC

    def explain(self, head: bytes) -> str:
        return "bytes 0-14 are XenSavedDomv2- and a newline: a chain of parts follows"


class LibxlFormat(_XenFormat):
    name = "libxl"
    summary = "libxl v2 stream, without xl's header and configuration"
    suffixes = (".libxl",)
    layers = ("libxl", "libxc")
    begins = f.LIBXL_IDENT

    def explain(self, head: bytes) -> str:
        return f"bytes 0-7 are LibxlFmt; version {int.from_bytes(head[8:12], 'big')} at 8"


class LibxcFormat(_XenFormat):
    name = "libxc"
    summary = "libxc stream; written in the version it was read in, else v3"
    suffixes: ClassVar[tuple[str, ...]] = (".libxc",)
    layers = ("libxc",)
    begins = f.LIBXC_MARKER + f.LIBXC_ID
    nests = True

    def explain(self, head: bytes) -> str:
        version = int.from_bytes(head[12:16], "big")
        return f"eight bytes FF, then XENF; version {version} at 12"


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


XL = XlFormat()
FORMATS: tuple[Format, ...] = (
    XL,
    XlMigrateFormat(),
    LibvirtFormat(),
    XapiFormat(),
    LibxlFormat(),
    LibxcFormat(),
    Libxc2Format(),
    Libxc3Format(),
)
