"""Codec ``xz``: one .xz stream, with CRC-64, for each body; Python's own liblzma."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xsave import Buffer, Codec, PluginInfo, hookimpl

from . import FrameStream, Read, require, unpack_frame

if TYPE_CHECKING:
    from lzma import LZMADecompressor

PLUGIN = PluginInfo(name="xz", summary="codec: xz, levels 0 to 9", contract=(1, 1))

require("_lzma", PLUGIN.name, "a Python that was built with liblzma")

# A file says how much memory its dictionary takes: up to 4 GiB. What the xz program makes
# at its highest level takes 65 MiB to unpack.
_MEMORY_MAX = 128 << 20


class XzCodec(Codec):
    name = "xz"
    summary = "xz, one stream a body"
    levels = (0, 9)
    default_level = 1
    magic = b"\xfd7zXZ\0"

    def compress(self, data: Buffer, level: int) -> Buffer:
        import lzma

        return lzma.compress(bytes(data), preset=level)

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        import lzma

        return unpack_frame(_stream(), data, size_bytes, self.name, lzma.LZMAError)

    def open_stream(self, read: Read) -> Read:
        """Streams in any number, without padding between them. One that would need more
        than 128 MiB to be unpacked is refused."""
        import lzma

        return FrameStream(read, self.name, _stream, lzma.LZMAError).read


def _stream() -> LZMADecompressor:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_MAX)


@hookimpl
def xsave_register_codecs(register: Callable[[Codec], None]) -> None:
    register(XzCodec())


@hookimpl
def xsave_doctor(report: Callable[[str, bool, str], None]) -> None:
    report("library", True, "liblzma, part of Python")
