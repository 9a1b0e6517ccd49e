"""Links in memory, whose channels break where a test says so.

    with memory_links() as pair:
        pair.network.cut(OUT, 1000)
        pair.near.send({"are you": "there"})
        assert pair.far.receive(5) == {"are you": "there"}

No clock decides anything here: what is cut is cut after so many bytes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from ..errors import TryAgainError
from ..link.connect import connect
from ..link.link import Link
from ..link.options import LinkOptions
from ..link.server import LinkServer, serve
from ..record import Buffer
from ..transport import Transport

PIPE_BYTES = 64 << 10  # on the way in one direction, as in a kernel's buffer
OUT, BACK = "out", "back"  # from who connects to who listens, and back
Cut = tuple[str, int]  # a direction, and after how many bytes in it


class _Pipe:
    """One direction. All pipes of a network share its lock."""

    def __init__(self, changed: threading.Condition) -> None:
        self.data = bytearray()
        self.ended = False
        self.stalled = False
        self.cut_after: int | None = None  # bytes
        self.on_cut: Callable[[], None] | None = None
        self.broken = False
        self._changed = changed

    def write(self, part: memoryview, timeout_s: float | None) -> None:
        with self._changed:
            while part or self.cut_after == 0:
                self._wait(lambda: len(self.data) < PIPE_BYTES and not self.stalled, timeout_s)
                if self.ended:
                    raise BrokenPipeError("the channel was closed")
                size = min(len(part), PIPE_BYTES - len(self.data))
                if self.cut_after is not None:
                    size = min(size, self.cut_after)
                    self.cut_after -= size
                self.data += part[:size]
                part = part[size:]
                if self.cut_after == 0 and self.on_cut is not None:
                    self.cut_after = None
                    self.on_cut()
                self._changed.notify_all()
            self._check_broken()

    def read(self, room: memoryview, timeout_s: float | None) -> int:
        with self._changed:
            self._wait(lambda: bool(self.data) and not self.stalled, timeout_s)
            size = min(len(room), len(self.data))
            room[:size] = self.data[:size]
            del self.data[:size]
            self._changed.notify_all()
            return size

    def _check_broken(self) -> None:
        if self.broken:
            raise ConnectionResetError("the channel was cut")

    def _wait(self, ready: Callable[[], bool], timeout_s: float | None) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.ended and not ready():
            self._check_broken()
            remaining_s = None if deadline is None else deadline - time.monotonic()
            if remaining_s is not None and remaining_s <= 0:
                raise TimeoutError("nothing moved")
            self._changed.wait(remaining_s)


class MemoryChannel:
    """A :class:`xsave.Channel`, one end of two pipes."""

    def __init__(
        self, peer: str, incoming: _Pipe, outgoing: _Pipe, changed: threading.Condition
    ) -> None:
        self.peer = peer
        self.identity = ""
        self._incoming = incoming
        self._outgoing = outgoing
        self._changed = changed
        self._timeout_s: float | None = None

    def handshake(self, timeout_s: float) -> None:
        pass

    def set_timeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def write_parts(self, parts: Sequence[Buffer]) -> None:
        for part in parts:
            self._outgoing.write(memoryview(part).cast("B"), self._timeout_s)

    def read_into(self, buffer: memoryview) -> int:
        return self._incoming.read(buffer, self._timeout_s)

    def close(self) -> None:
        with self._changed:
            self._incoming.ended = self._outgoing.ended = True
            self._changed.notify_all()


class MemoryListener:
    """A :class:`xsave.Listener`."""

    def __init__(self, address: str, changed: threading.Condition) -> None:
        self.address = address
        self.closed = False
        self.arrived: deque[MemoryChannel] = deque()
        self._changed = changed

    def accept(self, timeout_s: float | None = None) -> MemoryChannel:
        with self._changed:
            come = self._changed.wait_for(lambda: self.arrived or self.closed, timeout_s)
            if self.closed:
                raise ConnectionAbortedError("the listener was closed")
            if not come:
                raise TimeoutError("nobody came")
            return self.arrived.popleft()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            for channel in self.arrived:
                channel.close()
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class MemoryNetwork(Transport):
    """A :class:`xsave.Transport` within this process, with faults.

    :param cuts: the first channel that is made breaks as the first one says, and so on; those
        after them last.
    :ivar refusing: whether new channels are refused at the moment.
    :ivar nr_channels: made so far.
    """

    name = "memory"
    summary = "within this process, for tests"

    def __init__(self, cuts: Iterable[Cut] = ()) -> None:
        self.refusing = False
        self.nr_channels = 0
        self._cuts = deque(cuts)
        self._changed = threading.Condition(threading.RLock())
        self._listeners: dict[str, MemoryListener] = {}
        self._channels: list[tuple[_Pipe, _Pipe]] = []

    def connect(self, address: str, timeout_s: float) -> MemoryChannel:
        with self._changed:
            listener = self._listeners.get(address)
            if listener is None or listener.closed or self.refusing:
                raise TryAgainError(f"nobody listens at memory:{address}")
            out, back = _Pipe(self._changed), _Pipe(self._changed)
            out.on_cut = back.on_cut = lambda: self._break(out, back)
            self.nr_channels += 1
            self._channels = [both for both in self._channels if not both[0].ended] + [(out, back)]
            if self._cuts:
                self.cut(*self._cuts.popleft())
            listener.arrived.append(MemoryChannel("memory:client", out, back, self._changed))
            self._changed.notify_all()
            return MemoryChannel(f"memory:{address}", back, out, self._changed)

    def listen(self, address: str) -> MemoryListener:
        with self._changed:
            known = self._listeners.get(address)
            if known is not None and not known.closed:
                raise TryAgainError(f"memory:{address} is taken")
            self._listeners[address] = MemoryListener(address, self._changed)
            return self._listeners[address]

    def cut(self, direction: str = OUT, after_bytes: int = 0) -> None:
        """Break the channel made last, when so many bytes more have gone in a direction; with
        0 when the next is about to."""
        with self._changed:
            out, back = self._channels[-1]
            (out if direction == OUT else back).cut_after = after_bytes

    def break_now(self) -> None:
        """Break every channel there is."""
        with self._changed:
            for out, back in self._channels:
                self._break(out, back)

    def stall(self, stalled: bool = True) -> None:
        """Nothing moves on the channels there are any more, though they are not broken."""
        with self._changed:
            for pipe in (pipe for both in self._channels for pipe in both):
                pipe.stalled = stalled
            self._changed.notify_all()

    def _break(self, out: _Pipe, back: _Pipe) -> None:
        out.broken = back.broken = True
        self._changed.notify_all()


class MemoryLinks:
    """Two ends of one link; as a context, closes both.

    :ivar near: the end that connected. :ivar far: the end that listened.
    """

    def __init__(self, network: MemoryNetwork, server: LinkServer, near: Link, far: Link) -> None:
        self.network = network
        self.server = server
        self.near = near
        self.far = far

    def close(self) -> None:
        """Both ends, without waiting for each other; what was not delivered yet is not."""
        self.near.abandon()
        self.far.abandon()
        self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def memory_links(
    options: LinkOptions | None = None,
    far_options: LinkOptions | None = None,
    *,
    cuts: Iterable[Cut] = (),
) -> MemoryLinks:
    """A link within this process, and the network that it goes over.

    :param options: of the end that connects; of both unless the other's are given.
    :param cuts: see :class:`MemoryNetwork`; the first channel is the first one that the link
        itself uses, so that these do not disturb its opening.
    """
    network = MemoryNetwork()
    server = serve(network.listen("far"), far_options or options)
    try:
        near = connect(network, "far", options)
    except BaseException:
        server.close()
        raise
    far = server.accept(30)
    for cut in list(cuts)[:1]:
        network.cut(*cut)
    network._cuts.extend(list(cuts)[1:])
    return MemoryLinks(network, server, near, far)
