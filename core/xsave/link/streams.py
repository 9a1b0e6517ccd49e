"""The stream of a link, as a sink and as a binary file object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..record import Buffer


class Sending(Protocol):
    def put(self, parts: Sequence[memoryview]) -> None: ...

    def end_stream(self) -> None: ...


class Receiving(Protocol):
    def read_stream(self, room: memoryview, timeout_s: float | None) -> int: ...


class LinkSink:
    """A :class:`xsave.ByteSink`. What was put may be changed after: what is not yet at the
    other end is kept.

    :ivar offset: bytes put into the stream that is under way.
    """

    def __init__(self, link: Sending) -> None:
        self.offset = 0
        self._link = link

    def put(self, parts: Sequence[Buffer]) -> None:
        """:raises LinkError: it will not arrive."""
        views = [memoryview(part).cast("B") for part in parts]
        self._link.put(views)
        self.offset += sum(map(len, views))

    def write(self, data: Buffer, /) -> int:
        """As of a binary file object."""
        before = self.offset
        self.put([data])
        return self.offset - before

    def finish(self) -> None:
        """The stream is complete; what is put after this is another one.

        :raises LinkError: that will not arrive.
        """
        self._link.end_stream()
        self.offset = 0


class LinkSource:
    """A binary file object for reading; ends where the other end has finished its stream."""

    def __init__(self, link: Receiving, timeout_s: float | None) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._ended = False

    def readinto(self, room: memoryview) -> int:
        """Some bytes, as many as have come; 0 at the end.

        :raises SilentPeerError: none came in time.
        :raises LinkError: the stream will not come to its end.
        """
        view = memoryview(room).cast("B")
        if self._ended or not view:
            return 0
        got = self._link.read_stream(view, self._timeout_s)
        self._ended = not got
        return got

    def read(self, size: int = -1, /) -> bytes:
        """So many bytes, or fewer at the end; without a size, all to the end."""
        found = bytearray()
        while size < 0 or len(found) < size:
            room = bytearray(READ_BYTES if size < 0 else min(size - len(found), READ_BYTES))
            if not (got := self.readinto(memoryview(room))):
                break
            found += room[:got]
        return bytes(found)


READ_BYTES = 256 << 10
