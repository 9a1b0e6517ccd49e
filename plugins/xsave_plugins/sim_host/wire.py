"""Messages between a client and the process that holds simulated hosts. No I/O.

    head      magic "xsim", bytes of CBOR u32, bytes of arrays u32, little-endian
    CBOR      [verb, [item, ...], [[place, kind, count], ...]]
    arrays    the contents of the items whose places the third part names, in that order

A verb is text; items are whole numbers of 64 bits, floats, text, bytes, true, false, null,
lists and maps of such. Arrays stand beside, so that no page passes through CBOR: ``u64``,
``page`` (4096 bytes) and ``bit`` (packed, the first one lowest).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import cbor2
import numpy as np

from xsave import Buffer, XsaveError, frozen

HEAD = struct.Struct("<4sII")
MAGIC = b"xsim"
MAX_CALL = 16 << 20  # bytes of CBOR, to a host; a device model's state is the largest item
MAX_ANSWER = 64 << 20  # and from it: all handles of a tmem pool
MAX_ARRAYS = 32 << 20  # the dirty log of a guest of 512 GiB takes 16 MiB
_DEPTH = 8
_PAGE_BYTES = 4096


class WireError(XsaveError):
    """These bytes are no message of this protocol; nothing was done."""


@frozen(eq=False)
class Message:
    """:ivar items: numpy arrays among them: (n,) u64, (n, 4096) u8, (n,) bool."""

    verb: str
    items: Sequence[Any] = ()


def encode(message: Message) -> list[Buffer]:
    """The parts to be written, in order. Pages are not copied."""
    items, described, beside = list(message.items), [], []
    for place, item in enumerate(items):
        if isinstance(item, np.ndarray):
            kind, contents = _array_bytes(item)
            described.append([place, kind, len(item)])
            beside.append(contents)
            items[place] = None
    body = cbor2.dumps([message.verb, items, described])
    head = HEAD.pack(MAGIC, len(body), sum(len(part) for part in beside))
    return [head + body, *beside]


def decode_head(head: Buffer, max_cbor: int) -> tuple[int, int]:
    """:returns: bytes of CBOR and of arrays that follow.
    :raises WireError: before any buffer is made for them.
    """
    magic, nr_cbor, nr_arrays = HEAD.unpack(head)
    if magic != MAGIC:
        raise WireError(f"head: expected magic {MAGIC!r}, got {magic!r}")
    for what, got, limit in (("CBOR", nr_cbor, max_cbor), ("arrays", nr_arrays, MAX_ARRAYS)):
        if got > limit:
            raise WireError(f"head: expected at most {limit} bytes of {what}, got {got}")
    return nr_cbor, nr_arrays


def decode(body: bytes, beside: memoryview) -> Message:
    """:param beside: pages of the message are views of it.
    :raises WireError: says what is wrong.
    """
    try:
        parts = cbor2.loads(
            body, max_depth=_DEPTH, allow_indefinite=False, allow_duplicate_keys=False
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise WireError(f"CBOR: {error}") from None
    if not isinstance(parts, list) or [type(part) for part in parts] != [str, list, list]:
        raise WireError("CBOR: expected a verb, a list of items and a list of arrays")
    verb, items, described = parts
    found = [_plain(item) for item in items]
    offset = 0
    for one in described:
        place, kind, count = _description(one, len(found))
        size_bytes = _size_bytes(kind, count)
        if size_bytes > len(beside) - offset:
            raise WireError(f"{verb}: expected {size_bytes} bytes of {kind}, got fewer")
        found[place] = _array(kind, count, beside[offset : offset + size_bytes])
        offset += size_bytes
    if offset != len(beside):
        raise WireError(f"{verb}: {len(beside) - offset} bytes of arrays belong to nothing")
    return Message(verb, found)


def _array_bytes(array: np.ndarray[Any, Any]) -> tuple[str, Buffer]:
    if array.dtype == np.bool_:
        return "bit", np.packbits(array, bitorder="little").tobytes()
    if array.ndim == 2:
        return "page", np.ascontiguousarray(array, np.uint8).reshape(-1).data
    return "u64", np.ascontiguousarray(array, "<u8").view(np.uint8).data


def _array(kind: str, count: int, data: memoryview) -> np.ndarray[Any, Any]:
    if kind == "page":
        return np.frombuffer(data, np.uint8).reshape(count, _PAGE_BYTES)
    if kind == "u64":
        return np.frombuffer(data, "<u8").astype(np.uint64)  # a copy: it may be kept
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")
    return bits.astype(np.bool_)


def _size_bytes(kind: str, count: int) -> int:
    return {"page": count * _PAGE_BYTES, "u64": count * 8, "bit": -(-count // 8)}[kind]


def _description(one: Any, nr_items: int) -> tuple[int, str, int]:
    if isinstance(one, list) and [type(part) for part in one] == [int, str, int]:
        place, kind, count = one
        if 0 <= place < nr_items and kind in ("page", "u64", "bit") and 0 <= count < 1 << 32:
            return place, kind, count
    raise WireError("arrays: expected place, kind and count of each")


def _plain(item: Any) -> Any:
    """Lists become tuples: object ids are keys.

    :raises WireError: for what no message has, such as dates, which CBOR has tags for.
    """
    if item is None or isinstance(item, bool | float | str | bytes):
        return item
    if isinstance(item, int):
        if not -(1 << 63) <= item < 1 << 64:
            raise WireError("items: a number of more than 64 bits")
        return item
    if isinstance(item, list):
        return tuple(map(_plain, item))
    if isinstance(item, dict) and all(isinstance(key, int | str) for key in item):
        return {key: _plain(value) for key, value in item.items()}
    raise WireError(f"items: expected plain values, got a {type(item).__name__}")
