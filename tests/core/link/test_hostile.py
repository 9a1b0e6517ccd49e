"""Whatever the other end does: one clear error, in bounded memory and time."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable

import cbor2
import pytest

from tests.core.link.raw import TIME_S, Raw, against, connect_raw, propose
from tests.core.link.test_link import _no_thread_is_left, wait_until  # noqa: F401  # a fixture
from xsave import LinkClosedError, LinkError, LinkLostError, PeerError, TryAgainError
from xsave.link.connect import connect
from xsave.link.frame import ACK_BODY, BODY_LIMITS, FRAME_COST, Kind
from xsave.link.link import Link
from xsave.link.opening import Opening, proof
from xsave.link.options import LinkOptions
from xsave.link.outgoing import MESSAGE_WINDOW
from xsave.link.server import serve
from xsave.testing import MemoryNetwork, memory_links
from xsave.testing.transport_suite import accepted, in_thread

SMALL = LinkOptions(window_bytes=64 << 10)


def ack(number: int, data: int = 0, messages: int = 0) -> Callable[[Raw], None]:
    return lambda raw: raw.frame(Kind.ACK, number, ACK_BODY.pack(data, messages))


def many(frame: Callable[[Raw, int], None], count: int = 100_000) -> Callable[[Raw], None]:
    """Until nobody listens any more."""

    def say(raw: Raw) -> None:
        with pytest.raises(OSError):  # whatever the channel calls it
            for number in range(count):
                frame(raw, number)

    return say


def message(body: bytes) -> Callable[[Raw], None]:
    return lambda raw: raw.frame(Kind.MESSAGE, 0, body)


NESTED = cbor2.dumps({"a": [[[[[[[[1]]]]]]]]})
WRONG: dict[str, tuple[Callable[[Raw], None], str]] = {
    "no frame at all": (
        lambda raw: raw.say(b"GET / HTTP/1.0\r\n\r\n"), "frame: expected one that begins with XL",
    ),
    "an unknown kind": (lambda raw: raw.frame(10, 0), "frame kind: expected 1 to 9, got 10"),
    "a flag that is none": (
        lambda raw: raw.say(b"XL\2\1" + bytes(12)), "frame: expected one that begins with XL",
    ),
    "a hello that comes late": (
        lambda raw: raw.frame(Kind.HELLO, 0, b"\xa0"), "none of the opening any more, got hello",
    ),
    "a number that was left out": (
        lambda raw: raw.frame(Kind.DATA, 1, b"x"), "frame number: expected 0, got 1",
    ),
    "a number far away": (
        lambda raw: raw.frame(Kind.DATA, 1 << 40, b"x"), "frame number: expected at most",
    ),
    "a number that is no number": (
        lambda raw: raw.frame(Kind.DATA, (1 << 64) - 1, b"x"), "frame number: expected at most",
    ),
    "a frame that is sent twice": (
        lambda raw: (raw.frame(Kind.DATA, 0, b"x"), raw.frame(Kind.DATA, 0, b"x"))[0],
        "frame number: expected 1, got 0, which came before",
    ),
    "a frame after the last": (
        lambda raw: (raw.frame(Kind.CLOSE, 0), raw.frame(Kind.DATA, 1, b"x"))[0],
        "frame: expected none after the close",
    ),
    "more data than the window": (
        many(lambda raw, number: raw.frame(Kind.DATA, number, bytes(10_000))),
        "data frame: expected at most 65536 bytes on the way, got 10000 beside",
    ),
    "streams without end": (
        many(lambda raw, number: raw.frame(Kind.END, number)), "end frame: expected at most 65536",
    ),
    "messages without end": (
        many(lambda raw, number: raw.frame(Kind.MESSAGE, number, b"\xa0")),
        "message frame: expected at most",
    ),
    "pings without end": (
        many(lambda raw, number: raw.frame(Kind.PING, number)),
        "ping: expected an answer to the one before first",
    ),
    "a pong for no ping": (
        lambda raw: raw.frame(Kind.PONG, 77), "pong: expected one for a ping, got 77",
    ),
    "an acknowledgement of what was never sent": (
        ack(1), r"acknowledgement \(number of frames\): expected 0 to 0, got 1",
    ),
    "use of data that was never sent": (
        ack(0, data=1), r"acknowledgement \(amount of data\): expected 0 to 0, got 1",
    ),
    "use of messages that were never sent": (
        ack(0, messages=1), r"acknowledgement \(amount of messages\): expected 0 to 0, got 1",
    ),
    "acknowledgements without end": (
        ack(0), "acknowledgement: expected something new, got the same again",
    ),
    "a message that is no CBOR": (message(b"\xff"), "message: expected a CBOR map"),
    "a message that is cut": (message(b"\xa1\x61"), "message: expected a CBOR map"),
    "a message with more behind it": (message(b"\xa0\xa0"), "message: expected a CBOR map"),
    "a message that is no map": (message(b"\x80"), "message: expected a CBOR map, got list"),
    "a key that is no text": (message(b"\xa1\x01\x02"), "message: expected"),
    "a key given twice": (message(b"\xa2\x61a\x01\x61a\x02"), "message: expected a CBOR map"),
    "a list without a length": (message(b"\xa1\x61a\x9f\xff"), "message: expected a CBOR map"),
    "a message too deep": (message(NESTED), "message: expected"),
    "a pattern to be compiled": (
        message(cbor2.dumps({"a": cbor2.CBORTag(35, "(a+)+")})), "message: expected a CBOR map",
    ),
    "a tag nobody knows": (
        message(cbor2.dumps({"a": cbor2.CBORTag(9999, 1)})), "message: expected plain values",
    ),
    "an integer without end": (
        message(b"\xa1\x61a\xc2\x59\x01\x00" + b"\xff" * 256), "message: expected a CBOR map",
    ),
    "a list that claims to be long": (
        message(b"\xa1\x61a\x9b\x00\x00\x00\x7f\xff\xff\xff\xff"), "message: expected a CBOR map",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_frame_is_named_at_both_ends_and_ends_the_link(what: str) -> None:
    say, expected = WRONG[what]
    with against(SMALL) as (raw, link, _server, _network):
        say(raw)
        wait_until(lambda: link.lost is not None)
        assert isinstance(link.lost, PeerError)
        assert re.search(f"^memory:client sent a wrong .*{expected}", str(link.lost))
        with pytest.raises(PeerError):
            link.send({"x": 1})
        held = link._incoming._held
        assert held[Kind.DATA] <= SMALL.window_bytes
        assert held[Kind.MESSAGE] <= MESSAGE_WINDOW
        if "without end" not in what and "more data" not in what:
            assert re.search(expected, raw.hear_refusal())


@pytest.mark.parametrize("kind", Kind)
def test_a_length_out_of_bounds_is_refused_before_there_is_room_for_it(kind: Kind) -> None:
    shortest, longest = BODY_LIMITS[kind]
    for length in {longest + 1, (1 << 32) - 1, shortest - 1} - {-1}:
        with against(SMALL) as (raw, link, _server, _network):
            raw.frame(kind, 0, length=length)
            wait_until(lambda link=link: link.lost is not None)  # type: ignore[misc]
            what = f"length of a {kind.name.lower()} frame: expected {shortest} to {longest} bytes"
            assert what in str(link.lost)


def test_small_frames_hold_no_more_memory_than_large_ones() -> None:
    with against(SMALL) as (raw, link, _server, _network):
        for number in range((64 << 10) // (FRAME_COST + 1)):
            raw.frame(Kind.DATA, number, b"x")
        wait_until(lambda: link.counters.received_bytes == (64 << 10) // (FRAME_COST + 1))
        slots = [piece.slot for piece in link._incoming.stream]
        assert sum(len(slot) for slot in slots if slot is not None) < 64 << 10


def test_what_a_refusal_says_is_shown_as_text() -> None:
    with against(SMALL) as (raw, link, _server, _network):
        raw.frame(Kind.REFUSAL, 0, b"no \x1b[31m\xff room\n")
        wait_until(lambda: link.lost is not None)
        assert str(link.lost) == "memory:client has ended the link: no ?[31m? room?"


# Silence.


def test_one_that_says_nothing_after_the_opening_is_noticed() -> None:
    options = LinkOptions(ping_s=0.02, silence_s=0.1, patience_s=0.1)
    with (
        against(options) as (_raw, link, _server, _network),
        pytest.raises(LinkLostError, match=r"and nothing came back within 0.1 s"),
    ):
        link.receive(TIME_S)


@pytest.mark.parametrize(
    "said", [b"XL", b"XL\3\0\0\0\1\0" + bytes(8), b"XL\3\0\0\0\1\0" + bytes(9000)]
)
def test_one_that_stops_in_the_middle_of_a_frame_is_noticed(said: bytes) -> None:
    options = LinkOptions(window_bytes=1 << 20, ping_s=0.02, silence_s=0.1, patience_s=0.1)
    with against(options, window_bytes=1 << 20) as (raw, link, _server, _network):
        with contextlib.suppress(OSError):  # it may be given up before all is said
            raw.say(said)
        with pytest.raises(LinkLostError, match=r"nothing moved|gone|slow"):
            link.source(TIME_S).read()


def test_one_that_says_a_byte_now_and_then_is_as_good_as_silent() -> None:
    options = LinkOptions(ping_s=0.05, silence_s=0.2, patience_s=0.1)
    with against(options) as (raw, link, _server, _network):
        raw.say(b"XL\3\0\0\1\0\0" + bytes(8))
        wait = in_thread(lambda: trickle(raw))
        with pytest.raises(LinkLostError, match="too slow"):
            link.source(TIME_S).read()
        wait()


def trickle(raw: Raw) -> None:
    raw.channel.set_timeout(0.05)
    for _ in range(1000):
        try:
            raw.say(b"x")
            raw.channel.read_into(memoryview(bytearray(100)))
        except TimeoutError:
            pass
        except OSError:
            return


@pytest.mark.parametrize("said", [b"", b"XL\1", b"XL\1\0\x40\0\0\0" + bytes(8) + b"\xa1"])
def test_one_that_does_not_say_who_it_is_goes_and_keeps_nobody_out(said: bytes) -> None:
    network = MemoryNetwork()
    with serve(network.listen("far"), LinkOptions(opening_s=0.2)) as server:
        silent = network.connect("far", TIME_S)
        silent.write_parts([said])
        connect_at_last(network).abandon()
        assert silent.read_into(memoryview(bytearray(99))) == 0  # it was let go of
        why = "memory:client: (nothing moved|the opening took too long)"
        assert any(re.search(why, refused) for refused in server.refused)


def connect_at_last(network: MemoryNetwork) -> Link:
    """On a busy machine an honest end may be too slow for so short a time, and tries again."""
    for _ in range(100):
        with contextlib.suppress(TryAgainError):
            return connect(network, "far")
    raise AssertionError("it was kept out")


def test_a_crowd_of_silent_ones_is_bounded() -> None:
    network = MemoryNetwork()
    with serve(network.listen("far"), LinkOptions(opening_s=TIME_S)) as server:
        crowd = [network.connect("far", TIME_S) for _ in range(40)]
        wait_until(lambda: sum("too many at once" in why for why in server.refused) >= 16)
        assert len(server._opening) <= 16
        for channel in crowd:
            channel.close()


# The opening.


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"versions": [2, 3]}, r"hello \(versions\): expected one of \[1\], got \[2, 3\]"),
        ({"versions": 1}, r"hello \(versions\): expected a list"),
        ({"link": b"short"}, r"hello \(link\): expected 16 bytes, got 5"),
        ({"link": "text"}, r"hello \(link\): expected a bytes"),
        ({"nonce": b""}, r"hello \(nonce\): expected 16 bytes"),
        ({"channels": 17}, r"hello \(channels\): expected 1 to 16, got 17"),
        ({"channels": True}, r"hello \(channels\): expected a int"),
        ({"channel": 1}, r"hello \(channel\): expected 0 to 0, got 1"),
        ({"window": 1}, r"hello \(window\): expected 4096 to"),
        ({"window": 1 << 40}, r"hello \(window\): expected 4096 to"),
        ({"generation": -1}, r"hello \(generation\): expected 0 to"),
        ({"generation": 1}, "such a link is not known here"),
        ({"returns": 1}, r"hello \(returns\): expected a bool"),
    ],
    ids=str,
)
def test_a_wrong_hello_is_refused_with_its_field(changed: dict[str, object], why: str) -> None:
    network = MemoryNetwork()
    with serve(network.listen("far")) as server:
        channel = network.connect("far", TIME_S)
        opening = Opening(channel, time.monotonic() + TIME_S)
        opening.say(0, {**propose().message(), **changed})
        with pytest.raises(LinkError, match=why):
            opening.hear(1)
        channel.close()
        near = connect(network, "far")  # others are not disturbed
        server.accept(TIME_S).abandon()
        near.abandon()


def test_a_foreign_id_does_not_get_into_a_link() -> None:
    with against(SMALL) as (raw, link, server, network):
        for index, secret in ((0, b"s" * 32), (0, b"\0" * 32)):
            foreign = propose(link_id=raw.proposal.link_id, generation=1, index=index, secret=b"")
            with pytest.raises((LinkError, OSError, AssertionError)):
                connect_raw(network, foreign, secret)
        wait_until(lambda: len(server.refused) == 2)
        assert all("proof: expected one that it knows the link" in why for why in server.refused)
        raw.frame(Kind.MESSAGE, 0, b"\xa0")  # the one whose it is goes on
        assert link.receive(TIME_S) == {}


def test_a_new_link_cannot_take_the_id_of_another() -> None:
    with (
        against(SMALL) as (raw, _link, _server, network),
        pytest.raises(LinkError, match="no more links are taken"),
    ):
        connect_raw(network, propose(link_id=raw.proposal.link_id))


def test_a_channel_of_an_old_generation_is_refused() -> None:
    with against(SMALL) as (raw, link, _server, network):
        known = {"link_id": raw.proposal.link_id, "secret": b""}
        again = connect_raw(network, propose(generation=5, **known), raw.secret)
        for generation in (5, 4):
            with pytest.raises(LinkError, match="generation: expected more than 5"):
                connect_raw(network, propose(generation=generation, **known), raw.secret)
        again.frame(Kind.MESSAGE, 0, b"\xa0")
        assert link.receive(TIME_S) == {}
        again.channel.close()


def test_what_cannot_have_arrived_is_not_believed_when_a_link_comes_back() -> None:
    with against(SMALL) as (raw, link, _server, network):
        link.send({"x": 1})
        channel = network.connect("far", TIME_S)
        proposal = propose(link_id=raw.proposal.link_id, generation=1, secret=b"")
        opening = Opening(channel, time.monotonic() + TIME_S)
        opening.say(0, proposal.message())
        answer = opening.hear_answer()
        proved = proof(raw.secret, "connects", proposal, answer.nonce)
        opening.say(2, {"proof": proved, "received": [99, 0, 0]})
        with pytest.raises(LinkError, match=r"number of frames\): expected 0 to \d, got 99"):
            opening.hear(3)
        channel.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "expected one that begins with XL"),
        (b"XL\3\0\1\0\0\0" + bytes(9), "expected hello 1, got data 0"),
        (b"XL\1\0\xff\xff\xff\xff" + bytes(8), "length of a hello frame: expected 1 to 4096"),
        (b"XL\1\0\1\0\0\0\1" + bytes(7) + b"\xa0", r"hello \(version\): expected a int"),
        (b"XL\x09\0\4\0\0\0" + bytes(8) + b"busy", "refuses: busy"),
    ],
    ids=str,
)
def test_who_answers_wrongly_is_not_spoken_to(answer: bytes, why: str) -> None:
    network = MemoryNetwork()
    with network.listen("far") as listener:
        come = in_thread(lambda: accepted(listener))
        wait = in_thread(lambda: connect(network, "far"))
        channel = come()
        channel.write_parts([answer])
        with pytest.raises(LinkError, match=why):
            wait()
        channel.close()


def test_one_who_does_not_know_the_secret_is_not_taken_for_the_one_who_was_there() -> None:
    """After a break, somebody else listens at the address."""
    with memory_links(LinkOptions(patience_s=TIME_S)) as pair:
        pair.server.close()
        with pair.network.listen("far") as listener:
            come = in_thread(lambda: accepted(listener))
            pair.network.break_now()
            channel = come()
            opening = Opening(channel, time.monotonic() + TIME_S)
            opening.hear_proposal()
            opening.say(
                1,
                {
                    "version": 1,
                    "nonce": bytes(16),
                    "proof": bytes(32),
                    "window": 1 << 20,
                    "secret": b"",
                },
            )
            with pytest.raises(LinkLostError, match=r"cannot come back: .*proof: expected"):
                pair.near.receive(TIME_S)
            channel.close()


def test_who_does_not_answer_the_opening_is_given_up_in_time() -> None:
    network = MemoryNetwork()
    with network.listen("far") as listener:
        come = in_thread(lambda: accepted(listener))
        with pytest.raises(
            TryAgainError, match="cannot open a link with memory:far: nothing moved"
        ):
            connect(network, "far", LinkOptions(opening_s=0.05))
        come().close()


def test_a_link_that_the_other_end_forgot_is_lost() -> None:
    with memory_links(LinkOptions(patience_s=TIME_S)) as pair:
        pair.far.abandon()
        with pytest.raises(
            LinkLostError, match="cannot come back: memory:far refuses: such a link"
        ):
            pair.near.receive(TIME_S)
        with pytest.raises(LinkClosedError):
            pair.far.receive(TIME_S)
