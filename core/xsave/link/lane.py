"""One channel of a link, with its two threads: one that reads frames, one that writes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from ..errors import LinkError
from ..record import Buffer
from ..transport import Channel
from .frame import HEAD, Head, decode_head
from .options import LinkOptions

# The slowest that a frame may arrive once it has begun. Whoever sends one byte now and then
# is silent all the same.
BYTES_PER_S_MIN = 16 << 10


class Conversation(Protocol):
    """What a lane needs of its link."""

    options: LinkOptions

    def begin_frame(self, lane: Lane, head: Head) -> memoryview | None:
        """Room for the body; None if this lane is no part of the link any more."""

    def complete_frame(self, lane: Lane, head: Head, body: memoryview) -> bool:
        """Whether to go on reading."""

    def next_parts(self, lane: Lane, *, has_written: bool) -> Sequence[Buffer] | None:
        """Waits for something to write; None to stop.

        :param has_written: what it gave before is written.
        """

    def lane_broke(self, lane: Lane, error: OSError) -> None: ...

    def peer_failed(self, lane: Lane, error: LinkError) -> None: ...

    def reader_left(self, lane: Lane) -> None:
        """It touches no memory any more."""


class Lane:
    """:ivar generation: how often the link's channels were made before.
    :ivar pong: number of a ping that was not answered yet.
    :ivar is_open: the other end knows that the channel is part of the link.
    :ivar busy: some thread writes.
    :ivar writing: number of the numbered frame that is being written.
    :ivar pinged: when a ping went out that was not answered yet; 0 for none.
    """

    def __init__(
        self, link: Conversation, channel: Channel, generation: int, index: int
    ) -> None:  # fmt: skip
        self.channel = channel
        self.generation = generation
        self.index = index
        self.pong: int | None = None
        self.nr_pings = 0
        self.pinged = 0.0
        self.last_written = 0.0
        self.writing: int | None = None
        self.is_open = False
        self.busy = False
        self._link = link
        name = f"xsave link {channel.peer} {generation}.{index}"
        self._threads = [
            threading.Thread(target=self._read, name=f"{name} in", daemon=True),
            threading.Thread(target=self._write, name=f"{name} out", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def write(self, parts: Sequence[Buffer]) -> None:
        """By one thread at a time: who has set ``busy``."""
        self.channel.write_parts(parts)
        self.last_written = time.monotonic()

    def join(self) -> None:
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()

    @property
    def ended(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def _read(self) -> None:
        try:
            while self._read_frame():
                pass
        except OSError as error:
            self._link.lane_broke(self, error)
        except LinkError as error:
            self._link.peer_failed(self, error)
        finally:
            self._link.reader_left(self)

    def _read_frame(self) -> bool:
        room = memoryview(bytearray(HEAD.size))
        got = _read_some(self.channel, room)
        deadline = time.monotonic() + self._link.options.silence_s
        fill(self.channel, room[got:], deadline)
        head = decode_head(room, self.channel.peer)
        body = self._link.begin_frame(self, head)
        if body is None:
            return False
        fill(self.channel, body, deadline + head.length / BYTES_PER_S_MIN)
        return self._link.complete_frame(self, head, body)

    def _write(self) -> None:
        try:
            has_written = False
            while (parts := self._link.next_parts(self, has_written=has_written)) is not None:
                self.write(parts)
                has_written = True
        except OSError as error:
            self._link.lane_broke(self, error)


def fill(channel: Channel, room: memoryview, deadline: float) -> None:
    """:raises TimeoutError: not all of it came in time, or nothing did for too long.
    :raises OSError: the channel broke or ended."""
    while room:
        room = room[_read_some(channel, room) :]
        if room and time.monotonic() > deadline:
            raise TimeoutError("the other end is too slow")


def _read_some(channel: Channel, room: memoryview) -> int:
    if not (got := channel.read_into(room)):
        raise ConnectionError("the other end is gone")
    return got
