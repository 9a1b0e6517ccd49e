"""A relay between two ends of a TCP connection, which can do to it what networks do: delay,
cut after so many bytes, stall, refuse. What passes is only counted.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Literal

from attrs import define

Direction = Literal["there", "back"]  # from who connects, and to them
PIECE_BYTES = 64 << 10


@define(eq=False)
class Pair:
    """Two sockets that belong together: who connected, and where it was meant to go."""

    near: socket.socket
    far: socket.socket

    def cut(self) -> None:
        """As a cable is: whatever is on its way is gone, both ends hear of a reset."""
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@define(eq=False)
class Mark:
    """:ivar at: bytes in one direction, over all connections, before which it is called."""

    direction: Direction
    at: int
    action: Callable[[], None]


class Relay:
    """A context manager. Accepts on ``address`` and passes on to ``target``, each connection
    by two threads.

    :param target: host and port; asked anew for each connection.
    :param delay_s: for each piece, one way: bytes that follow wait behind.
    :ivar passed: bytes so far, by direction.
    """

    def __init__(self, target: tuple[str, int], delay_s: float = 0.0) -> None:
        self.target = target
        self.delay_s = delay_s
        self.passed: dict[Direction, int] = {"there": 0, "back": 0}
        self.nr_connections = 0
        self._marks: list[Mark] = []
        self._pairs: list[Pair] = []
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._nr_acting = 0
        self._flows = threading.Event()
        self._flows.set()
        self._refuses = False
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Relay:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.go_on()
        self.cut()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    # -- what networks do --------------------------------------------------------------

    def cut(self, *, for_good: bool = False) -> None:
        """All connections that there are; and with ``for_good`` all that come."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self._refuses |= for_good
        for pair in pairs:
            pair.cut()

    def mend(self) -> None:
        """Connections get through again."""
        with self._lock:
            self._refuses = False

    def stall(self) -> None:
        """Nothing passes, and nobody is told."""
        self._flows.clear()

    def go_on(self) -> None:
        self._flows.set()

    def when(self, direction: Direction, nr_bytes: int, action: Callable[[], None]) -> None:
        """Call it once, before more than so many bytes have passed in that direction. Those up
        to there have been passed on; the others wait until it returns."""
        with self._lock:
            self._marks.append(Mark(direction, nr_bytes, action))

    def forget_marks(self) -> None:
        """What has not come to pass by now never will; what has, has been done."""
        with self._idle:
            self._marks.clear()
            self._idle.wait_for(lambda: not self._nr_acting)

    # -- passing on ------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # it was shut down
            with self._lock:
                refuses = self._refuses
            try:
                if refuses:
                    raise ConnectionRefusedError
                far = socket.create_connection(self.target, timeout=10)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = Pair(near, far)
            with self._lock:
                self._pairs.append(pair)
                self.nr_connections += 1
            self._spawn(lambda pair=pair: self._pass(pair, "there"))
            self._spawn(lambda pair=pair: self._pass(pair, "back"))

    def _pass(self, pair: Pair, direction: Direction) -> None:
        source, sink = (pair.near, pair.far) if direction == "there" else (pair.far, pair.near)
        piece = memoryview(bytearray(PIECE_BYTES))
        try:
            while count := source.recv_into(piece):
                if self.delay_s:
                    time.sleep(self.delay_s)
                self._flows.wait()
                self._pass_piece(piece[:count], direction, sink)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            with self._lock:
                if pair in self._pairs:
                    self._pairs.remove(pair)
            pair.cut()

    def _pass_piece(self, piece: memoryview, direction: Direction, sink: socket.socket) -> None:
        while piece:
            with self._lock:
                passed = self.passed[direction]
                due = [m for m in self._marks if m.direction == direction and m.at <= passed]
                self._marks = [mark for mark in self._marks if mark not in due]
                self._nr_acting += len(due)
                ahead = [m.at - passed for m in self._marks if m.direction == direction]
            for mark in due:
                mark.action()
            with self._idle:
                self._nr_acting -= len(due)
                self._idle.notify_all()
            part = piece[: min([len(piece), *ahead])] if not due else piece[:0]
            with self._lock:
                self.passed[direction] += len(part)
            sink.sendall(part)
            piece = piece[len(part) :]

    def _spawn(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name="relay", daemon=True)
        self._threads.append(thread)
        thread.start()
