"""The link itself: what others call, and what its channels' threads call."""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from ..errors import (
    LinkClosedError,
    LinkError,
    LinkLostError,
    PeerError,
    SilentPeerError,
    TryAgainError,
    XsaveError,
)
from ..record import Buffer
from ..transport import Channel
from ..value_class import frozen
from .frame import (
    ACK_BODY,
    NUMBERED,
    REFUSAL_MAX,
    Head,
    Kind,
    decode_message,
    encode_head,
    encode_message,
)
from .incoming import Incoming
from .lane import Lane
from .options import LinkOptions
from .outgoing import SMALL_BYTES, Outgoing, Received
from .streams import LinkSink, LinkSource

GIVE_BACK_S = 0.001  # what arrives within this time need not be copied
FIRST_DELAY_S, LAST_DELAY_S = 0.02, 1.0  # between attempts to come back
Reconnect = Callable[["Link", int, float], None]


class State(enum.Enum):
    OPENING = "opening"
    CONNECTED = "connected"
    BROKEN = "broken"  # and may come back
    ENDED = "ended"


@frozen
class LinkCounters:
    """What a link did so far.

    :ivar sent_bytes: of messages and of the stream, each byte once.
    :ivar resent_bytes: how many of them were sent again after breaks.
    :ivar round_trip_s: the last that was measured; None before.
    """

    sent_bytes: int
    received_bytes: int
    resent_bytes: int
    nr_reconnections: int
    nr_channels: int
    round_trip_s: float | None


