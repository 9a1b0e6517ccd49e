"""A libxc stream inside another one: read to its end, and not one byte further.

Behind the END record of libxc's stream, libxl reads on from the same descriptor. So nothing
is read that does not belong to the stream as far as it is known: first the headers, then the
head of a record, then its body, until END. What is in it is not looked at here.

Source: libxc migration stream specification, revision 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable

HEADERS_BYTES = 24 + 16
RECORD_HEAD_BYTES = 8
END = 0


class LibxcTap:
    """A binary file object for :func:`xsave.run`.

    :param read_into: fills the beginning of a buffer; returns the count, 0 at the end.
    """

    def __init__(self, read_into: Callable[[memoryview], int]) -> None:
        self._read_into = read_into
        self._left = HEADERS_BYTES  # bytes that surely belong to the stream
        self._head = bytearray()
        self._in_head = False
        self._ended = False

    @classmethod
    def over(cls, fd: int) -> LibxcTap:
        return cls(lambda room: os.readv(fd, [room]))

    def read(self, size: int = -1, /) -> bytes:
        """Up to so many bytes; b"" behind END."""
        room = memoryview(bytearray(max(size, 0) or HEADERS_BYTES))
        return bytes(room[: self.readinto(room)])

    def readinto(self, room: memoryview) -> int:
        if self._ended:
            return 0
        part = room[: self._left]
        count = self._read_into(part)
        self._left -= count
        if self._in_head:
            self._head += part[:count]
        if not self._left:
            self._go_on()
        return count

    def _go_on(self) -> None:
        """A part is complete: what comes next?"""
        if not self._in_head:
            self._in_head, self._left = True, RECORD_HEAD_BYTES
            self._head.clear()
            return
        kind = int.from_bytes(self._head[:4], "little")
        length = int.from_bytes(self._head[4:], "little")
        body = length + (-length & 7)
        if kind == END and not body:
            self._ended = True
        elif body:
            self._in_head, self._left = False, body
        else:
            self._left = RECORD_HEAD_BYTES
            self._head.clear()
