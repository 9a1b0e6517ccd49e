"""What one end has heard: put in order by number, held until it is used, and acknowledged.

No I/O and no threads here; the link holds its lock around each call.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from ..errors import PeerError
from ..value_class import define
from .frame import FRAME_COST, Head, Kind, cost
from .outgoing import MESSAGE_WINDOW, Received

KEPT_SLOTS = 16
SLOT_MIN = 64 << 10  # smaller ones are not worth keeping


@define(eq=False)
class Piece:
    """A piece of the stream; the end of it has no data."""

    data: memoryview | None
    slot: bytearray | None = None
    nr_taken: int = 0


@define(eq=False)
class Early:
    """A frame that is on its way, or came before its turn. ``body`` is None until it is
    whole."""

    kind: Kind
    length: int
    body: Any = None
    slot: bytearray | None = None
    complete: bool = False
    direct: bool = False  # into the memory of who waits for it
    more: bool = False


class Incoming:
    """:param peer: the other end, for messages.
    :ivar messages: bodies that have come and were not used, in order.
    :ivar stream: pieces, likewise.
    """

    def __init__(self, peer: str, window_bytes: int) -> None:
        self.peer = peer
        self.messages: deque[dict[str, Any]] = deque()
        self.stream: deque[Piece] = deque()
        self.closed = False
        self.nr_bytes = 0
        self._message_costs: deque[int] = deque()
        self._window_bytes = window_bytes
        self._next = 0
        self._early: dict[int, Early] = {}
        self._last: list[int] = []
        self._held = {Kind.DATA: 0, Kind.MESSAGE: 0}  # cost of what is there and not used
        self._used = {Kind.DATA: 0, Kind.MESSAGE: 0}
        self._unacknowledged = 0  # cost of what has come since
        self._acknowledged_use = 0
        self._urgent = False
        self._slots: list[bytearray] = []
        self._room: memoryview | None = None
        self.nr_filled = 0  # bytes of the room
        self.is_ready = False  # no more is likely to come into it soon

    def post(self, room: memoryview | None) -> None:
        """Somebody waits for the stream, and nothing has come: let it come straight into this
        memory; None: nobody does any more."""
        self._room, self.nr_filled, self.is_ready = room, 0, False

    def new_channels(self, nr_channels: int) -> None:
        """What came before its turn comes again on the new channels."""
        for early in self._early.values():
            self._held[_account(early.kind)] -= cost(early.length)
        self._early.clear()
        self._last = [-1] * nr_channels

    # A frame arrives

    def begin(self, channel: int, head: Head, *, may_be_direct: bool = True) -> memoryview:
        """A numbered frame begins to arrive; room for its body.

        :param may_be_direct: nobody else is filling the room that was posted.
        :raises PeerError: it may not.
        """
        self._check_number(channel, head.number)
        account = _account(head.kind)
        limit = self._window_bytes if account is Kind.DATA else MESSAGE_WINDOW
        if head.kind is not Kind.CLOSE and self._held[account] + cost(head.length) > limit:
            raise self._wrong(
                f"{head.kind.name.lower()} frame", f"at most {limit} bytes on the way",
                f"{head.length} beside {self._held[account]} that were not used yet",
            )  # fmt: skip
        self._last[channel] = head.number
        self._held[account] += cost(head.length)
        early = Early(head.kind, head.length, more=head.more)
        self._early[head.number] = early
        if head.kind is Kind.DATA:
            if may_be_direct and (room := self._direct_room(head)) is not None:
                early.direct = True
                return room
            early.slot = self._take_slot(head.length)
            return memoryview(early.slot)[: head.length]
        return memoryview(bytearray(head.length))

    def complete(self, number: int, body: Any) -> bool:
        """The frame that began is whole. Whether whoever waits should look.

        :param body: the memory that ``begin`` gave, or what was decoded from it.
        """
        early = self._early.get(number)
        if early is None:  # the channels were changed while it was on its way
            return False
        early.body, early.complete = body, True
        moved = usable = False
        while (early := self._early.get(self._next)) is not None and early.complete:
            del self._early[self._next]
            self._next += 1
            self._take(early)
            moved, usable = True, usable or not early.direct or self.is_ready
        if not moved:
            self._check_gap()
        return usable

    def is_direct(self, number: int) -> bool:
        """Whether the frame that began goes straight into the room that was posted."""
        return self._early[number].direct

    def _take(self, early: Early) -> None:
        self.nr_bytes += early.length
        self._unacknowledged += cost(early.length)
        if not early.more:  # nothing comes behind it at once: then this is acknowledged at once
            self._urgent = True
        if early.direct:
            self._fill_room(early)
            return
        if early.kind is not Kind.MESSAGE:
            self.is_ready = True
        if early.kind is Kind.DATA:
            self.stream.append(Piece(early.body, early.slot))
            return
        if early.kind is Kind.END:
            self.stream.append(Piece(None))
        elif early.kind is Kind.MESSAGE:
            self.messages.append(early.body)
            self._message_costs.append(cost(early.length))
        else:
            self.closed = True
            if self._early:
                raise self._wrong("frame", "none after the close", f"{len(self._early)}")

    def _direct_room(self, head: Head) -> memoryview | None:
        """Where the frame goes if it is the next, and nothing is before it."""
        if self._room is None or self.stream or head.number != self._next:
            return None
        room = self._room[self.nr_filled : self.nr_filled + head.length]
        return room if len(room) == head.length else None

    def _fill_room(self, early: Early) -> None:
        assert self._room is not None
        self.nr_filled += early.length
        self._use(Kind.DATA, cost(early.length))
        if not early.more or len(self._room) - self.nr_filled < early.length:
            self.is_ready = True

    # It is used

    def next_message(self) -> dict[str, Any]:
        self._use(Kind.MESSAGE, self._message_costs.popleft())
        self._urgent = True
        return self.messages.popleft()

    def read_stream(self, room: memoryview) -> int | None:
        """Copy what there is into ``room``; the number of bytes, 0 at the end of a stream,
        None if nothing has come."""
        if not self.stream:
            return None
        if self.stream[0].data is None:
            self.stream.popleft()
            self._use(Kind.DATA, FRAME_COST)
            return 0
        done = 0
        while done < len(room) and self.stream and self.stream[0].data is not None:
            piece = self.stream[0]
            data = piece.data[piece.nr_taken : piece.nr_taken + len(room) - done]  # type: ignore[index]
            room[done : done + len(data)] = data
            done += len(data)
            piece.nr_taken += len(data)
            if piece.nr_taken == len(self.stream[0].data):
                self.stream.popleft()
                self._use(Kind.DATA, cost(piece.nr_taken))
                if piece.slot is not None and len(piece.slot) >= SLOT_MIN:
                    self._slots = [*self._slots[1 - KEPT_SLOTS :], piece.slot]
        return done

    def _use(self, account: Kind, amount: int) -> None:
        self._held[account] -= amount
        self._used[account] += amount

    # The other end is told

    @property
    def acknowledgement_due(self) -> bool:
        enough = self._window_bytes // 4
        return (
            self._urgent
            or self._unacknowledged >= enough
            or self._used[Kind.DATA] - self._acknowledged_use >= enough
        )

    def acknowledge(self) -> Received:
        self._urgent = False
        self._unacknowledged = 0
        self._acknowledged_use = self._used[Kind.DATA]
        return Received(self._next, self._used[Kind.DATA], self._used[Kind.MESSAGE])

    def _check_number(self, channel: int, number: int) -> None:
        if self.closed:
            raise self._wrong("frame", "none after the close", f"number {number}")
        if number < self._next or number in self._early:
            raise self._wrong("frame number", f"{self._next}", f"{number}, which came before")
        if number <= self._last[channel]:
            raise self._wrong("frame number", f"more than {self._last[channel]}", f"{number}")
        furthest = self._next + (self._window_bytes + MESSAGE_WINDOW) // FRAME_COST + 1
        if number > furthest:
            raise self._wrong("frame number", f"at most {furthest}", f"{number}")
        if len(self._last) == 1 and number != self._next:
            raise self._wrong("frame number", f"{self._next}", f"{number}")

    def _check_gap(self) -> None:
        """Numbers only grow on a channel: once all are past the next, it never comes."""
        if self._next not in self._early and min(self._last) > self._next:
            raise self._wrong("frame number", f"{self._next}", f"{min(self._last)} and later")

    def _take_slot(self, length: int) -> bytearray:
        """Memory used before if there is any of about that size: never much more than the
        frame has, or small frames would hold a lot of it."""
        for place, slot in enumerate(self._slots):
            if length <= len(slot) <= 2 * length:
                return self._slots.pop(place)
        return bytearray(length)

    def _wrong(self, what: str, expected: str, got: str) -> PeerError:
        return PeerError(peer=self.peer, what=what, expected=expected, got=got)


def _account(kind: Kind) -> Kind:
    """Where a frame's cost counts."""
    return Kind.MESSAGE if kind in {Kind.MESSAGE, Kind.CLOSE} else Kind.DATA
