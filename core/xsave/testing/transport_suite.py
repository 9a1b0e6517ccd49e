"""What the contract promises of transports, as tests to inherit."""

from __future__ import annotations

import abc
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from ..errors import TryAgainError, UsageError
from ..record import Buffer
from ..transport import Channel, Listener, Transport

TIME_S = 60  # after which a test has failed; none waits for so long
SOON_S = 0.05  # for what is meant not to happen
_NAME = re.compile(r"[a-z][a-z0-9-]+")
_MANY_BYTES = 3 << 20  # more than any buffer on the way


class TransportSuite(abc.ABC):
    """For a :class:`xsave.Transport` both of whose ends can be in this process.

    :cvar transport: the one under test.
    :cvar nonsense: addresses that neither end may take.
    """

    transport: ClassVar[Transport]
    nonsense: ClassVar[Sequence[str]] = ()

    @abc.abstractmethod
    def listen_at(self) -> str:
        """An address to listen at, another one each time where that matters."""

    @contextmanager
    def channels(self) -> Iterator[tuple[Channel, Channel]]:
        """Two ends of one channel: who connected, and who listened."""
        with self.transport.listen(self.listen_at()) as listener:
            come = in_thread(lambda: accepted(listener))
            near = self.transport.connect(listener.address, TIME_S)
            far = come()
            try:
                yield near, far
            finally:
                near.close()
                far.close()

    def test_identity_is_complete(self) -> None:
        assert _NAME.fullmatch(self.transport.name), "it is the scheme of addresses"
        assert self.transport.summary
        with self.channels() as both:
            for channel in both:
                assert channel.peer.startswith(f"{self.transport.name}:")
                assert isinstance(channel.identity, str)

    def test_bytes_arrive_in_order_both_ways_at_once(self) -> None:
        there, back = _pattern(_MANY_BYTES, 1), _pattern(_MANY_BYTES, 2)
        with self.channels() as (near, far):
            waits = [
                in_thread(lambda: _write(near, there)),
                in_thread(lambda: _write(far, back)),
                in_thread(lambda: _compare(far, there)),
                in_thread(lambda: _compare(near, back)),
            ]
            for wait in waits:
                wait()

    def test_parts_of_any_kind_and_size_arrive_as_they_were(self) -> None:
        parts: list[Buffer] = [
            b"",
            b"one",
            bytearray(b"two"),
            memoryview(b"xthreex")[1:-1],
            b"",
            b"4" * 70_000,
        ]
        parts += [b"%d," % number for number in range(3000)]
        wanted = b"".join(bytes(part) for part in parts)
        with self.channels() as (near, far):
            written = in_thread(lambda: near.write_parts(parts))
            assert read_exactly(far, len(wanted)) == wanted
            written()

    def test_what_was_written_before_closing_arrives_and_then_the_end(self) -> None:
        with self.channels() as (near, far):
            near.write_parts([b"last words"])
            near.close()
            assert read_exactly(far, 10) == b"last words"
            assert read_to_end(far) == b""

    def test_silence_is_noticed_and_the_channel_lives_on(self) -> None:
        with self.channels() as (near, far):
            far.set_timeout(SOON_S)
            with pytest.raises(TimeoutError):
                far.read_into(memoryview(bytearray(1)))
            far.set_timeout(None)
            near.write_parts([b"x"])
            assert read_exactly(far, 1) == b"x"

    def test_an_end_that_reads_nothing_is_noticed(self) -> None:
        with self.channels() as (near, _far):
            near.set_timeout(SOON_S)
            with pytest.raises(TimeoutError):
                for _ in range(100):
                    near.write_parts([bytes(_MANY_BYTES)])

    def test_closing_ends_what_another_thread_waits_for(self) -> None:
        for which in (0, 1):
            with self.channels() as both:
                wait = in_thread(lambda both=both: read_to_end(both[0]))  # type: ignore[misc]
                both[which].close()
                assert wait() == b""

    def test_closing_ends_what_another_thread_writes(self) -> None:
        for which in (0, 1):
            with self.channels() as both:

                def write(channel: Channel = both[0]) -> None:
                    with pytest.raises(OSError):  # whatever the system calls it
                        while True:
                            channel.write_parts([bytes(_MANY_BYTES)])

                wait = in_thread(write)
                assert read_exactly(both[1], 1)
                both[which].close()
                wait()

    def test_a_closed_channel_stays_closed(self) -> None:
        with self.channels() as (near, _far):
            near.close()
            near.close()
            with pytest.raises(OSError):  # whatever the system calls it
                for _ in range(2):
                    near.write_parts([b"x"])
            assert read_to_end(near) == b""

    def test_a_listener_that_is_closed_wakes_who_waits_and_is_gone(self) -> None:
        listener = self.transport.listen(self.listen_at())
        address = listener.address

        def wait_for_others() -> None:
            with pytest.raises(OSError):  # whatever the system calls it
                while True:
                    listener.accept(TIME_S).close()

        wait = in_thread(wait_for_others)
        listener.close()
        listener.close()
        wait()
        if self.transport.reconnects:
            with pytest.raises(TryAgainError):
                self.transport.connect(address, TIME_S)

    def test_waiting_for_others_ends_in_time(self) -> None:
        with self.transport.listen(self.listen_at()) as listener:
            if not self.transport.reconnects:
                listener.accept(TIME_S).close()  # the one that there is
            with pytest.raises(TimeoutError):
                listener.accept(SOON_S)

    def test_many_come_and_none_disturbs_another(self) -> None:
        if not self.transport.reconnects:
            return
        with self.transport.listen(self.listen_at()) as listener:
            come = in_thread(lambda: [accepted(listener) for _ in range(5)])
            near = [self.transport.connect(listener.address, TIME_S) for _ in range(5)]
            far = come()
            for number, channel in enumerate(near):
                channel.write_parts([bytes([number])])
            assert {read_exactly(channel, 1)[0] for channel in far} == set(range(5))
            for channel in (*near, *far):
                channel.close()

    def test_one_that_says_nothing_keeps_nobody_out(self) -> None:
        """It is accepted before it has said anything, so that another can be."""
        if not self.transport.reconnects:
            return
        with self.transport.listen(self.listen_at()) as listener:
            silent = self.say_nothing_to(listener.address)
            try:
                listener.accept(TIME_S).close()
                come = in_thread(lambda: accepted(listener))
                near = self.transport.connect(listener.address, TIME_S)
                come().close()
                near.close()
            finally:
                silent.close()

    def say_nothing_to(self, address: str) -> Any:
        """Connect, and do not even begin a handshake; something to be closed."""
        return self.transport.connect(address, TIME_S)

    def test_addresses_that_make_no_sense_are_refused(self) -> None:
        for address in self.nonsense:
            with pytest.raises(UsageError, match=re.escape(self.transport.name)):
                self.transport.connect(address, TIME_S)
            with pytest.raises(UsageError, match=re.escape(self.transport.name)):
                self.transport.listen(address)


