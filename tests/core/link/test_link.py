"""What one end says arrives at the other: all of it, in order, once, whatever breaks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import LinkClosedError, LinkError, LinkLostError, SilentPeerError, UsageError
from xsave.link.link import Link
from xsave.link.options import LinkOptions
from xsave.link.outgoing import MESSAGE_WINDOW
from xsave.testing import BACK, OUT, memory_links
from xsave.testing.transport_suite import in_thread

TIME_S = 20.0
NEVER_S = 1000.0  # no sign of life wakes anybody: whatever has to be said is said at once
SMALL = LinkOptions(window_bytes=16 << 10, frame_bytes=1500, ping_s=NEVER_S, silence_s=NEVER_S)


def pattern(size_bytes: int, seed: int = 0) -> bytes:
    return bytes((seed + number * 13) & 0xFF for number in range(size_bytes))


def stream_through(near: Link, far: Link, data: bytes, step: int = 4096) -> bytes:
    """What arrives at the far end of a stream from the near one."""

    def write() -> None:
        for start in range(0, len(data), step):
            near.sink.put([data[start : start + 10], memoryview(data)[start + 10 : start + step]])
        near.sink.finish()

    wait = in_thread(write)
    found = far.source(TIME_S).read()
    wait()
    return found


def test_messages_go_both_ways_with_all_plain_values() -> None:
    message = {
        "text": "ä", "bytes": b"\0", "number": -5, "big": (1 << 64) - 1, "none": None, "yes": True,
        "half": 0.5, "list": [1, [2, {"deep": []}]],
    }  # fmt: skip
    with memory_links() as pair:
        pair.near.send(message)
        pair.far.send({"answer": 1})
        assert pair.far.receive(TIME_S) == message
        assert pair.near.receive(TIME_S) == {"answer": 1}


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"x": object()}, "a object"),
        ({"x": {1: 2}}, "a key that is no text"),
        ({"x": 1 << 64}, "more than 64 bits"),
        ({"x": memoryview(b"x")}, "a memoryview"),
        ({"x": "\ud800"}, "a message cannot hold"),
        ({"x": b"x" * (1 << 20)}, "too long"),
        ({"x": [[[[[[[[[]]]]]]]]]}, "more than 8 levels"),
    ],
    ids=str,
)
def test_a_message_that_cannot_be_understood_there_is_refused_here(
    message: dict[str, Any], why: str
) -> None:
    with memory_links() as pair:
        with pytest.raises(UsageError, match=why):
            pair.near.send(message)
        pair.near.send({"fine": 1})
        assert pair.far.receive(TIME_S) == {"fine": 1}


def test_a_message_of_the_largest_size_arrives() -> None:
    with memory_links(SMALL) as pair:
        for number in range(3):
            wait = in_thread(lambda: pair.near.send({"x": pattern((1 << 20) - 9)}))
            assert pair.far.receive(TIME_S) == {"x": pattern((1 << 20) - 9)}, number
            wait()


def test_a_stream_arrives_whole_and_ends() -> None:
    data = pattern(300_000)
    with memory_links(SMALL) as pair:
        assert stream_through(pair.near, pair.far, data) == data
        assert pair.near.sink.offset == 0
        assert stream_through(pair.far, pair.near, b"") == b""
        assert stream_through(pair.near, pair.far, data[:5]) == data[:5]  # another one


def test_a_message_after_a_stream_is_heard_after_it_and_not_instead() -> None:
    with memory_links(SMALL) as pair:
        pair.near.sink.put([b"data"])
        pair.near.send({"between": 1})
        pair.near.sink.put([b"more"])
        pair.near.sink.finish()
        assert pair.far.source(TIME_S).read() == b"datamore"
        assert pair.far.receive(TIME_S) == {"between": 1}


def test_what_was_put_may_be_changed_after() -> None:
    page = bytearray(b"a" * 5000)
    with memory_links(LinkOptions(window_bytes=64 << 10, frame_bytes=1000)) as pair:
        pair.network.refusing = True
        pair.network.break_now()
        pair.near.sink.put([page])
        page[:] = b"b" * 5000
        pair.network.refusing = False
        pair.near.sink.put([page])
        pair.near.sink.finish()
        assert pair.far.source(TIME_S).read() == b"a" * 5000 + b"b" * 5000


def test_many_small_writes_are_few_frames() -> None:
    with memory_links(LinkOptions(window_bytes=64 << 10, frame_bytes=8 << 10)) as pair:
        pair.network.refusing = True
        pair.network.break_now()
        wait_until(lambda: not pair.near._lanes)
        for number in range(1000):
            pair.near.sink.put([b"%08d" % number])
        assert len(pair.near._outgoing._kept) <= 3
        pair.network.refusing = False
        pair.near.sink.finish()
        assert pair.far.source(TIME_S).read() == b"".join(b"%08d" % n for n in range(1000))


def test_no_more_is_on_the_way_than_the_window_when_nobody_reads() -> None:
    with memory_links(SMALL) as pair:
        wait = in_thread(lambda: pair.near.sink.put([pattern(100_000)]))
        while pair.far.counters.received_bytes < 10_000:
            pass
        pair.far.send({"still": "heard"})  # the other way, and messages, are free
        assert pair.near.receive(TIME_S) == {"still": "heard"}
        pair.near.send({"as": "this"})
        assert pair.far.receive(TIME_S) == {"as": "this"}
        assert pair.near.counters.sent_bytes <= SMALL.window_bytes + 100
        room = memoryview(bytearray(100_000))
        source, got = pair.far.source(TIME_S), 0
        while got < 100_000:
            got += source.readinto(room[got:])
        wait()
        assert bytes(room) == pattern(100_000)


# Breaks.

CUTS = st.lists(st.tuples(st.sampled_from([OUT, BACK]), st.integers(0, 9000)), max_size=6)
SAID = st.lists(
    st.one_of(
        st.integers(0, 5000).map(lambda size: ("data", pattern(size, size))),
        st.integers(0, 3000).map(lambda size: ("message", {"x": pattern(size, size)})),
        st.just(("end", None)),
    ),
    max_size=12,
)


def say(link: Link, what: list[tuple[str, Any]]) -> None:
    for kind, value in what:
        if kind == "data":
            link.sink.put([value])
        elif kind == "message":
            link.send(value)
        else:
            link.sink.finish()
    link.sink.finish()
    link.send({"last": True})


def hear(link: Link, what: list[tuple[str, Any]]) -> None:
    streams = b"\xff".join(
        b"".join(value for kind, value in part if kind == "data") for part in split(what)
    )
    found = b"\xff".join(link.source(TIME_S).read() for _ in split(what))
    assert found == streams
    for kind, value in what:
        if kind == "message":
            assert link.receive(TIME_S) == value
    assert link.receive(TIME_S) == {"last": True}


def split(what: list[tuple[str, Any]]) -> list[list[tuple[str, Any]]]:
    """By the ends of streams."""
    parts: list[list[tuple[str, Any]]] = [[]]
    for each in what:
        if each[0] == "end":
            parts.append([])
        else:
            parts[-1].append(each)
    return parts


@pytest.mark.parametrize("connections", [1, 3])
def test_whatever_is_cut_everything_arrives_in_order_and_once(connections: int) -> None:
    options = LinkOptions(
        window_bytes=8 << 10, frame_bytes=900, connections=connections, ping_s=NEVER_S,
        silence_s=NEVER_S,
    )  # fmt: skip

    @settings(max_examples=120, deadline=None)
    @given(cuts=CUTS, there=SAID, back=SAID)
    def check(cuts: Any, there: Any, back: Any) -> None:
        with memory_links(options, cuts=cuts) as pair:
            waits = [
                in_thread(lambda: say(pair.near, there)),
                in_thread(lambda: say(pair.far, back)),
                in_thread(lambda: hear(pair.far, there)),
                in_thread(lambda: hear(pair.near, back)),
            ]
            for wait in waits:
                wait()
            for link in (pair.near, pair.far):
                counters = link.counters
                most = options.window_bytes + MESSAGE_WINDOW
                # an attempt to come back that is cut itself counts for the end that saw it
                attempts = pair.near.counters.nr_reconnections
                assert counters.resent_bytes <= attempts * most

    check()


def test_after_a_break_at_most_the_window_of_the_stream_is_sent_again() -> None:
    data = pattern(400_000)
    with memory_links(SMALL) as pair:
        for size in (10_000, 33_333, 150_000):
            pair.network.cut(OUT, size)
            before = pair.near.counters
            assert stream_through(pair.near, pair.far, data) == data
            after = pair.near.counters
            assert after.nr_reconnections == before.nr_reconnections + 1
            assert after.resent_bytes - before.resent_bytes <= SMALL.window_bytes


def test_nothing_is_sent_again_that_had_arrived() -> None:
    with memory_links() as pair:
        pair.near.send({"a": 1})
        pair.near.flush(TIME_S)
        pair.network.break_now()
        wait_until(lambda: pair.near.counters.nr_reconnections == 1)
        pair.near.send({"b": 2})
        assert [pair.far.receive(TIME_S), pair.far.receive(TIME_S)] == [{"a": 1}, {"b": 2}]
        assert pair.near.counters.resent_bytes == 0


def test_a_break_while_nobody_says_anything_is_mended() -> None:
    with memory_links() as pair:
        pair.network.break_now()
        wait_until(lambda: pair.near.counters.nr_reconnections == 1)
        assert pair.near.lost is None
        pair.far.send({"still": "here"})
        assert pair.near.receive(TIME_S) == {"still": "here"}


def test_a_link_that_does_not_come_back_is_lost_at_both_ends() -> None:
    options = LinkOptions(patience_s=0.2)
    with memory_links(options) as pair:
        pair.network.refusing = True
        pair.network.break_now()
        for link in (pair.near, pair.far):
            with pytest.raises(LinkLostError, match=r"broke: .*, and nothing came back"):
                link.receive(TIME_S)
            assert isinstance(link.lost, LinkLostError)
            with pytest.raises(LinkLostError):
                link.send({"too": "late"})
            with pytest.raises(LinkLostError):
                link.sink.put([b"x"])


def test_who_waits_for_room_or_for_data_learns_that_the_link_is_lost() -> None:
    options = LinkOptions(patience_s=0.2, window_bytes=8 << 10, frame_bytes=1000)
    with memory_links(options) as pair:
        waits = [
            expect(LinkLostError, lambda: pair.near.sink.put([bytes(100_000)])),
            expect(LinkLostError, lambda: pair.near.source().read()),
            expect(LinkLostError, pair.far.receive),
        ]
        wait_until(lambda: pair.far.counters.received_bytes > 4000)
        pair.network.refusing = True
        pair.network.break_now()
        for wait in waits:
            wait()


def test_what_had_arrived_before_the_link_was_lost_can_still_be_read() -> None:
    with memory_links(LinkOptions(patience_s=0.1)) as pair:
        pair.near.sink.put([b"data"])
        pair.near.send({"a": 1})
        pair.near.flush(TIME_S)
        pair.network.refusing = True
        pair.network.break_now()
        wait_until(lambda: pair.far.lost is not None)
        assert pair.far.receive(TIME_S) == {"a": 1}
        assert pair.far.source(TIME_S).readinto(memoryview(bytearray(9))) == 4
        with pytest.raises(LinkLostError):
            pair.far.receive(TIME_S)


def test_a_silent_channel_is_noticed_and_made_again() -> None:
    options = LinkOptions(ping_s=0.05, silence_s=0.3)
    with memory_links(options) as pair:
        pair.network.stall()
        pair.near.send({"are you": "there"})
        assert pair.far.receive(TIME_S) == {"are you": "there"}
        assert pair.near.counters.nr_reconnections >= 1


def test_ends_that_say_nothing_for_long_stay_connected() -> None:
    options = LinkOptions(ping_s=0.01, silence_s=5)
    with memory_links(options) as pair:
        wait_until(lambda: pair.near._lanes[0].nr_pings > 5 and pair.far._lanes[0].nr_pings > 5)
        assert pair.near.counters.nr_reconnections == 0
        assert pair.near.counters.round_trip_s is not None
        assert 0 < pair.near.counters.round_trip_s < TIME_S


# Time and ends.


def test_an_answer_that_does_not_come_in_time_is_said_and_may_come_later() -> None:
    with memory_links() as pair:
        with pytest.raises(SilentPeerError, match=r"no answer from memory:far within 0.01 s"):
            pair.near.receive(0.01)
        with pytest.raises(SilentPeerError, match="nothing came from memory:far"):
            pair.near.source(0.01).read()
        pair.far.send({"late": True})
        assert pair.near.receive(TIME_S) == {"late": True}


def test_closing_delivers_what_was_said_before() -> None:
    with memory_links() as pair:
        wait = in_thread(lambda: (say(pair.near, [("data", pattern(50_000))]), pair.near.close()))
        hear(pair.far, [("data", pattern(50_000))])
        wait()
        with pytest.raises(LinkClosedError, match="memory:client has closed the link"):
            pair.far.receive(TIME_S)
        with pytest.raises(LinkClosedError):
            pair.far.send({"hello": "?"})
        assert isinstance(pair.far.lost, LinkClosedError | None)
        pair.far.close()
        assert pair.near.counters.nr_reconnections == 0


def test_a_stream_without_its_end_is_not_taken_for_a_whole_one() -> None:
    with memory_links() as pair:
        pair.near.sink.put([b"half"])
        pair.near.send({"abandon": "changed my mind"})
        pair.near.close()
        with pytest.raises(LinkClosedError):
            pair.far.source(TIME_S).read()
        assert pair.far.receive(TIME_S) == {"abandon": "changed my mind"}


def test_who_writes_a_stream_learns_that_the_other_end_has_closed_and_why() -> None:
    with memory_links(SMALL) as pair:
        wait = expect(LinkClosedError, lambda: pair.near.sink.put([bytes(1 << 20)]))
        pair.far.send({"sorry": "no memory"})
        pair.far.close()
        wait()
        assert pair.near.receive(TIME_S) == {"sorry": "no memory"}


def test_both_may_close_at_once_and_again() -> None:
    with memory_links() as pair:
        waits = [in_thread(pair.near.close), in_thread(pair.far.close)]
        for wait in waits:
            wait()
        pair.near.close()
        with pytest.raises(LinkError):
            pair.near.send({"x": 1})


def test_closing_does_not_wait_for_an_end_that_is_gone() -> None:
    options = LinkOptions(close_s=0.1)
    with memory_links(options) as pair:
        pair.network.refusing = True
        pair.network.break_now()
        pair.near.send({"never": "arrives"})
        pair.near.close()
        assert isinstance(pair.near.lost, LinkError)


def test_flush_says_whether_all_has_arrived() -> None:
    with memory_links() as pair:
        pair.near.send({"x": 1})
        pair.near.flush(TIME_S)
        pair.network.stall()
        pair.near.send({"x": 2})
        with pytest.raises(SilentPeerError, match="did not confirm"):
            pair.near.flush(0.01)
        pair.network.stall(False)
        pair.near.flush(TIME_S)
        pair.near.sink.put([b"a little of a stream"])
        pair.near.flush(TIME_S)


def test_a_link_is_closed_by_its_context() -> None:
    with memory_links() as pair:
        with pair.near:
            pair.near.send({"x": 1})
        assert isinstance(pair.near.lost, LinkClosedError)


def test_the_end_that_listens_may_go_on_after_its_server_is_closed() -> None:
    with memory_links() as pair:
        pair.server.close()
        pair.near.send({"x": 1})
        assert pair.far.receive(TIME_S) == {"x": 1}


def expect(kind: type[BaseException], call: Callable[[], Any]) -> Callable[[], Any]:
    def check() -> None:
        with pytest.raises(kind):
            call()

    return in_thread(check)


def wait_until(condition: Callable[[], bool]) -> None:
    """For what no call waits for."""
    pause = threading.Event()
    for _ in range(int(TIME_S / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it did not happen")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith("xsave ")]
