"""Inputs and outputs in memory that keep the contracts of :mod:`xsave.format` to the letter.

They are stricter than a file: what is taken stands in memory of its own and may be
written to, and asking for more than ``take_max_bytes`` at once is an AssertionError,
since a reader has to bound every length it reads before it makes room for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import TruncatedError
from ..record import Buffer

TAKE_MAX_BYTES = 256 << 20  # twice the longest body that Xen's streams allow
PEEK_MAX_BYTES = 4096


class _Memory:
    def __init__(self, data: Buffer, *, take_max_bytes: int = TAKE_MAX_BYTES) -> None:
        self._data = bytes(data)
        self._offset = 0
        self._take_max_bytes = take_max_bytes

    @property
    def offset(self) -> int:
        return self._offset

    def take(self, size_bytes: int, what: str) -> memoryview:
        assert 0 <= size_bytes <= self._take_max_bytes, (
            f"{what}: asked for {size_bytes} bytes at once; a length that was read must be "
            f"bounded (here by {self._take_max_bytes}) before it is used"
        )
        return memoryview(bytearray(self._advance(size_bytes, what)))

    def skip(self, size_bytes: int, what: str) -> None:
        assert size_bytes >= 0, f"{what}: asked to skip {size_bytes} bytes"
        self._advance(size_bytes, what)

    def at_end(self) -> bool:
        return self._offset == len(self._data)

    def peek(self, size_bytes: int) -> bytes:
        assert 0 <= size_bytes <= PEEK_MAX_BYTES, f"asked to peek at {size_bytes} bytes"
        return self._data[self._offset : self._offset + size_bytes]

    def _advance(self, size_bytes: int, what: str) -> bytes:
        piece = _piece(self._data, self._offset, size_bytes, what)
        self._offset += size_bytes
        return piece


class MemoryPipe(_Memory):
    """A ByteSource that does not know its size, as a pipe does not."""

    @property
    def size_bytes(self) -> None:
        return None


class MemorySource(_Memory):
    """A ByteSource and RandomAccess, as a file is."""

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    def read_at(self, offset: int, size_bytes: int, what: str) -> memoryview:
        assert offset >= 0, f"{what}: offset {offset}"
        assert 0 <= size_bytes <= self._take_max_bytes, f"{what}: asked for {size_bytes} bytes"
        return memoryview(bytearray(_piece(self._data, offset, size_bytes, what)))


class MemorySink:
    """A ByteSink. What was put is in ``data``; parts are copied, so they may be reused."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def data(self) -> bytes:
        return bytes(self._data)

    @property
    def offset(self) -> int:
        return len(self._data)

    def put(self, parts: Sequence[Buffer]) -> None:
        for part in parts:
            self._data += part


class MemoryFile(MemorySink):
    """A RandomSink. What was put at its place is in ``whole``."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = bytearray()

    def put_at(self, offset: int, parts: Sequence[Buffer]) -> None:
        data = b"".join(bytes(part) for part in parts)
        self.whole.extend(bytes(max(0, offset + len(data) - len(self.whole))))
        self.whole[offset : offset + len(data)] = data

    def get_at(self, offset: int, size_bytes: int) -> memoryview:
        data = self.whole[offset : offset + size_bytes]
        return memoryview(data + bytes(size_bytes - len(data)))


def _piece(data: bytes, offset: int, size_bytes: int, what: str) -> bytes:
    piece = data[offset : offset + size_bytes]
    if len(piece) < size_bytes:
        raise TruncatedError(
            what=what, offset=offset, expected=f"{size_bytes} bytes", got=f"{len(piece)} bytes"
        )
    return piece
