"""Codec ``gzip``: one gzip member (RFC 1952) for each body; Python's own zlib."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from xsave import Buffer, Codec, PluginInfo, hookimpl

from . import FrameStream, Read, unpack_frame

PLUGIN = PluginInfo(name="gzip", summary="codec: gzip, levels 1 to 9", contract=(1, 1))

_MEMBER = 31  # wbits: a gzip header and trailer around 32 KiB of window


class GzipCodec(Codec):
    name = "gzip"
    summary = "gzip, one member a body"
    levels = (1, 9)
    default_level = 6
    # The third byte is the method, which has never been another; two bytes alone are also
    # how a legacy image of some sizes begins.
    magic = b"\x1f\x8b\x08"

    def compress(self, data: Buffer, level: int) -> Buffer:
        packer = zlib.compressobj(level, zlib.DEFLATED, _MEMBER)  # no name, no time
        return packer.compress(data) + packer.flush()

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        return unpack_frame(_Member(), data, size_bytes, self.name, zlib.error)

    def open_stream(self, read: Read) -> Read:
        """Members in any number, as the gzip program takes them."""
        return FrameStream(read, self.name, _Member, zlib.error).read


class _Member:
    """zlib's object with the names that the other libraries have."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_MEMBER)

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def needs_input(self) -> bool:
        return not self._member.unconsumed_tail and not self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: Buffer, max_length: int) -> bytes:
        return self._member.decompress(data or self._member.unconsumed_tail, max_length)


@hookimpl
def xsave_register_codecs(register: Callable[[Codec], None]) -> None:
    register(GzipCodec())


@hookimpl
def xsave_doctor(report: Callable[[str, bool, str], None]) -> None:
    report("library", True, f"zlib {zlib.ZLIB_RUNTIME_VERSION}, part of Python")
