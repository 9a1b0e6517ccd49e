"""Codec ``zstd``: one Zstandard frame (RFC 8878) with its content size for each body."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from xsave import Buffer, Codec, PluginInfo, hookimpl

from . import FrameStream, Read, damaged, require, unpack_frame

PLUGIN = PluginInfo(name="zstd", summary="codec: Zstandard, levels 1 to 19", contract=(1, 1))

# From Python 3.14 on it is part of the standard library, unless Python was built without.
_IN_PYTHON = sys.version_info >= (3, 14)
require("_zstd" if _IN_PYTHON else "backports.zstd", PLUGIN.name)


def _library() -> ModuleType:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


class ZstdCodec(Codec):
    name = "zstd"
    summary = "Zstandard, one frame a body"
    levels = (1, 19)
    default_level = 3
    magic = b"\x28\xb5\x2f\xfd"

    def __init__(self) -> None:
        self._mine = threading.local()

    def compress(self, data: Buffer, level: int) -> Buffer:
        # One compressor for each thread and level: making one costs 6 % of a batch's time.
        # Every call ends its frame, so nothing is left over for the next.
        zstd = _library()
        compressors: dict[int, Any] | None = getattr(self._mine, "compressors", None)
        if compressors is None:
            compressors = self._mine.compressors = {}
        if (compressor := compressors.get(level)) is None:
            compressor = compressors[level] = zstd.ZstdCompressor(level)
        packed: bytes = compressor.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)
        return packed

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        zstd = _library()
        if bytes(memoryview(data)[:4]) != self.magic:  # perhaps a skippable frame
            raise damaged(self.name, size_bytes, "no zstd frame")
        try:
            claimed = zstd.get_frame_info(data).decompressed_size
            if claimed != size_bytes:
                got = "a frame without its size" if claimed is None else f"a frame of {claimed}"
                raise damaged(self.name, size_bytes, got)
        except zstd.ZstdError:
            raise damaged(self.name, size_bytes, "a damaged frame") from None
        frame = zstd.ZstdDecompressor()
        return unpack_frame(frame, data, size_bytes, self.name, zstd.ZstdError)

    def open_stream(self, read: Read) -> Read:
        """Frames and skippable frames in any number. A frame may ask for a window of up to
        128 MiB, as with the zstd program."""
        zstd = _library()
        return FrameStream(read, self.name, zstd.ZstdDecompressor, zstd.ZstdError).read


@hookimpl
def xsave_register_codecs(register: Callable[[Codec], None]) -> None:
    register(ZstdCodec())


@hookimpl
def xsave_doctor(report: Callable[[str, bool, str], None]) -> None:
    zstd = _library()
    report("library", True, f"zstd {zstd.zstd_version} through {zstd.__name__}")
