"""Codec ``bzip2``: one bzip2 stream for each body; Python's own libbzip2."""

from __future__ import annotations

from collections.abc import Callable

from xsave import Buffer, Codec, PluginInfo, hookimpl

from . import FrameStream, Read, require, unpack_frame

PLUGIN = PluginInfo(name="bzip2", summary="codec: bzip2, levels 1 to 9", contract=(1, 1))

require("_bz2", PLUGIN.name, "a Python that was built with libbzip2")


class Bzip2Codec(Codec):
    name = "bzip2"
    summary = "bzip2, one stream a body"
    levels = (1, 9)
    default_level = 9
    magic = b"BZh"

    def compress(self, data: Buffer, level: int) -> Buffer:
        import bz2

        return bz2.compress(bytes(data), level)

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        import bz2

        return unpack_frame(bz2.BZ2Decompressor(), data, size_bytes, self.name, OSError)

    def open_stream(self, read: Read) -> Read:
        """Streams in any number."""
        import bz2

        return FrameStream(read, self.name, bz2.BZ2Decompressor, OSError).read


@hookimpl
def xsave_register_codecs(register: Callable[[Codec], None]) -> None:
    register(Bzip2Codec())


@hookimpl
def xsave_doctor(report: Callable[[str, bool, str], None]) -> None:
    report("library", True, "libbzip2, part of Python")
