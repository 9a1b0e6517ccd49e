"""An end that says what it is told to, byte for byte."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from attrs import define, evolve

from xsave.link.frame import HEAD, Head, Kind, decode_head, encode_head
from xsave.link.link import Link
from xsave.link.opening import (
    ID_BYTES,
    NONCE_BYTES,
    SECRET_BYTES,
    Opening,
    Proposal,
    new_secret,
    proof,
    random,
)
from xsave.link.options import LinkOptions
from xsave.link.server import LinkServer, serve
from xsave.testing import MemoryNetwork
from xsave.testing.links import MemoryChannel

TIME_S = 20.0


@define
class Raw:
    """One who connected by hand.

    :ivar secret: of the link.
    """

    channel: MemoryChannel
    proposal: Proposal
    secret: bytes = b""

    def say(self, data: bytes) -> None:
        self.channel.write_parts([data])

    def frame(self, kind: int, number: int, body: bytes = b"", length: int | None = None) -> None:
        """:param length: that the head claims, when it is another than the body's."""
        claimed = len(body) if length is None else length
        self.say(HEAD.pack(b"XL", kind, 0, claimed, number) + body)

    def hear(self) -> tuple[Head, bytes]:
        room = memoryview(bytearray(HEAD.size))
        self._fill(room)
        head = decode_head(room, "the other end")
        body = memoryview(bytearray(head.length))
        self._fill(body)
        return head, bytes(body)

    def hear_refusal(self) -> str:
        """What stands in it; other frames are passed over."""
        while True:
            head, body = self.hear()
            if head.kind is Kind.REFUSAL:
                return body.decode()

    def _fill(self, room: memoryview) -> None:
        while room:
            got = self.channel.read_into(room)
            assert got, "the channel has ended"
            room = room[got:]


def propose(**changed: Any) -> Proposal:
    """The hello of a new link, or one that differs."""
    right = Proposal(
        link_id=random(ID_BYTES), nonce=random(NONCE_BYTES), generation=0, index=0,
        nr_channels=1, window_bytes=64 << 10, returns=True, secret=random(SECRET_BYTES),
    )  # fmt: skip
    return evolve(right, **changed)


def connect_raw(network: MemoryNetwork, proposal: Proposal, secret: bytes = b"") -> Raw:
    """Open by hand; to be used like a link's own end.

    :param secret: of a link that is known.
    """
    channel = network.connect("far", TIME_S)
    channel.set_timeout(TIME_S)
    raw = Raw(channel, proposal, secret)
    opening = Opening(channel, time.monotonic() + TIME_S)
    opening.say(0, proposal.message())
    answer = opening.hear_answer()
    raw.secret = secret or new_secret(proposal.secret, answer.secret)
    proved = proof(raw.secret, "connects", proposal, answer.nonce)
    opening.say(2, {"proof": proved, "received": [0, 0, 0]})
    opening.hear(3)
    return raw


@contextlib.contextmanager
def against(
    options: LinkOptions | None = None, **changed: Any
) -> Iterator[tuple[Raw, Link, LinkServer, MemoryNetwork]]:
    """A raw end, and the link that listened to it."""
    network = MemoryNetwork()
    with serve(network.listen("far"), options or LinkOptions(window_bytes=64 << 10)) as server:
        raw = connect_raw(network, propose(**changed))
        link = server.accept(TIME_S)
        try:
            yield raw, link, server, network
        finally:
            link.abandon()
            raw.channel.close()


__all__ = ["Raw", "against", "connect_raw", "encode_head", "propose"]
