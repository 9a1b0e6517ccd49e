"""How a link behaves: sizes and times. Both ends have their own; windows are agreed."""

from __future__ import annotations

from attrs import field, validators

from ..value_class import frozen

WINDOW_MIN, WINDOW_MAX = 4 << 10, 64 << 20
CONNECTIONS_MAX = 16


@frozen
class LinkOptions:
    """:ivar window_bytes: of the stream that may be on the way: sent, and not yet used at the
        other end. After a break at most so much is sent again. The smaller one of both ends
        holds. By default a batch of pages, and what stands before it.
    :ivar frame_bytes: of the stream in one frame; at most half a window is used.
    :ivar connections: channels at once; the end that connects decides.
    :ivar ping_s: an end that has said nothing for so long says that it is there.
    :ivar silence_s: a channel on which nothing came for so long is broken. Several times
        the other end's ``ping_s``.
    :ivar patience_s: a link that has had no channel for so long is lost.
    :ivar opening_s: within which an end that connects has to have said who it is.
    :ivar close_s: how long closing waits until the other end has everything.
    """

    window_bytes: int = field(
        default=(4 << 20) + (64 << 10),
        validator=[validators.ge(WINDOW_MIN), validators.le(WINDOW_MAX)],
    )
    frame_bytes: int = field(default=2 << 20, validator=[validators.ge(1), validators.le(4 << 20)])
    connections: int = field(
        default=1, validator=[validators.ge(1), validators.le(CONNECTIONS_MAX)]
    )
    ping_s: float = 5.0
    silence_s: float = 20.0
    patience_s: float = 60.0
    opening_s: float = 10.0
    close_s: float = 5.0
