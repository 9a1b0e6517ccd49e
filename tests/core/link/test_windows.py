"""Both halves of a link without channels: numbers, credit, and what is sent again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import PeerError
from xsave.link.frame import FRAME_COST, Kind, decode_head
from xsave.link.incoming import Incoming
from xsave.link.outgoing import Outgoing, Received, Sent

WINDOW = 8 << 10


def halves(nr_channels: int = 1) -> tuple[Outgoing, Incoming]:
    outgoing, incoming = Outgoing("x", WINDOW, 1000), Incoming("x", WINDOW)
    incoming.new_channels(nr_channels)
    return outgoing, incoming


def put(outgoing: Outgoing, data: bytes) -> bytes:
    """What there is room for."""
    rest = memoryview(bytearray(data))
    while rest and (taken := outgoing.take(rest)):
        rest = rest[taken:]
    return data[: len(data) - len(rest)]


def arrive(incoming: Incoming, sent: Sent, channel: int = 0) -> None:
    head = decode_head(sent.parts(more=False)[0], "x")
    room = incoming.begin(channel, head)
    room[:] = sent.body
    incoming.complete(head.number, room)


def read(incoming: Incoming) -> bytes:
    found = bytearray()
    room = memoryview(bytearray(777))
    while got := incoming.read_stream(room):
        found += room[:got]
    return bytes(found)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "send", "arrive", "read", "acknowledge", "break"]),
        st.integers(0, 3000),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_in_any_order_of_steps_all_data_arrives_once_within_the_window(steps: Any) -> None:
    outgoing, incoming = halves()
    said, heard = bytearray(), bytearray()
    on_the_way: list[Sent] = []
    for step, size in [*steps, ("break", 0), *[(s, 0) for s in ("send", "arrive", "read")] * 99]:
        if step == "put":
            said += put(outgoing, bytes(number & 0xFF for number in range(size)))
        elif step == "send" and (sent := outgoing.next_unsent()) is not None:
            on_the_way.append(sent)
        elif step == "arrive" and on_the_way:
            arrive(incoming, on_the_way.pop(0))
        elif step == "read":
            heard += read(incoming)
        elif step == "acknowledge" and incoming.acknowledgement_due:
            outgoing.acknowledge(incoming.acknowledge())
        elif step == "break":
            before = outgoing.nr_resent_bytes
            on_the_way.clear()
            incoming.new_channels(1)
            outgoing.rewind(incoming.acknowledge())
            assert outgoing.nr_resent_bytes - before <= WINDOW
        assert incoming._held[Kind.DATA] <= WINDOW
    assert heard == said


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(0, 3), max_size=60), st.data())
def test_frames_on_several_channels_are_put_in_order(
    nr_channels: int, choices: list[int], data: st.DataObject
) -> None:
    outgoing, incoming = halves(nr_channels)
    said = put(outgoing, bytes(number % 251 for number in range(6000)))
    channels: list[list[Sent]] = [[] for _ in range(nr_channels)]
    while (sent := outgoing.next_unsent()) is not None:
        channels[(choices.pop() if choices else 0) % nr_channels].append(sent)
    while any(channels):
        index = data.draw(st.sampled_from([i for i, each in enumerate(channels) if each]))
        arrive(incoming, channels[index].pop(0), index)
    assert read(incoming) == said


def test_a_number_that_no_channel_can_bring_any_more_is_noticed() -> None:
    outgoing, incoming = halves(2)
    put(outgoing, bytes(5000))
    frames = [outgoing.next_unsent() for _ in range(4)]
    arrive(incoming, frames[1] or Sent(Kind.END, 0, memoryview(b"")), 0)
    with pytest.raises(PeerError, match="frame number: expected 0, got 1 and later"):
        arrive(incoming, frames[2] or Sent(Kind.END, 0, memoryview(b"")), 1)


def test_numbers_on_a_channel_only_grow() -> None:
    outgoing, incoming = halves(2)
    put(outgoing, bytes(5000))
    frames = [sent for _ in range(4) if (sent := outgoing.next_unsent()) is not None]
    arrive(incoming, frames[2], 0)
    with pytest.raises(PeerError, match="frame number: expected more than 2, got 1"):
        arrive(incoming, frames[1], 0)


def test_what_is_borrowed_is_copied_unless_it_is_being_written() -> None:
    outgoing = Outgoing("x", 4 << 20, 512 << 10)
    page = bytearray(b"a" * (200 << 10))
    outgoing.take(memoryview(page))
    assert outgoing.nr_borrowed_bytes == len(page)
    assert not outgoing.give_back({0})
    assert outgoing.give_back(set())
    page[:] = b"b" * len(page)
    sent = outgoing.next_unsent()
    assert sent is not None
    assert bytes(sent.body) == b"a" * len(page)


def test_what_nobody_can_change_is_never_copied() -> None:
    outgoing = Outgoing("x", 4 << 20, 512 << 10)
    data = b"a" * (200 << 10)
    outgoing.take(memoryview(data))
    assert outgoing.nr_borrowed_bytes == 0
    sent = outgoing.next_unsent()
    assert sent is not None
    assert sent.body.obj is data


def test_what_waits_for_it_gets_the_stream_into_its_own_memory() -> None:
    outgoing, incoming = halves()
    said = put(outgoing, bytes(number % 251 for number in range(3000)))
    room = memoryview(bytearray(4000))
    incoming.post(room)
    while (sent := outgoing.next_unsent()) is not None:
        arrive(incoming, sent)
    assert incoming.nr_filled == 3000
    assert bytes(room[:3000]) == said
    assert incoming.read_stream(room) is None


@pytest.mark.parametrize(
    ("received", "why"),
    [
        (Received(2, 0, 0), r"number of frames\): expected 0 to 1, got 2"),
        (Received(1, 10 + FRAME_COST + 1, 0), r"amount of data\): expected 0 to 74, got 75"),
        (Received(1, 0, 1), r"amount of messages\): expected 0 to 0, got 1"),
    ],
    ids=str,
)
def test_an_acknowledgement_is_believed_only_of_what_was_sent(received: Received, why: str) -> None:
    outgoing, _ = halves()
    put(outgoing, bytes(10))
    assert outgoing.next_unsent() is not None
    with pytest.raises(PeerError, match=why):
        outgoing.acknowledge(received)
    outgoing.acknowledge(Received(1, 10 + FRAME_COST, 0))
    with pytest.raises(PeerError, match="expected something new, got the same again"):
        outgoing.acknowledge(Received(1, 10 + FRAME_COST, 0))
    with pytest.raises(PeerError, match=r"amount of data\): expected 74 to 74, got 0"):
        outgoing.acknowledge(Received(1, 0, 0))
