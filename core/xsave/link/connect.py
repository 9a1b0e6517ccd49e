"""The end that connects: makes the channels of a link, and makes them again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from ..errors import LinkError, TryAgainError
from ..transport import Channel, Transport
from .link import Link
from .opening import (
    ID_BYTES,
    NONCE_BYTES,
    SECRET_BYTES,
    Opening,
    Proposal,
    check_proof,
    new_secret,
    proof,
    random,
    received_message,
)
from .options import LinkOptions


def connect(transport: Transport, address: str, options: LinkOptions | None = None) -> Link:
    """A new link with who listens at an address.

    :param address: without the transport's scheme.
    :raises UsageError: such an address makes no sense, or is not allowed.
    :raises TryAgainError: nobody answers there, or not in time.
    :raises IdentityError: who answers is not the one, or does not want us.
    :raises LinkError: it refuses, or speaks another language.
    """
    return _Connector(transport, address, options or LinkOptions()).first()


class _Connector:
    def __init__(self, transport: Transport, address: str, options: LinkOptions) -> None:
        self._transport = transport
        self._address = address
        self._options = options
        self._id = random(ID_BYTES)
        self._secret = b""

    def first(self) -> Link:
        deadline = time.monotonic() + self._options.opening_s
        try:
            link = self._new_link(deadline)
        except OSError as error:
            raise TryAgainError(
                f"cannot open a link with {self._transport.name}:{self._address}: "
                f"{error.strerror or error}"
            ) from error
        try:
            self._others(link, 0, deadline)
        except OSError as error:
            link.abandon()
            raise TryAgainError(
                f"cannot open all channels of the link with {link.peer}: {error}"
            ) from error
        except BaseException:
            link.abandon()
            raise
        return link

    def again(self, link: Link, generation: int, deadline: float) -> None:
        """Make all channels of a link once more."""
        deadline = min(deadline, time.monotonic() + self._options.opening_s)
        self._add(link, generation, 0, deadline)
        self._others(link, generation, deadline)

    def _new_link(self, deadline: float) -> Link:
        channel = self._connect(deadline)
        with _closed_on_error(channel):
            proposal = self._proposal(0, 0, random(SECRET_BYTES))
            opening = Opening(channel, deadline)
            opening.say(0, proposal.message())
            answer = opening.hear_answer()
            if not answer.secret:
                raise LinkError(f"{channel.peer} gave no half of the secret")
            self._secret = new_secret(proposal.secret, answer.secret)
            check_proof(self._secret, "listens", proposal, answer.nonce, answer.proof, channel.peer)
            link = Link(
                self._id, channel, self._options,
                min(self._options.window_bytes, answer.window_bytes),
                self._options.connections,
                reconnect=self.again,
                may_return=self._transport.reconnects,
            )  # fmt: skip
            self._agree(link, opening, proposal, answer.nonce)
        return link

    def _others(self, link: Link, generation: int, deadline: float) -> None:
        for index in range(1, self._options.connections):
            self._add(link, generation, index, deadline)

    def _add(self, link: Link, generation: int, index: int, deadline: float) -> None:
        channel = self._connect(deadline)
        with _closed_on_error(channel):
            if channel.identity != link.identity:
                raise LinkError(f"{channel.peer} is another one than {link.peer} was")
            proposal = self._proposal(generation, index)
            opening = Opening(channel, deadline)
            opening.say(0, proposal.message())
            answer = opening.hear_answer()
            check_proof(self._secret, "listens", proposal, answer.nonce, answer.proof, channel.peer)
            self._agree(link, opening, proposal, answer.nonce)

    def _agree(self, link: Link, opening: Opening, proposal: Proposal, nonce: bytes) -> None:
        proved = proof(self._secret, "connects", proposal, nonce)
        first = proposal.index == 0
        opening.say(2, {"proof": proved, **received_message(link.received() if first else None)})
        fields = opening.hear(3)
        theirs = fields.received() if first else None
        link.start(link.adopt(opening.channel, proposal.generation, proposal.index, theirs))

    def _connect(self, deadline: float) -> Channel:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError("the opening took too long")
        return self._transport.connect(self._address, remaining_s)

    def _proposal(self, generation: int, index: int, secret: bytes = b"") -> Proposal:
        return Proposal(
            link_id=self._id, nonce=random(NONCE_BYTES), generation=generation, index=index,
            nr_channels=self._options.connections, window_bytes=self._options.window_bytes,
            returns=self._transport.reconnects, secret=secret,
        )  # fmt: skip


@contextlib.contextmanager
def _closed_on_error(channel: Channel) -> Iterator[None]:
    try:
        yield
    except BaseException:
        channel.close()
        raise
