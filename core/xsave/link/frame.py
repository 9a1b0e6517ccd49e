"""What a frame on a channel is, and what it may be. No I/O here.

    frame = head (16 bytes), body
    head  = marker "XL", kind u8, flags u8, length of the body u32, number u64

All integers are little-endian. Numbered kinds are counted from 0 in each direction. What the
number and body of the others mean is said beside their names.
"""

from __future__ import annotations

import enum
import io
import struct
from collections.abc import Mapping
from typing import Any

import cbor2

from ..errors import PeerError, UsageError
from ..value_class import frozen

HEAD = struct.Struct("<2sBBIQ")
MARKER = b"XL"
ACK_BODY = struct.Struct("<QQ")

HELLO_MAX = 4 << 10  # bytes of a hello's body
MESSAGE_MAX = 1 << 20
DATA_MAX = 4 << 20
REFUSAL_MAX = 1 << 10
MESSAGE_DEPTH = 8  # of nesting
NUMBER_MAX = 1 << 62  # nobody gets there: 4 EiB, one byte a frame
# What a numbered frame costs beside its body where credit is counted, so that empty ones
# are not free.
FRAME_COST = 64


class Kind(enum.IntEnum):
    HELLO = 1  # step of the opening; a CBOR map
    MESSAGE = 2  # numbered; a CBOR map with text keys
    DATA = 3  # numbered; bytes of the stream
    END = 4  # numbered; the stream is complete
    CLOSE = 5  # numbered; nothing comes after it
    ACK = 6  # every frame below the number has arrived; ACK_BODY: cost used, data and messages
    PING = 7  # any number
    PONG = 8  # the number of the ping
    REFUSAL = 9  # zero; text: why the sender ends this


NUMBERED = frozenset({Kind.MESSAGE, Kind.DATA, Kind.END, Kind.CLOSE})
# The flag there is, of data only: another data frame follows at once. A hint, so that who waits
# for much need not be woken for each frame.
MORE = 1
# Shortest and longest body of each kind.
BODY_LIMITS = {
    Kind.HELLO: (1, HELLO_MAX),
    Kind.MESSAGE: (1, MESSAGE_MAX),
    Kind.DATA: (1, DATA_MAX),
    Kind.END: (0, 0),
    Kind.CLOSE: (0, 0),
    Kind.ACK: (ACK_BODY.size, ACK_BODY.size),
    Kind.PING: (0, 0),
    Kind.PONG: (0, 0),
    Kind.REFUSAL: (0, REFUSAL_MAX),
}


@frozen
class Head:
    kind: Kind
    length: int
    number: int
    more: bool = False


def encode_head(kind: Kind, length: int, number: int, *, more: bool = False) -> bytes:
    return HEAD.pack(MARKER, kind, MORE if more else 0, length, number)


def decode_head(data: bytes | bytearray | memoryview, peer: str) -> Head:
    """:raises PeerError: these 16 bytes are no head, or one of a body out of bounds."""
    marker, kind_byte, flags, length, number = HEAD.unpack(data)
    if marker != MARKER or flags & ~MORE or (flags and kind_byte != Kind.DATA):
        raise PeerError(
            peer=peer, what="frame", expected="one that begins with XL", got=repr(bytes(data))
        )
    try:
        kind = Kind(kind_byte)
    except ValueError:
        raise PeerError(
            peer=peer, what="frame kind", expected=f"1 to {max(Kind)}", got=str(kind_byte)
        ) from None
    shortest, longest = BODY_LIMITS[kind]
    if not shortest <= length <= longest:
        raise PeerError(
            peer=peer, what=f"length of a {kind.name.lower()} frame",
            expected=f"{shortest} to {longest} bytes", got=str(length),
        )  # fmt: skip
    if number > NUMBER_MAX:
        raise PeerError(
            peer=peer, what="frame number", expected=f"at most {NUMBER_MAX}", got=str(number)
        )
    return Head(kind, length, number, bool(flags))


def cost(length: int) -> int:
    """Of a numbered frame, where credit is counted."""
    return FRAME_COST + length


def encode_message(message: Mapping[str, Any], limit: int = MESSAGE_MAX) -> bytes:
    """:raises UsageError: it is too long, or has values that a message cannot have."""
    plain = dict(message)
    if (wrong := _not_plain(plain, MESSAGE_DEPTH)) is not None:
        raise UsageError(f"a message cannot hold {wrong}")
    try:
        body = cbor2.dumps(plain)
    except (cbor2.CBORError, UnicodeError) as error:
        raise UsageError(f"a message cannot hold {error}") from None
    if len(body) > limit:
        raise UsageError(f"a message of {len(body)} bytes is too long: at most {limit}")
    return body


def decode_message(body: bytes, peer: str, what: str = "message") -> dict[str, Any]:
    """:raises PeerError: it is no map of plain values with text keys."""
    try:
        # A decoder, since loads() passes over what is behind the first value.
        file = io.BytesIO(body)
        message = cbor2.CBORDecoder(
            file,
            max_depth=MESSAGE_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            semantic_decoders=_NO_TAGS,
        ).decode()
    except (cbor2.CBORError, ValueError, RecursionError, OverflowError) as error:
        raise PeerError(peer=peer, what=what, expected="a CBOR map", got=str(error)[:200]) from None
    if not isinstance(message, dict):
        raise PeerError(peer=peer, what=what, expected="a CBOR map", got=type(message).__name__)
    if file.tell() != len(body):
        raise PeerError(peer=peer, what=what, expected="a CBOR map", got="more behind it")
    if (wrong := _not_plain(message, MESSAGE_DEPTH)) is not None:
        raise PeerError(peer=peer, what=what, expected="plain values", got=wrong)
    return message


def _refuse_tag(_value: Any, _immutable: bool) -> Any:
    raise ValueError("a tag")


# What cbor2 would otherwise make of tagged values: times, fractions, patterns, references. Tags
# unknown to it come back as such, and are refused after.
_NO_TAGS = dict.fromkeys(
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000,
     55799), _refuse_tag,
)  # fmt: skip


def _not_plain(value: Any, depth: int) -> str | None:
    """The first thing in it that is not plain, in words; None if all is."""
    if value is None or isinstance(value, bool | str | bytes | float):
        return None
    if isinstance(value, int):
        return None if -(1 << 63) <= value < 1 << 64 else "an integer of more than 64 bits"
    if not isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__}"
    if not depth:
        return f"more than {MESSAGE_DEPTH} levels"
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return "a key that is no text"
        value = list(value.values())
    return next((wrong for each in value if (wrong := _not_plain(each, depth - 1))), None)
