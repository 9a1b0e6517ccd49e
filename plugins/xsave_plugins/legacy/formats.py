"""Legacy streams, bare and in each container, as formats that are read and never written."""

from __future__ import annotations

import abc

from xsave import (
    ByteSink,
    ByteSource,
    Format,
    ImageInfo,
    Reader,
    ReadOptions,
    UsageError,
    WriteOptions,
    Writer,
)

from . import containers as c
from .kind import kind_of


class _LegacyFormat(Format):
    writable = False

    @abc.abstractmethod
    def open(self, source: ByteSource) -> c.Container:
        """Read the container's headers."""

    def reader(self, source: ByteSource, options: ReadOptions) -> Reader:
        from .reader import LegacyReader

        return LegacyReader(source, options, self.open(source))

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> Writer:
        raise UsageError(f"format {self.name} is read, never written")


class BareFormat(_LegacyFormat):
    name = "legacy"
    summary = "libxc stream of Xen 3.0 to 4.5, bare"
    has_magic = False

    def open(self, source: ByteSource) -> c.Container:
        return c.bare(source)

    def sniff(self, head: bytes) -> bool:
        return kind_of(head) is not None

    def explain(self, head: bytes) -> str:
        kind = kind_of(head)
        if kind is None:
            return super().explain(head)
        bits = 8 * kind.word_size
        how = "extended info" if kind.extended_info else "chunks of an HVM guest"
        if not kind.extended_info and kind.guest_type.value.endswith("pv"):
            how = "the list of the p2m's pages"
        return (
            f"no magic; a p2m of {kind.p2m_size} pages in a word of {bits} bits, then {how}: "
            f"{kind.guest_type.value}, by a toolstack of {bits} bits"
        )


class XlFormat(_LegacyFormat):
    name = "xl-legacy"
    summary = "xl save file of Xen 4.1 to 4.5"

    def open(self, source: ByteSource) -> c.Container:
        return c.xl(source)

    def sniff(self, head: bytes) -> bool:
        return head.startswith(c.XL_MAGIC) and _flags(head) & c.XL_V2 == 0

    def explain(self, head: bytes) -> str:
        return (
            f"bytes 0-31 are xl's magic; mandatory flags {_flags(head):#x} at 36 have bit 1 clear: "
            "a legacy stream follows"
        )


class XlMigrateFormat(_LegacyFormat):
    name = "xl-migrate-legacy"
    summary = "captured conversation of xl migrate, Xen 4.1 to 4.5"

    def open(self, source: ByteSource) -> c.Container:
        return c.xl_migration(source)

    def sniff(self, head: bytes) -> bool:
        rest = head[len(c.BANNER) :]
        return head.startswith(c.BANNER) and XL.sniff(rest)

    def explain(self, head: bytes) -> str:
        return f"it begins with what xl's receiver says first; then, {len(c.BANNER)} bytes in, " + (
            XL.explain(head[len(c.BANNER) :])
        )


class XendFormat(_LegacyFormat):
    name = "xend"
    summary = "xend save file, or the sender's side of xm migrate"

    def open(self, source: ByteSource) -> c.Container:
        return c.xend(source)

    def sniff(self, head: bytes) -> bool:
        for line in c.XEND_RELOCATION:
            head = head.removeprefix(line)
        return head.startswith(c.XEND_MAGIC)

    def explain(self, head: bytes) -> str:
        return f"it begins with {c.XEND_MAGIC.decode()}, then a configuration with its length"


class XapiFormat(_LegacyFormat):
    name = "xapi-legacy"
    summary = "suspend image of XenServer before its structured form"

    def open(self, source: ByteSource) -> c.Container:
        return c.xapi(source)

    def sniff(self, head: bytes) -> bool:
        return head.startswith(c.XAPI_MAGIC)

    def explain(self, head: bytes) -> str:
        return "bytes 0-14 are XenSavedDomain and a newline"


class LibvirtFormat(_LegacyFormat):
    name = "libvirt-legacy"
    summary = "libvirt (libxl driver) save file of Xen before 4.6"

    def open(self, source: ByteSource) -> c.Container:
        return c.libvirt(source)

    def sniff(self, head: bytes) -> bool:
        return head.startswith(c.LIBVIRT_MAGIC) and head[16:20] == b"\1\0\0\0"

    def explain(self, head: bytes) -> str:
        return "bytes 0-15 are libvirt's magic; version 1 at 16: a legacy stream follows"


def _flags(head: bytes) -> int:
    return int.from_bytes(head[36:40], "little")


XL = XlFormat()
FORMATS: tuple[Format, ...] = (
    BareFormat(), XL, XlMigrateFormat(), XendFormat(), XapiFormat(), LibvirtFormat(),
)  # fmt: skip