def accepted(listener: Listener) -> Channel:
    channel = listener.accept(TIME_S)
    channel.handshake(TIME_S)
    return channel


def read_exactly(channel: Channel, size_bytes: int) -> bytes:
    room = memoryview(bytearray(size_bytes))
    done = 0
    while done < size_bytes:
        got = channel.read_into(room[done:])
        assert got, f"the end after {done} of {size_bytes} bytes"
        done += got
    return bytes(room)


def read_to_end(channel: Channel) -> bytes:
    """Which an error is, too: some systems tell a closed channel so."""
    found = bytearray()
    room = memoryview(bytearray(1 << 16))
    try:
        while got := channel.read_into(room):
            found += room[:got]
    except TimeoutError:
        raise
    except OSError:
        pass
    return bytes(found)


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start it; what is returned waits for its result, and raises what it raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> Any:
        thread.join(TIME_S)
        assert outcome, "it did not come to its end"
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    return wait


def _pattern(size_bytes: int, seed: int) -> bytes:
    return bytes((seed + number * 7) & 0xFF for number in range(4099)) * (size_bytes // 4099)


def _write(channel: Channel, data: bytes) -> None:
    for start in range(0, len(data), 100_001):
        channel.write_parts([data[start : start + 7], data[start + 7 : start + 100_001]])


def _compare(channel: Channel, wanted: bytes) -> None:
    assert read_exactly(channel, len(wanted)) == wanted
