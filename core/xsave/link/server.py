"""The end that listens: takes new links, and channels of links that are known."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Self

from ..errors import LinkError, SilentPeerError, XsaveError
from ..transport import Channel, Listener
from ..value_class import frozen
from .link import Link
from .opening import (
    NONCE_BYTES,
    SECRET_BYTES,
    Answer,
    Opening,
    Proposal,
    check_proof,
    new_secret,
    proof,
    random,
    received_message,
)
from .options import LinkOptions

OPENINGS_MAX = 16  # at a time
WAITING_MAX = 8  # new links that nobody has accepted yet
LINKS_MAX = 64


@frozen
class _Known:
    link: Link
    secret: bytes


def serve(listener: Listener, options: LinkOptions | None = None) -> LinkServer:
    """Links with those who connect; iterate over it, or call ``accept``."""
    return LinkServer(listener, options or LinkOptions())


class LinkServer:
    """Takes whoever connects, until it is closed; links go on then, but their channels cannot
    be made again.

    Who connects and then says nothing, or nonsense, takes a place for ``opening_s`` at most
    and is otherwise no trouble to others; ``refused`` says why those were not taken who came
    last.
    """

    def __init__(self, listener: Listener, options: LinkOptions) -> None:
        self.refused: deque[str] = deque(maxlen=16)
        self._listener = listener
        self._options = options
        self._links: dict[bytes, _Known] = {}
        self._waiting: deque[Link] = deque()
        self._opening: dict[threading.Thread, Channel] = {}
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(
            target=self._listen, name=f"xsave listens at {listener.address}", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        return self._listener.address

    def accept(self, timeout_s: float | None = None) -> Link:
        """The next new link.

        :raises SilentPeerError: none came in time. :raises LinkError: the server is closed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._waiting:
                if self._closed:
                    raise LinkError(f"nobody listens at {self.address} any more")
                remaining_s = None if deadline is None else deadline - time.monotonic()
                if remaining_s is not None and remaining_s <= 0:
                    raise SilentPeerError(f"nobody connected within {timeout_s:g} s")
                self._changed.wait(remaining_s)
            return self._waiting.popleft()

    def __iter__(self) -> Iterator[Link]:
        while True:
            try:
                yield self.accept()
            except LinkError:
                if self._closed:
                    return
                raise

    def close(self) -> None:
        """Take no more, and end every thread. Links that nobody accepted are abandoned."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            opening = dict(self._opening)
        self._listener.close()
        for channel in opening.values():
            channel.close()
        self._thread.join()
        for thread in opening:
            thread.join()
        while self._waiting:
            self._waiting.popleft().abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # In the thread that listens

    def _listen(self) -> None:
        while not self._closed:
            try:
                channel = self._listener.accept()
            except TimeoutError:
                continue
            except (OSError, XsaveError) as error:
                with self._changed:
                    self._closed = True
                    self.refused.append(str(error))
                    self._changed.notify_all()
                return
            self._begin(channel)

    def _begin(self, channel: Channel) -> None:
        thread = threading.Thread(
            target=self._open, args=(channel,), name=f"xsave opens {channel.peer}", daemon=True
        )
        with self._changed:
            if self._closed or len(self._opening) >= OPENINGS_MAX:
                self.refused.append(f"{channel.peer}: too many at once")
                channel.close()
                return
            self._opening[thread] = channel
        thread.start()

    # In a thread for each that connects

    def _open(self, channel: Channel) -> None:
        opening = Opening(channel, time.monotonic() + self._options.opening_s)
        try:
            channel.handshake(opening.remaining_s)
            self._answer(opening)
        except (OSError, XsaveError) as error:
            self.refused.append(f"{channel.peer}: {error}")
            if isinstance(error, LinkError):
                with contextlib.suppress(OSError):
                    opening.refuse(str(error))
            channel.close()
        finally:
            with self._changed:
                self._opening.pop(threading.current_thread(), None)

    def _answer(self, opening: Opening) -> None:
        channel = opening.channel
        proposal = opening.hear_proposal()
        known = self._links.get(proposal.link_id)
        ours = b""
        if proposal.generation or proposal.index:
            secret = self._secret_of(known, proposal, channel)
        elif known is not None or len(self._links) >= LINKS_MAX:
            raise LinkError("no more links are taken at the moment")
        else:
            ours = random(SECRET_BYTES)
            secret = new_secret(proposal.secret, ours)
        nonce = random(NONCE_BYTES)
        proved = proof(secret, "listens", proposal, nonce)
        answer = Answer(nonce, proved, self._options.window_bytes, ours)
        opening.say(1, answer.message())
        fields = opening.hear(2)
        got = fields.octets("proof", len(proved))
        check_proof(secret, "connects", proposal, nonce, got, channel.peer)
        link = known.link if known is not None else self._new_link(proposal, channel, secret)
        first = proposal.index == 0
        theirs = fields.received() if first else None
        try:
            lane = link.adopt(channel, proposal.generation, proposal.index, theirs)
            try:
                opening.say(3, received_message(link.received() if first else None))
            except OSError as error:
                link.lane_broke(lane, error)
                raise
            link.start(lane)
        except BaseException:
            if known is None:
                link.abandon()
            raise
        if known is None:
            self._offer(link)

    def _secret_of(self, known: _Known | None, proposal: Proposal, channel: Channel) -> bytes:
        if known is None:
            raise LinkError("such a link is not known here")
        if channel.identity != known.link.identity:
            raise LinkError("the link belongs to another end")
        if proposal.nr_channels != known.link.nr_channels:
            raise LinkError("the link has another number of channels")
        return known.secret

    def _new_link(self, proposal: Proposal, channel: Channel, secret: bytes) -> Link:
        link_id = proposal.link_id
        link = Link(
            link_id, channel, self._options,
            min(self._options.window_bytes, proposal.window_bytes),
            proposal.nr_channels,
            forget=lambda: self._forget(link_id),
            may_return=proposal.returns,
        )  # fmt: skip
        self._links[link_id] = _Known(link, secret)
        return link

    def _forget(self, link_id: bytes) -> None:
        self._links.pop(link_id, None)

    def _offer(self, link: Link) -> None:
        with self._changed:
            if not self._closed and len(self._waiting) < WAITING_MAX:
                self._waiting.append(link)
                self._changed.notify_all()
                return
        link.abandon()
