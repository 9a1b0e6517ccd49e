"""An image that lies in a file, read from some place on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import TruncatedError

if TYPE_CHECKING:
    from .format import RandomAccess


AHEAD_BYTES = 4096  # headers and tables of a usual piece in one read


class Cursor:
    """A :class:`xsave.ByteSource` over a :class:`xsave.RandomAccess`, from an offset on."""

    def __init__(self, image: RandomAccess, offset: int = 0) -> None:
        self._image = image
        self.offset = offset
        self.size_bytes = image.size_bytes
        self._ahead = memoryview(b"")  # what was read at once, and where it lies
        self._ahead_offset = 0

    def take(self, size_bytes: int, what: str) -> memoryview:
        at = self.offset - self._ahead_offset
        if at < 0 or at + size_bytes > len(self._ahead):
            at = 0
            room = min(max(size_bytes, AHEAD_BYTES), self.size_bytes - self.offset)
            # of what is cut, exactly what was asked for is told
            self._ahead = self._image.read_at(self.offset, max(room, size_bytes), what)
            self._ahead_offset = self.offset
        self.offset += size_bytes
        return self._ahead[at : at + size_bytes]

    def skip(self, size_bytes: int, what: str) -> None:
        if size_bytes > self.size_bytes - self.offset:
            raise TruncatedError(
                what=what, offset=self.offset, expected=f"{size_bytes} bytes",
                got=str(max(self.size_bytes - self.offset, 0)),
            )  # fmt: skip
        self.offset += size_bytes

    def peek(self, size_bytes: int) -> bytes:
        size = min(size_bytes, max(self.size_bytes - self.offset, 0))
        return bytes(self._image.read_at(self.offset, size, "image"))

    def at_end(self) -> bool:
        return self.offset >= self.size_bytes
