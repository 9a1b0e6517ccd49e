"""Codec ``brotli``: one brotli stream (RFC 7932, window at most 2**24) for each body."""

from __future__ import annotations

from collections.abc import Callable

from xsave import Buffer, Codec, PluginInfo, hookimpl

from . import damaged, require

PLUGIN = PluginInfo(name="brotli", summary="codec: brotli, levels 0 to 11", contract=(1, 1))

require("brotli", PLUGIN.name)

# The library's output buffer doubles until it reaches the limit it was given, so what
# comes back may be twice that: asking in pieces keeps the excess below 2 MiB.
_PIECE_BYTES = 1 << 20


class BrotliCodec(Codec):
    name = "brotli"
    summary = "brotli, one stream a body"
    levels = (0, 11)
    default_level = 1

    def compress(self, data: Buffer, level: int) -> Buffer:
        import brotli

        packed: bytes = brotli.compress(data, quality=level)
        return packed

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        import brotli

        stream = brotli.Decompressor()
        parts: list[bytes] = []
        total = 0
        try:
            while not stream.is_finished() and total <= size_bytes:
                limit = max(1, min(size_bytes - total, _PIECE_BYTES))
                part = stream.process(b"" if parts else data, output_buffer_limit=limit)
                parts.append(part)
                total += len(part)
                if not part and stream.can_accept_more_data():
                    break  # all is unpacked, and the stream goes on: it was cut
        except brotli.error:
            raise damaged(self.name, size_bytes, "a damaged stream") from None
        if total > size_bytes:
            raise damaged(self.name, size_bytes, "more bytes")
        if not stream.is_finished():
            raise damaged(self.name, size_bytes, f"a stream cut after {total} bytes")
        if total < size_bytes:
            raise damaged(self.name, size_bytes, f"{total} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)


@hookimpl
def xsave_register_codecs(register: Callable[[Codec], None]) -> None:
    register(BrotliCodec())


@hookimpl
def xsave_doctor(report: Callable[[str, bool, str], None]) -> None:
    import brotli

    report("library", True, f"brotli {brotli.__version__}")
