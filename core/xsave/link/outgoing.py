"""What one end has said: numbered, kept until it has arrived, sent again after a break.

No I/O and no threads here; the link holds its lock around each call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from ..errors import PeerError
from ..value_class import define
from .frame import FRAME_COST, MESSAGE_MAX, Kind, cost, encode_head

MESSAGE_WINDOW = MESSAGE_MAX + (64 << 10)  # cost of messages on the way: one of any size, and some
SMALL_BYTES = 64 << 10  # what is smaller is copied at once, and put together


@define(eq=False)
class Sent:
    """:ivar slot: memory that the body stands in, when it is this link's own.
    :ivar borrowed: the body is the caller's memory, who wants it back.
    """

    kind: Kind
    number: int
    body: memoryview
    slot: bytearray | None = None
    borrowed: bool = False

    @property
    def length(self) -> int:
        return len(self.body)

    def parts(self, *, more: bool) -> list[bytes | memoryview]:
        head = encode_head(self.kind, self.length, self.number, more=more)
        return [head, self.body] if self.body else [head]


@define
class Received:
    """What one end says about what has come.

    :ivar number: every frame below it is there.
    :ivar data_used: cost of the stream's frames that have been used, from the beginning.
    :ivar messages_used: the same of messages.
    """

    number: int
    data_used: int
    messages_used: int


class Outgoing:
    """:param peer: the other end, for messages."""

    def __init__(self, peer: str, window_bytes: int, frame_bytes: int) -> None:
        self.peer = peer
        self.nr_bytes = 0  # of bodies, each once
        self.nr_resent_bytes = 0
        self.window_bytes = window_bytes
        self._frame_bytes = max(1, min(frame_bytes, window_bytes // 2 - FRAME_COST))
        self._kept: deque[Sent] = deque()
        self._next_number = 0
        self._next_unsent = 0
        self._cost = {Kind.DATA: 0, Kind.MESSAGE: 0}  # of all frames so far
        self._used = {Kind.DATA: 0, Kind.MESSAGE: 0}  # as the other end says
        self._free_slots: list[bytearray] = []

    def has_room(self, kind: Kind, length: int) -> bool:
        """Whether credit allows such a frame now."""
        if kind is Kind.CLOSE:
            return True
        return cost(length) <= self._credit(Kind.MESSAGE if kind is Kind.MESSAGE else Kind.DATA)

    def add(self, kind: Kind, body: memoryview) -> None:
        """A frame whose body nobody changes any more. There has to be room for it."""
        self._keep(Sent(kind, self._next_number, body))
        if kind is not Kind.CLOSE:
            self._cost[Kind.MESSAGE if kind is Kind.MESSAGE else Kind.DATA] += cost(len(body))

    def take(self, data: memoryview) -> int:
        """The beginning of some data, as far as there is room in one frame; the number of
        bytes, 0 while there is none. Of what is long no copy is made: until ``give_back`` the
        caller must not change it, unless nobody can."""
        if len(data) >= SMALL_BYTES:
            size = min(len(data), self._frame_bytes)
            if not self.has_room(Kind.DATA, size):
                return 0
            self.add(Kind.DATA, data[:size])
            self._kept[-1].borrowed = type(data.obj) is not bytes
            return size
        if (size := self._extend(data)) or not self.has_room(Kind.DATA, 1):
            return size
        size = min(len(data), self._frame_bytes, self._credit(Kind.DATA) - FRAME_COST)
        self._keep(Sent(Kind.DATA, self._next_number, *self._copy(data[:size])))
        self._cost[Kind.DATA] += cost(size)
        return size

    @property
    def nr_borrowed_bytes(self) -> int:
        """Of the caller's memory that is still in use."""
        return sum(sent.length for sent in self._kept if sent.borrowed)

    def give_back(self, in_use: Collection[int]) -> bool:
        """Copy what is borrowed and has not arrived yet; whether none is left.

        :param in_use: numbers of frames that are being written at this moment.
        """
        left = False
        for sent in self._kept:
            if sent.borrowed and sent.number in in_use:
                left = True
            elif sent.borrowed:
                sent.body, sent.slot = self._copy(sent.body)
                sent.borrowed = False
        return not left

    def _copy(self, data: memoryview) -> tuple[memoryview, bytearray]:
        slot = self._free_slots.pop() if self._free_slots else bytearray(self._frame_bytes)
        body = memoryview(slot)[: len(data)]
        body[:] = data
        return body, slot

    def next_unsent(self) -> Sent | None:
        """The next frame to be sent, which counts as sent from now on."""
        if not self.has_unsent:
            return None
        sent = self._kept[self._next_unsent - self._first]
        self._next_unsent += 1
        return sent

    @property
    def more_follows(self) -> bool:
        """Whether the next to be sent is there already, and of the stream."""
        return self.has_unsent and self._kept[self._next_unsent - self._first].kind is Kind.DATA

    @property
    def has_unsent(self) -> bool:
        return self._next_unsent != self._next_number

    @property
    def all_arrived(self) -> bool:
        return not self._kept

    def acknowledge(self, received: Received, *, has_news: bool = True) -> None:
        """:param has_news: it has to say something new, or it could be repeated for ever.
        :raises PeerError: that cannot be.
        """
        self._check_received(received)
        before = Received(self._first, self._used[Kind.DATA], self._used[Kind.MESSAGE])
        if has_news and received == before:
            raise PeerError(
                peer=self.peer, what="acknowledgement", expected="something new",
                got="the same again",
            )  # fmt: skip
        while self._first < received.number:
            sent = self._kept.popleft()
            if sent.slot is not None:
                self._free_slots.append(sent.slot)
        self._used = {Kind.DATA: received.data_used, Kind.MESSAGE: received.messages_used}

    def rewind(self, received: Received) -> None:
        """On a new channel: what has not arrived is to be sent again.

        :raises PeerError: the other end cannot have received that.
        """
        self.acknowledge(received, has_news=False)
        again = [sent for sent in self._kept if sent.number < self._next_unsent]
        self.nr_resent_bytes += sum(sent.length for sent in again)
        self._next_unsent = self._first

    @property
    def _first(self) -> int:
        return self._next_number - len(self._kept)

    def _credit(self, kind: Kind) -> int:
        limit = self.window_bytes if kind is Kind.DATA else MESSAGE_WINDOW
        return limit - (self._cost[kind] - self._used[kind])

    def _keep(self, sent: Sent) -> None:
        self._kept.append(sent)
        self._next_number += 1
        self.nr_bytes += sent.length

    def _extend(self, data: memoryview) -> int:
        """Into the last frame, while it waits: many small writes are few frames."""
        last = self._kept[-1] if self._kept else None
        if last is None or last.slot is None or last.number < self._next_unsent:
            return 0
        size = min(len(data), len(last.slot) - last.length, self._credit(Kind.DATA))
        if size <= 0:
            return 0
        end = last.length + size
        whole = memoryview(last.slot)
        whole[last.length : end] = data[:size]
        last.body = whole[:end]
        self._cost[Kind.DATA] += size
        self.nr_bytes += size
        return size

    def _check_received(self, received: Received) -> None:
        for what, low, got, high in (
            ("number of frames", self._first, received.number, self._next_unsent),
            ("amount of data", self._used[Kind.DATA], received.data_used, self._cost[Kind.DATA]),
            ("amount of messages", self._used[Kind.MESSAGE], received.messages_used,
             self._cost[Kind.MESSAGE]),
        ):  # fmt: skip
            if not low <= got <= high:
                raise PeerError(
                    peer=self.peer, what=f"acknowledgement ({what})",
                    expected=f"{low} to {high}", got=str(got),
                )  # fmt: skip
