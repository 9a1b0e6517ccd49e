"""Contract: a way to carry bytes between two ends. Transports know no records.

A transport makes channels: one end listens at an address, the other connects to it. What
makes one reliable conversation of them, with numbers, acknowledgements and reconnection, is
the link (:mod:`xsave.link`); a transport carries bytes, and says who is at the other end.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar, Protocol, Self

from .record import Buffer


class Channel(Protocol):
    """A connected pair of byte streams, for two threads: one that reads, one that writes.

    Reading and writing block. All errors are an ``OSError``, which means that this channel
    is of no use any more; ``TimeoutError`` is one of them.

    :ivar peer: who is at the other end, for messages: an address, the name in a certificate.
    :ivar identity: what the other end has proved about itself, such as the fingerprint of
        its certificate: two channels with the same text lead to the same one. "" where the
        transport proves nothing.
    """

    peer: str
    identity: str

    def handshake(self, timeout_s: float) -> None:
        """Settle what has to be settled before bytes can flow, such as certificates, within
        so many seconds. Called once, first, and only on what ``accept`` returned.

        :raises IdentityError: the other end is not one to talk to; the message says why.
        """

    def set_timeout(self, timeout_s: float | None) -> None:
        """How long a call may go on without moving one byte; None for ever, as at first."""

    def write_parts(self, parts: Sequence[Buffer]) -> None:
        """All parts in order, with one system call where possible."""

    def read_into(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``, which is not empty, with what there is; the
        number of bytes, 0 at the end."""

    def close(self) -> None:
        """Let go. From any thread, and more than once: calls under way in others end, with
        an error or (reading) at the end."""


class Listener(Protocol):
    """Where other ends arrive.

    :ivar address: to connect to, without the scheme; where the system chose a part of it,
        such as a port, with that filled in.
    """

    address: str

    def accept(self, timeout_s: float | None = None) -> Channel:
        """Wait for one other end. Returns before it has said anything: the caller goes on
        with :meth:`Channel.handshake` in a thread of its own, so that one that says nothing
        keeps nobody else out.

        :raises TimeoutError: none came. :raises OSError: the listener was closed.
        """

    def close(self) -> None:
        """Take no more. From any thread, and more than once; channels stay."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Transport(abc.ABC):
    """:cvar name: the scheme of its addresses.
    :cvar reconnects: whether connecting once more reaches the same process; where it does
        not, a conversation ends with its channel.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    reconnects: ClassVar[bool] = True

    @abc.abstractmethod
    def connect(self, address: str, timeout_s: float) -> Channel:
        """Reach the other end; the handshake is done when this returns.

        :param address: without the scheme.
        :param timeout_s: for all of it.
        :raises UsageError: such an address makes no sense, or is not allowed.
        :raises TryAgainError: it does not answer now.
        :raises IdentityError: who answers is not the one, or does not want us.
        """

    @abc.abstractmethod
    def listen(self, address: str) -> Listener:
        """Be there for others.

        :raises UsageError: such an address makes no sense, or is not allowed.
        :raises TryAgainError: it is taken.
        """
