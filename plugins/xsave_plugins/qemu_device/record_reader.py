"""A device model's record that stands alone, as an image with one record.

QEMU writes it bare when Xen asks for it (``xen-save-devices-state``); cut out of a legacy image
it has a signature in front: see docs/formats/legacy.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xsave import (
    ByteSource,
    FormatError,
    ImageInfo,
    Record,
    RecordType,
)

from .emulator import EmulatorHeader
from .grammar import MAGIC, SIGNATURE_BYTES, TO_THE_END, WITH_LENGTH

if TYPE_CHECKING:
    from xsave import Event

MAX_BYTES = (128 << 20) - EmulatorHeader.SIZE  # of a record in any image
_NO_EMULATOR = EmulatorHeader(emulator_id=0, index=0)
_TYPE = RecordType("xen.qemu.context")


class RecordReader:
    def __init__(self, source: ByteSource) -> None:
        self._source = source
        found = source.peek(SIGNATURE_BYTES)
        self._signature = b"" if found.startswith(MAGIC) else found
        self.info = ImageInfo(
            "qemu-record", details={"signature": self._signature.decode("latin-1")}
        )

    def __iter__(self) -> Iterator[Event]:
        offset = self._source.offset
        self._source.take(len(self._signature), "signature")
        blob = self._blob(offset)
        if not self._source.at_end():
            raise FormatError(
                what="end of the record", offset=self._source.offset,
                expected="nothing behind it", got="further bytes",
            )  # fmt: skip
        yield Record(_TYPE, _NO_EMULATOR.encode() + blob, offset)

    def _blob(self, offset: int) -> bytes:
        source = self._source
        if self._signature in WITH_LENGTH:
            size = int.from_bytes(source.take(4, "length of the record"), "little")
            self._bound(size, offset)
            return bytes(source.take(size, "device model's record"))
        if self._signature == TO_THE_END and source.peek(1) == b"\n":  # as XenServer wrote it
            source.take(1, "newline behind the signature")
            size = int.from_bytes(source.take(4, "length of the record"), "big")
            self._bound(size, offset)
            return bytes(source.take(size, "device model's record"))
        blob = bytearray()
        while piece := source.peek(4096):
            self._bound(len(blob) + len(piece), offset)
            blob += source.take(len(piece), "device model's record")
        return bytes(blob)

    @staticmethod
    def _bound(size: int, offset: int) -> None:
        if size > MAX_BYTES:
            raise FormatError(
                what="length of the device model's record", offset=offset,
                expected=f"at most {MAX_BYTES} bytes", got=str(size),
            )  # fmt: skip
