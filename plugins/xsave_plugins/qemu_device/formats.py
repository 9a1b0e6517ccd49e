"""The formats of QEMU's own, as the registry sees them. The rest is loaded when it is used."""

from __future__ import annotations

from typing import ClassVar

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

from .grammar import CONFIGURATION, HEAD_BYTES, MAGIC, START, TO_THE_END, WITH_LENGTH


class QemuFormat(Format):
    """``qemu``: a whole guest of QEMU's own, as ``migrate`` writes it into a file or a pipe."""

    name = "qemu"
    summary = "migration stream of QEMU (migrate exec:), a guest that QEMU loads with -incoming"
    suffixes: ClassVar[tuple[str, ...]] = (".qemu",)

    def sniff(self, head: bytes) -> bool:
        return head.startswith(MAGIC) and head[HEAD_BYTES : HEAD_BYTES + 1] in (
            bytes([CONFIGURATION]), bytes([START]),
        )  # fmt: skip

    def explain(self, head: bytes) -> str:
        what = "a configuration" if head[HEAD_BYTES] == CONFIGURATION else "memory"
        return f"bytes 0-3 are QEVM; at 8 {what} follows: a whole migration stream"

    def reader(self, source: ByteSource, options: ReadOptions) -> Reader:
        from .stream_reader import StreamReader

        return StreamReader(source, options.pages)

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> Writer:
        from .stream_writer import StreamWriter

        return StreamWriter(sink, info)


class QemuRecordFormat(Format):
    """``qemu-record``: a device model's record that stands alone: to be looked at."""

    name = "qemu-record"
    summary = "device model's record, bare or cut out of a legacy image: no guest without memory"
    writable = False

    def sniff(self, head: bytes) -> bool:
        is_bare = head.startswith(MAGIC) and not QEMU.sniff(head)
        return is_bare or head.startswith((TO_THE_END, *WITH_LENGTH))

    def explain(self, head: bytes) -> str:
        if not head.startswith(MAGIC):
            return f"bytes 0-20 are {head[:21].decode()}"
        after = "devices follow" if head[8:9] == b"\4" else "something unknown follows"
        return f"bytes 0-3 are QEVM; at 8 {after}, and no memory"

    def reader(self, source: ByteSource, options: ReadOptions) -> Reader:
        from .record_reader import RecordReader

        return RecordReader(source)

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> Writer:
        raise UsageError("format qemu-record is read, and not written")


QEMU = QemuFormat()
FORMATS: tuple[Format, ...] = (QEMU, QemuRecordFormat())
