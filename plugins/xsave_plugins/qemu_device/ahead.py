"""Bytes of a source with some read ahead: RAM's sections have no length, only ends.

A stream of QEMU's ends with its input, so reading ahead takes nothing that is another's.
"""

from __future__ import annotations

from xsave import ByteSource, TruncatedError

CHUNK_BYTES = 1 << 20
PIECE_BYTES = 4096  # what any source can be asked to show


class Ahead:
    """:ivar view: what was read ahead; :ivar at: of it, the first byte that was not used."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.view = memoryview(b"")
        self.at = 0

    @property
    def offset(self) -> int:
        """Of the next byte, in the stream."""
        return self._source.offset - self.left

    @property
    def left(self) -> int:
        return len(self.view) - self.at

    def need(self, size_bytes: int, what: str) -> None:
        """Have so many bytes in the view.

        What is left of a chunk is less than a page and its head, so a piece that lies across
        two is put together by itself, and chunks are never copied.

        :raises TruncatedError: the input ends before.
        """
        left = self.left
        if left >= size_bytes:
            return
        more = self._piece(size_bytes - left) if left else self._chunk(size_bytes)
        if left + len(more) < size_bytes:
            raise TruncatedError(
                what=what, offset=self.offset - len(more), expected=f"{size_bytes} bytes",
                got=f"{left + len(more)}",
            )  # fmt: skip
        self.view = memoryview(bytes(self.view[self.at :]) + bytes(more)) if left else more
        self.at = 0

    def _piece(self, size_bytes: int) -> memoryview:
        """So many bytes, or all there are."""
        found = bytearray()
        while len(found) < size_bytes and (shown := self._source.peek(PIECE_BYTES)):
            found += self._source.take(min(len(shown), size_bytes - len(found)), "stream")
        return memoryview(found)

    def _chunk(self, size_bytes: int) -> memoryview:
        """At least so many bytes, or all there are."""
        size = self._source.size_bytes
        if size is None:
            return self._piece(max(size_bytes, CHUNK_BYTES // 16))
        rest = max(size - self._source.offset, 0)
        return self._source.take(min(rest, max(size_bytes, CHUNK_BYTES)), "stream")

    def take(self, size_bytes: int, what: str) -> bytes:
        self.need(size_bytes, what)
        piece = bytes(self.view[self.at : self.at + size_bytes])
        self.at += size_bytes
        return piece

    def peek(self) -> int:
        """The next byte; -1 at the end."""
        if not self.left:
            self.view, self.at = self._chunk(1), 0
        return self.view[self.at] if self.left else -1

    def rest(self, size_max: int) -> bytes | None:
        """All that is left of the stream; None if that is more than so many bytes."""
        found = bytearray(self.view[self.at :])
        self.view, self.at = memoryview(b""), 0
        while len(found) <= size_max and (more := self._chunk(1)):
            found += more
        return bytes(found) if len(found) <= size_max else None