class Link:
    """One conversation with another end. Made by ``connect`` and ``serve``.

    Any thread may call; the stream has one writer and one reader at a time.

    :ivar id: 16 random bytes.
    :ivar peer: who is at the other end, for messages.
    :ivar identity: what it has proved about itself, see :class:`xsave.Channel`.
    :ivar sink: of the stream to the other end.
    """

    def __init__(
        self, link_id: bytes, channel: Channel, options: LinkOptions, window_bytes: int,
        nr_channels: int, *, reconnect: Reconnect | None = None,
        forget: Callable[[], None] | None = None, may_return: bool = True,
    ) -> None:  # fmt: skip
        """:param channel: the first one.
        :param window_bytes: that both ends agreed upon.
        :param reconnect: makes the channels again, as generation so, before a deadline; None
            where the other end does.
        :param forget: is called when the link has ended.
        :param may_return: whether a broken link can be made again at all.
        """
        self.id = link_id
        self.peer = channel.peer
        self.identity = channel.identity
        self.options = options
        self.nr_channels = nr_channels
        self.generation = -1
        self.sink = LinkSink(self)
        self._reconnect = reconnect
        self._forget = forget
        self._may_return = may_return
        self._lock = threading.Lock()
        self._can_write = threading.Condition(self._lock)  # lanes: something is to be written
        self._can_send = threading.Condition(self._lock)  # callers: there may be room
        self._has_come = threading.Condition(self._lock)  # callers: something may have come
        self._changed = threading.Condition(self._lock)  # the state
        self._state = State.OPENING
        self._error: LinkError | None = None
        self._why_broken = ""
        self._broken_at = time.monotonic()
        self._closing = False
        self._refusal: bytes | None = None
        self._outgoing = Outgoing(self.peer, window_bytes, options.frame_bytes)
        self._incoming = Incoming(self.peer, window_bytes)
        self._lanes: dict[int, Lane] = {}
        self._old_lanes: list[Lane] = []
        self._returning: threading.Thread | None = None  # makes the channels again
        self._filling: Lane | None = None  # writes into the memory of who waits for the stream
        self._round_trip_s: float | None = None

    # For callers

    def send(self, message: Mapping[str, Any]) -> None:
        """Say something: text keys, plain values (text, bytes, numbers, lists, maps), at most
        1 MiB. Returns when it is on its way, which is not yet that it has arrived.

        :raises LinkError: nothing can be said any more.
        """
        body = memoryview(encode_message(message))
        with self._lock:
            self._wait_for_room(Kind.MESSAGE, len(body))
            self._outgoing.add(Kind.MESSAGE, body)
            self._can_write.notify_all()

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        """The next message.

        :raises SilentPeerError: none came in time.
        :raises LinkClosedError: none will come: the other end has closed the link.
        :raises LinkError: the link was lost, or the other end does not keep to the protocol.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            while not self._incoming.messages:
                self._check_can_come()
                if not self._wait(self._has_come, deadline):
                    raise SilentPeerError(f"no answer from {self.peer} within {timeout_s:g} s")
            message = self._incoming.next_message()
            self._can_write.notify_all()
        return message

    def source(self, timeout_s: float | None = None) -> LinkSource:
        """The stream from the other end, up to its end; call it again for the next stream.

        :param timeout_s: how long reading waits until something comes.
        """
        return LinkSource(self, timeout_s)

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything that was said has arrived.

        :raises SilentPeerError: not in time. :raises LinkError: it never will.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            while not self._outgoing.all_arrived:
                self._check_alive()
                if not self._wait(self._can_send, deadline):
                    raise SilentPeerError(
                        f"{self.peer} did not confirm what was sent within {timeout_s:g} s"
                    )

    @property
    def lost(self) -> LinkError | None:
        """Why nothing can be said or heard any more; None while it can. A link that is
        broken at the moment, and may come back, is not lost."""
        with self._lock:
            self._check_patience()
            return self._error

    @property
    def is_broken(self) -> bool:
        """Whether it has no channel at the moment, and may come back."""
        return self._state is State.BROKEN

    @property
    def counters(self) -> LinkCounters:
        with self._lock:
            return LinkCounters(
                sent_bytes=self._outgoing.nr_bytes,
                received_bytes=self._incoming.nr_bytes,
                resent_bytes=self._outgoing.nr_resent_bytes,
                nr_reconnections=max(self.generation, 0),
                nr_channels=self.nr_channels,
                round_trip_s=self._round_trip_s,
            )

    def close(self) -> None:
        """Say that nothing more comes, wait (a little, see ``close_s``) until the other end
        has everything, and let go: no thread of the link runs on. Raises nothing; use
        :meth:`flush` before to be sure of what was said."""
        deadline = time.monotonic() + self.options.close_s
        with self._lock:
            if self._state is not State.ENDED and not self._closing:
                self._closing = True
                self._outgoing.add(Kind.CLOSE, memoryview(b""))
                self._wake_all()
            with contextlib.suppress(LinkError):
                while self._state is not State.ENDED and not self._outgoing.all_arrived:
                    if self._incoming.closed and self._state is State.BROKEN:
                        break  # neither has anything to say to the other
                    if not self._wait(self._can_send, deadline):
                        break
            self._end(LinkClosedError(f"the link with {self.peer} is closed"))
        self._let_go()

    def abandon(self) -> None:
        """Let go at once, without a word: what was said may not arrive."""
        with self._lock:
            self._end(LinkClosedError(f"the link with {self.peer} was abandoned"))
        self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # For the sink and the source

    def put(self, parts: Sequence[memoryview]) -> None:
        """Into the stream. Of what is long no copy is made, as far as it arrives soon."""
        with self._lock:
            for data in parts:
                self._put(data)
            self._give_back()

    def _put(self, data: memoryview) -> None:
        while data:
            self._check_can_send()
            if taken := self._outgoing.take(data):
                data = data[taken:]
                self._write_now()
            else:
                self._wait(self._can_send, None)

    def _write_now(self) -> None:
        """In the thread of who puts, if there is one channel and nobody writes: waking another
        thread for each frame took as long as sending it. Gives up the lock meanwhile."""
        lane = self._lanes.get(0)
        if self.nr_channels > 1 or lane is None or not lane.is_open or lane.busy:
            self._can_write.notify()
            return
        lane.busy = True
        try:
            while self._is_current(lane) and (parts := self._parts_to_write(lane)) is not None:
                self._write_unlocked(lane, parts)
        finally:
            lane.busy = False

    def _acknowledge_now(self, lane: Lane, head: Head) -> None:
        """In the thread that reads, where it will not have to wait: nothing of this end is on
        its way, and for so much data there is room for a few bytes. Else in the thread that
        writes."""
        small = head.length < SMALL_BYTES
        if small or lane.index or lane.busy or not lane.is_open or not self._outgoing.all_arrived:
            self._can_write.notify_all()
            return
        lane.busy = True
        self._write_unlocked(lane, self._acknowledgement())
        lane.busy = False
        # Whoever wanted to write meanwhile waits on.
        due = self._incoming.acknowledgement_due
        if due or self._outgoing.has_unsent or lane.pong is not None:
            self._can_write.notify_all()

    def _acknowledgement(self) -> Sequence[Buffer]:
        received = self._incoming.acknowledge()
        body = ACK_BODY.pack(received.data_used, received.messages_used)
        return [encode_head(Kind.ACK, len(body), received.number), body]

    def _write_unlocked(self, lane: Lane, parts: Sequence[Buffer]) -> None:
        self._lock.release()
        try:
            lane.write(parts)
        except OSError as error:
            self.lane_broke(lane, error)
        except BaseException:  # half a frame may be written, and nothing can come after that
            self.lane_broke(lane, ConnectionAbortedError("writing was interrupted"))
            raise
        finally:
            self._lock.acquire()

    def _give_back(self) -> None:
        """Wait until the caller's memory is not in use any more. What was not there within a
        moment is copied: with that, the next can be prepared while this is on its way."""
        deadline = time.monotonic() + GIVE_BACK_S
        enough = self._outgoing.window_bytes // 4
        while nr_bytes := self._outgoing.nr_borrowed_bytes:
            self._check_alive()
            late = self._state is not State.CONNECTED or time.monotonic() >= deadline
            if nr_bytes <= enough or late:
                lanes = self._lanes.values()
                writing = {lane.writing for lane in lanes if lane.writing is not None}
                if self._outgoing.give_back(writing):
                    return
                deadline = time.monotonic() + GIVE_BACK_S
            self._can_send.wait(max(deadline - time.monotonic(), 0))

    def end_stream(self) -> None:
        with self._lock:
            self._wait_for_room(Kind.END, 0)
            self._outgoing.add(Kind.END, memoryview(b""))
            self._can_write.notify_all()

    def read_stream(self, room: memoryview, timeout_s: float | None) -> int:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            got = self._incoming.read_stream(room)
            if got is None:
                got = self._wait_for_stream(room, deadline)
            if got is None:
                raise SilentPeerError(f"nothing came from {self.peer} within {timeout_s:g} s")
            if self._incoming.acknowledgement_due:
                self._can_write.notify_all()
        return got

    def _wait_for_stream(self, room: memoryview, deadline: float | None) -> int | None:
        """What comes goes straight into ``room``; None if nothing does."""
        incoming = self._incoming
        incoming.post(room)
        try:
            while not incoming.is_ready:
                if incoming.nr_filled and self._state is not State.CONNECTED:
                    break
                if not incoming.nr_filled:
                    self._check_can_come()
                if not self._wait(self._has_come, deadline):
                    break
            self._wait_for_memory()
            if incoming.nr_filled:
                return incoming.nr_filled
            if (got := incoming.read_stream(room)) is None:
                self._check_can_come()
            return got
        finally:
            self._wait_for_memory()
            incoming.post(None)

    def _wait_for_memory(self) -> None:
        """Until no lane writes into the reader's memory: soon, or the lane breaks."""
        while self._filling is not None:
            self._has_come.wait()

    # For those who make channels

    def adopt(
        self, channel: Channel, generation: int, index: int, received: Received | None
    ) -> Lane:
        """Take a channel as part of the link; its lane is not started yet. With the first
        channel of a generation all that were there before are given up.

        :param received: what the other end has, with the first channel.
        :raises LinkError: the link does not want it. :raises OSError: it comes too late.
        """
        with self._lock:
            self._check_alive()
            if index == 0:
                if generation <= self.generation or received is None:
                    raise self._wrong("generation", f"more than {self.generation}", generation)
                self._give_up_lanes()
                self._outgoing.rewind(received)
                self._incoming.new_channels(self.nr_channels)
                self.generation = generation
                self._break("the new channel was not used")
            elif 0 not in self._lanes:
                raise ConnectionError("the first channel is gone again")
            elif generation != self.generation or index in self._lanes:
                raise self._wrong("channel", f"another of generation {self.generation}", index)
            lane = Lane(self, channel, generation, index)
            self._lanes[index] = lane
        return lane

    def received(self) -> Received:
        """What this end has; for the other end, while there is no channel."""
        with self._lock:
            return self._incoming.acknowledge()

    def start(self, lane: Lane) -> None:
        """The other end knows that the channel is part of the link."""
        with contextlib.suppress(OSError):  # it is gone already, as its lane will notice
            lane.channel.set_timeout(self.options.silence_s)
        with self._lock:
            if self._lanes.get(lane.index) is lane and self._state is not State.ENDED:
                self._state = State.CONNECTED
                lane.is_open = True
                lane.start()
                self._wake_all()
                return
        lane.channel.close()

    def fail(self, error: LinkError) -> None:
        """Nothing can come of this link any more."""
        with self._lock:
            self._end(error)

    # For lanes

    def begin_frame(self, lane: Lane, head: Head) -> memoryview | None:
        with self._lock:
            if not self._is_current(lane):
                return None
            if head.kind in NUMBERED:
                free = self._filling is None
                body = self._incoming.begin(lane.index, head, may_be_direct=free)
                if self._incoming.is_direct(head.number):
                    self._filling = lane
                return body
        return memoryview(bytearray(head.length))

    def complete_frame(self, lane: Lane, head: Head, body: memoryview) -> bool:
        message = decode_message(bytes(body), self.peer) if head.kind is Kind.MESSAGE else None
        with self._lock:
            self._has_filled(lane)
            if not self._is_current(lane):
                return False
            if head.kind in NUMBERED:
                if self._incoming.complete(head.number, body if message is None else message):
                    self._has_come.notify_all()
                if self._incoming.acknowledgement_due:
                    self._acknowledge_now(lane, head)
                if self._incoming.closed:
                    self._wake_all()
            elif head.kind is Kind.ACK:
                self._acknowledged(lane, Received(head.number, *ACK_BODY.unpack(body)))
            elif head.kind is Kind.PING:
                if lane.pong is not None:
                    raise self._wrong("ping", "an answer to the one before first", head.number)
                lane.pong = head.number
                self._can_write.notify_all()
            elif head.kind is Kind.PONG:
                if not lane.pinged or head.number != lane.nr_pings:
                    raise self._wrong("pong", "one for a ping", head.number)
                self._round_trip_s = time.monotonic() - lane.pinged
                lane.pinged = 0.0
            elif head.kind is Kind.REFUSAL:
                self._end(_refused(self.peer, body))
                return False
            else:
                raise self._wrong("frame", "none of the opening any more", head.kind.name.lower())
        return True

    def next_parts(self, lane: Lane, *, has_written: bool) -> Sequence[Buffer] | None:
        with self._lock:
            if has_written:
                lane.busy = False
            while self._is_current(lane):
                if not lane.busy and (parts := self._parts_to_write(lane)) is not None:
                    lane.busy = True
                    return parts
                due = lane.last_written + self.options.ping_s - time.monotonic()
                waits = lane.pinged or lane.busy
                self._can_write.wait(self.options.ping_s if waits else max(due, 0))
            refusal, self._refusal = self._refusal, None
            if refusal is not None and self._lanes.get(lane.index) is lane:
                return [refusal]
        lane.channel.close()
        return None

    def lane_broke(self, lane: Lane, error: OSError) -> None:
        with self._lock:
            if not self._is_current(lane):
                return
            if self._incoming.closed or (self._closing and self._outgoing.all_arrived):
                self._end(LinkClosedError(f"{self.peer} has closed the link"))
                return
            self._break(error.strerror or str(error))
            if not self._may_return:
                self._end(self._lost_error())
                return
            self._give_up_lanes()
            self._wake_all()
            if self._reconnect is not None and self._returning is None:
                self._returning = threading.Thread(
                    target=self._come_back, name=f"xsave link {self.peer} again", daemon=True
                )
                self._returning.start()

    def reader_left(self, lane: Lane) -> None:
        with self._lock:
            self._has_filled(lane)

    def peer_failed(self, lane: Lane, error: LinkError) -> None:
        with self._lock:
            if self._is_current(lane):
                self._refuse(error)

    # Within, the lock held

    def _has_filled(self, lane: Lane) -> None:
        """This lane does not write into a reader's memory any more."""
        if self._filling is lane:
            self._filling = None
            self._has_come.notify_all()

    def _parts_to_write(self, lane: Lane) -> Sequence[Buffer] | None:
        if lane.writing is not None:  # it is written
            lane.writing = None
            if not self._outgoing.has_unsent:
                self._can_send.notify_all()
        if lane.pong is not None:
            number, lane.pong = lane.pong, None
            return [encode_head(Kind.PONG, 0, number)]
        if lane.index == 0 and self._incoming.acknowledgement_due:
            return self._acknowledgement()
        if (sent := self._outgoing.next_unsent()) is not None:
            lane.writing = sent.number
            return sent.parts(more=sent.kind is Kind.DATA and self._outgoing.more_follows)
        now = time.monotonic()
        if not lane.pinged and now >= lane.last_written + self.options.ping_s:
            lane.nr_pings, lane.pinged = lane.nr_pings + 1, now
            return [encode_head(Kind.PING, 0, lane.nr_pings)]
        return None

    def _acknowledged(self, lane: Lane, received: Received) -> None:
        if lane.index:
            raise self._wrong("acknowledgement", "one on the first channel", lane.index)
        self._outgoing.acknowledge(received)
        self._can_send.notify_all()

    def _is_current(self, lane: Lane) -> bool:
        return self._state is not State.ENDED and self._lanes.get(lane.index) is lane

    def _break(self, why: str) -> None:
        if self._state is not State.BROKEN:
            self._broken_at = time.monotonic()
        self._state, self._why_broken = State.BROKEN, why

    def _give_up_lanes(self) -> None:
        for lane in self._lanes.values():
            lane.channel.close()
        self._old_lanes = [lane for lane in self._old_lanes if not lane.ended]
        self._old_lanes += self._lanes.values()
        self._lanes = {}

    def _refuse(self, error: LinkError) -> None:
        """End, and tell the other end why, as far as it listens."""
        text = str(error).encode()[:REFUSAL_MAX]
        self._refusal = encode_head(Kind.REFUSAL, len(text), 0) + text
        self._end(error)

    def _end(self, error: LinkError) -> None:
        if self._state is State.ENDED:
            return
        self._state, self._error = State.ENDED, error
        for lane in self._lanes.values():
            if self._refusal is None:  # else it is written first
                lane.channel.close()
        self._wake_all()
        if self._forget is not None:
            self._forget()

    def _lost_error(self) -> LinkLostError:
        why = f": {self._why_broken}" if self._why_broken else ""
        back = (
            f", and nothing came back within {self.options.patience_s:g} s"
            if self._may_return else ""
        )  # fmt: skip
        return LinkLostError(f"the link with {self.peer} broke{why}{back}")

    def _wake_all(self) -> None:
        for condition in (self._can_write, self._can_send, self._has_come, self._changed):
            condition.notify_all()

    def _check_patience(self) -> None:
        waiting = self._state in {State.BROKEN, State.OPENING}
        if waiting and time.monotonic() >= self._broken_at + self.options.patience_s:
            self._end(self._lost_error())

    def _check_alive(self) -> None:
        self._check_patience()
        if self._error is not None:
            raise self._error.with_traceback(None)

    def _check_can_send(self) -> None:
        self._check_alive()
        if self._incoming.closed:
            raise LinkClosedError(f"{self.peer} has closed the link")
        if self._closing:
            raise LinkClosedError(f"the link with {self.peer} is being closed")

    def _check_can_come(self) -> None:
        if self._incoming.closed:
            raise LinkClosedError(f"{self.peer} has closed the link")
        self._check_alive()

    def _wait_for_room(self, kind: Kind, length: int) -> None:
        self._check_can_send()
        while not self._outgoing.has_room(kind, length):
            self._wait(self._can_send, None)
            self._check_can_send()

    def _wait(self, condition: threading.Condition, deadline: float | None) -> bool:
        """Until something changes, the link is lost, or the deadline passes: then False."""
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            return False
        until = [] if deadline is None else [deadline]
        if self._state in {State.BROKEN, State.OPENING}:
            until.append(self._broken_at + self.options.patience_s)
        condition.wait(max(min(until) - now, 0) if until else None)
        return True

    def _wrong(self, what: str, expected: str, got: object) -> PeerError:
        return PeerError(peer=self.peer, what=what, expected=expected, got=str(got))

    # In a thread of its own, without the lock

    def _come_back(self) -> None:
        generation, delay_s = self.generation, FIRST_DELAY_S
        while True:
            generation += 1
            with self._lock:
                deadline = self._broken_at + self.options.patience_s
            try:
                assert self._reconnect is not None
                self._reconnect(self, generation, deadline)
            except (TryAgainError, OSError) as error:
                self._break_again(str(error))
            except XsaveError as error:
                self.fail(LinkLostError(f"the link with {self.peer} cannot come back: {error}"))
            with self._lock:
                self._check_patience()
                if self._state is not State.BROKEN:
                    self._returning = None
                    return
                self._changed.wait(delay_s)
            delay_s = min(2 * delay_s, LAST_DELAY_S)

    def _break_again(self, why: str) -> None:
        """Not all channels could be made: those that were are of no use without the others."""
        with self._lock:
            if self._state is not State.ENDED:
                self._break(why)
                self._give_up_lanes()

    def _let_go(self) -> None:
        """Close what is open, and wait for every thread."""
        with self._lock:
            lanes = [*self._lanes.values(), *self._old_lanes]
            returning = self._returning
        for lane in lanes:
            lane.channel.close()
        if returning is not None:
            returning.join()
        for lane in lanes:
            lane.join()


def _refused(peer: str, body: memoryview) -> LinkError:
    return LinkError(f"{peer} has ended the link: {refusal_text(body)}")


def refusal_text(body: memoryview) -> str:
    """What a hostile end says is shown as text, and nothing else."""
    text = bytes(body).decode("utf-8", "replace")
    return "".join(each if each.isprintable() and each.isascii() else "?" for each in text)
