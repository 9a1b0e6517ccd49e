"""How two ends agree that a channel belongs to a link, new or known to both.

    connects                                        listens
    hello {versions, link, generation, channel…} ->
                                                 <- hello {version, nonce, proof, window}
    hello {proof, received}                      ->
                                                 <- hello {received}

A new link begins with a secret that both ends give half of. Whoever comes later with the
link's id has to prove that it knows it, and so has whoever answers: a keyed hash over both
ends' random numbers and over what was said. The secret itself travels once, in the clear on
a channel that is not encrypted, which is why such channels stay on one machine.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Any

from ..errors import LinkError, PeerError
from ..transport import Channel
from ..value_class import frozen
from .frame import HEAD, HELLO_MAX, Kind, decode_head, decode_message, encode_head, encode_message
from .link import refusal_text
from .options import CONNECTIONS_MAX, WINDOW_MAX, WINDOW_MIN
from .outgoing import Received

VERSIONS = (1,)
ID_BYTES = NONCE_BYTES = SECRET_BYTES = 16
PROOF_BYTES = 32
COUNT_MAX = (1 << 63) - 1


@frozen
class Proposal:
    """The first hello.

    :ivar secret: half of a new link's; b"" for one that is known.
    :ivar returns: whether the end that connects can do so again after a break.
    """

    link_id: bytes
    nonce: bytes
    generation: int
    index: int
    nr_channels: int
    window_bytes: int
    returns: bool
    secret: bytes = b""

    def message(self) -> dict[str, Any]:
        return {
            "versions": list(VERSIONS), "link": self.link_id, "nonce": self.nonce,
            "generation": self.generation, "channel": self.index, "channels": self.nr_channels,
            "window": self.window_bytes, "returns": self.returns, "secret": self.secret,
        }  # fmt: skip


@frozen
class Answer:
    """The second hello."""

    nonce: bytes
    proof: bytes
    window_bytes: int
    secret: bytes = b""

    def message(self) -> dict[str, Any]:
        return {
            "version": VERSIONS[-1], "nonce": self.nonce, "proof": self.proof,
            "window": self.window_bytes, "secret": self.secret,
        }  # fmt: skip


def proof(secret: bytes, end: str, proposal: Proposal, nonce: bytes) -> bytes:
    """That an end knows the secret.

    :param end: which: "connects" or "listens".
    :param nonce: of the end that listens.
    """
    said = [
        end.encode(), proposal.link_id, proposal.nonce, nonce,
        f"{proposal.generation} {proposal.index} {proposal.nr_channels}".encode(),
    ]  # fmt: skip
    return hmac.digest(secret, b"\0".join(said), hashlib.sha256)


def check_proof(
    secret: bytes, end: str, proposal: Proposal, nonce: bytes, got: bytes, peer: str
) -> None:
    """:raises PeerError: it does not know the secret."""
    if not hmac.compare_digest(proof(secret, end, proposal, nonce), got):
        raise PeerError(
            peer=peer, what="proof", expected="one that it knows the link", got="another"
        )


def new_secret(first: bytes, second: bytes) -> bytes:
    return hashlib.sha256(first + second).digest()


def random(nr_bytes: int) -> bytes:
    return secrets.token_bytes(nr_bytes)


class Opening:
    """The four hellos of one channel, within a time.

    :param deadline: on the monotonic clock.
    """

    def __init__(self, channel: Channel, deadline: float) -> None:
        self.channel = channel
        self._deadline = deadline

    @property
    def remaining_s(self) -> float:
        """:raises TimeoutError: none is left."""
        if (remaining_s := self._deadline - time.monotonic()) <= 0:
            raise TimeoutError("the opening took too long")
        return remaining_s

    def say(self, step: int, message: dict[str, Any]) -> None:
        body = encode_message(message, HELLO_MAX)
        self.channel.set_timeout(self.remaining_s)
        self.channel.write_parts([encode_head(Kind.HELLO, len(body), step), body])

    def refuse(self, why: str) -> None:
        """Say why not; the other end need not listen."""
        text = why.encode()[:1024]
        self.channel.set_timeout(self.remaining_s)
        self.channel.write_parts([encode_head(Kind.REFUSAL, len(text), 0), text])

    def hear(self, step: int) -> Fields:
        """:raises LinkError: the other end refuses, or what it says is no such hello.
        :raises OSError: it says nothing."""
        peer = self.channel.peer
        room = memoryview(bytearray(HEAD.size))
        self._fill(room)
        head = decode_head(room, peer)
        body = memoryview(bytearray(min(head.length, HELLO_MAX)))
        if head.kind is Kind.REFUSAL:
            self._fill(body)
            raise LinkError(f"{peer} refuses: {refusal_text(body)}")
        if head.kind is not Kind.HELLO or head.number != step:
            raise PeerError(
                peer=peer, what="frame", expected=f"hello {step}",
                got=f"{head.kind.name.lower()} {head.number}",
            )  # fmt: skip
        self._fill(body)
        return Fields(decode_message(bytes(body), peer, "hello"), peer)

    def hear_proposal(self) -> Proposal:
        return self.hear(0).proposal()

    def hear_answer(self) -> Answer:
        return self.hear(1).answer()

    def _fill(self, room: memoryview) -> None:
        while room:
            self.channel.set_timeout(self.remaining_s)
            got = self.channel.read_into(room)
            if not got:
                raise ConnectionError("the other end is gone")
            room = room[got:]


class Fields:
    """A hello that came, looked at one field after the other. Others are ignored, so that
    later versions may have more."""

    def __init__(self, message: dict[str, Any], peer: str) -> None:
        self._message = message
        self._peer = peer

    def get(self, name: str, kind: type) -> Any:
        value = self._message.get(name)
        if type(value) is not kind:
            raise self.wrong(name, f"a {kind.__name__}", value)
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value: int = self.get(name, int)
        if not low <= value <= high:
            raise self.wrong(name, f"{low} to {high}", value)
        return value

    def octets(self, name: str, *sizes: int) -> bytes:
        value: bytes = self.get(name, bytes)
        if len(value) not in sizes:
            raise self.wrong(name, f"{sizes[-1]} bytes", f"{len(value)}")
        return value

    def proposal(self) -> Proposal:
        versions = self.get("versions", list)
        if not set(VERSIONS) & {each for each in versions if isinstance(each, int)}:
            raise self.wrong("versions", f"one of {list(VERSIONS)}", versions)
        nr_channels = self.integer("channels", 1, CONNECTIONS_MAX)
        return Proposal(
            link_id=self.octets("link", ID_BYTES),
            nonce=self.octets("nonce", NONCE_BYTES),
            generation=self.integer("generation", 0, COUNT_MAX),
            index=self.integer("channel", 0, nr_channels - 1),
            nr_channels=nr_channels,
            window_bytes=self.integer("window", WINDOW_MIN, WINDOW_MAX),
            returns=self.get("returns", bool),
            secret=self.octets("secret", 0, SECRET_BYTES),
        )

    def answer(self) -> Answer:
        self.integer("version", VERSIONS[0], VERSIONS[-1])
        return Answer(
            nonce=self.octets("nonce", NONCE_BYTES),
            proof=self.octets("proof", PROOF_BYTES),
            window_bytes=self.integer("window", WINDOW_MIN, WINDOW_MAX),
            secret=self.octets("secret", 0, SECRET_BYTES),
        )

    def received(self) -> Received:
        value = self.get("received", list)
        if len(value) != 3 or not all(type(each) is int and each >= 0 for each in value):
            raise self.wrong("received", "three numbers", value)
        return Received(*value)

    def wrong(self, name: str, expected: str, got: object) -> PeerError:
        return PeerError(
            peer=self._peer, what=f"hello ({name})", expected=expected, got=str(got)[:100]
        )


def received_message(received: Received | None) -> dict[str, Any]:
    """A part of a hello; None for channels that are not the first, where it says nothing."""
    if received is None:
        return {}
    return {"received": [received.number, received.data_used, received.messages_used]}
