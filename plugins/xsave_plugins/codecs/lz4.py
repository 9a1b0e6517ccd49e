"""Codec ``lz4``: one LZ4 block, without a size before it, for each body.

The block format is the one of lz4_Block_format.md of the LZ4 project: sequences, no
header. Sizes are known from outside, and a block is all that many small decoders offer.
"""

from __future__ import annotations

from collections.abc import Callable

from xsave import Buffer, Codec, PluginInfo, hookimpl

from . import FrameStream, Read, damaged, require

PLUGIN = PluginInfo(name="lz4", summary="codec: LZ4, levels 0 to 12", contract=(1, 1))

require("lz4", PLUGIN.name)


class Lz4Codec(Codec):
    name = "lz4"
    summary = "LZ4, one block a body; from level 1 on the slower high compression"
    levels = (0, 12)
    default_level = 0
    magic = b"\x04\x22\x4d\x18"  # of frames: a block has none

    def compress(self, data: Buffer, level: int) -> Buffer:
        import lz4.block

        packed: bytes
        if level == 0:
            packed = lz4.block.compress(data, mode="default", store_size=False)
        else:
            packed = lz4.block.compress(
                data, mode="high_compression", compression=level, store_size=False
            )
        return packed

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        import lz4.block

        try:
            unpacked: bytes = lz4.block.decompress(data, uncompressed_size=size_bytes)
        except lz4.block.LZ4BlockError:
            raise damaged(self.name, size_bytes, "a damaged block, or more bytes") from None
        if len(unpacked) != size_bytes:
            raise damaged(self.name, size_bytes, f"{len(unpacked)} bytes")
        return unpacked

    def open_stream(self, read: Read) -> Read:
        """Frames and skippable frames in any number; the frame format, unlike bodies."""
        import lz4.frame

        return FrameStream(read, self.name, lz4.frame.LZ4FrameDecompressor, RuntimeError).read


@hookimpl
def xsave_register_codecs(register: Callable[[Codec], None]) -> None:
    register(Lz4Codec())


@hookimpl
def xsave_doctor(report: Callable[[str, bool, str], None]) -> None:
    import lz4

    report("library", True, f"lz4 {lz4.library_version_string()}, binding {lz4.__version__}")
