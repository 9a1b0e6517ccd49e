"""A stream inside another one: read to its end, and not one byte further.

Behind the part of the save helper, libxl reads on from the same descriptor. So nothing is read
that does not belong to that part as far as it is known: first what it begins with, which tells
libxc's stream from a native one, then header after header, each of which says what follows,
until the end. What is in it is not looked at here.

Source: libxc migration stream specification, revision 3; docs/formats/native.md, section 2.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Generator

# libxc: headers of 24 and 16 bytes, then records of type and length.
LIBXC_HEADERS_BYTES = 24 + 16
LIBXC_RECORD = struct.Struct("<II")
LIBXC_END = 0

NATIVE_MAGIC = b"\x89XSV\r\n\x1a\n"
NATIVE_HEADER = struct.Struct("<HHIQ")  # behind the magic: version, -, size of the map, sum
# marker, kind, alignment, padding before the body, sizes of head, table and body, sum
NATIVE_PIECE = struct.Struct("<4sBBHIIQQ")
NATIVE_END = 5
NATIVE_TAIL_BYTES = 16

# Yields how many of the next bytes belong to the stream, and whether they are to be shown; is
# sent those that are.
Steps = Generator[tuple[int, bool], bytes, None]


class StreamTap:
    """A binary file object for :func:`xsave.run`.

    :param read_into: fills the beginning of a buffer; returns the count, 0 at the end.
    """

    def __init__(self, read_into: Callable[[memoryview], int]) -> None:
        self._read_into = read_into
        self._steps = _steps()
        self._left, self._shown = next(self._steps)  # bytes that surely belong to the stream
        self._seen = bytearray()

    @classmethod
    def over(cls, fd: int) -> StreamTap:
        return cls(lambda room: os.readv(fd, [room]))

    def read(self, size: int = -1, /) -> bytes:
        """Up to so many bytes; b"" behind the end."""
        room = memoryview(bytearray(max(size, 0) or LIBXC_HEADERS_BYTES))
        return bytes(room[: self.readinto(room)])

    def readinto(self, room: memoryview) -> int:
        if not self._left:
            return 0
        part = room[: self._left]
        count = self._read_into(part)
        self._left -= count
        if self._shown:
            self._seen += part[:count]
        if not self._left:
            self._go_on()
        return count

    def _go_on(self) -> None:
        """A part is complete: what comes next?"""
        while not self._left:
            seen = bytes(self._seen)
            self._seen.clear()
            try:
                self._left, self._shown = self._steps.send(seen)
            except StopIteration:
                return


def _steps() -> Steps:
    magic = yield len(NATIVE_MAGIC), True
    yield from _native() if magic == NATIVE_MAGIC else _libxc()


def _libxc() -> Steps:
    yield LIBXC_HEADERS_BYTES - len(NATIVE_MAGIC), False
    while True:
        kind, length = LIBXC_RECORD.unpack((yield LIBXC_RECORD.size, True))
        if kind == LIBXC_END and not length:
            return
        yield _padded(length), False


def _native() -> Steps:
    _, _, size, _ = NATIVE_HEADER.unpack((yield NATIVE_HEADER.size, True))
    yield _padded(size), False
    while True:
        _, kind, _, padding, head, table, body, _ = NATIVE_PIECE.unpack(
            (yield NATIVE_PIECE.size, True)
        )
        yield head + table + padding + _padded(body), False
        if kind == NATIVE_END:
            yield NATIVE_TAIL_BYTES, False
            return


def _padded(size: int) -> int:
    return size + (-size & 7)
