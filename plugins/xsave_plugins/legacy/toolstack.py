"""The TOOLSTACK chunk: where QEMU had moved memory to, as libxl 4.2 to 4.5 kept it.

It becomes what libxl keeps of it since: keys and values of QEMU's part of xenstore. A 64-bit
toolstack left four bytes of its structure's padding behind each name.
"""

from __future__ import annotations

from xsave import FormatError

from . import layouts as f

VERSION = 1
PADDING_BYTES = {4: 0, 8: 4}  # by word size
_HEAD_BYTES = 8


def xenstore_data(body: bytes, word_size: int, offset: int) -> bytes:
    """:returns: key, NUL, value, NUL and so on; b"" if nothing had been moved.
    :raises FormatError: the body is not what libxl wrote.
    """
    if len(body) < _HEAD_BYTES:
        raise _wrong(offset, "size", f"at least {_HEAD_BYTES} bytes", len(body))
    version, count = (int.from_bytes(body[at : at + 4], "little") for at in (0, 4))
    if version != VERSION:
        raise _wrong(offset, "version", str(VERSION), version)
    at, pairs = _HEAD_BYTES, []
    for number in range(count):
        if len(body) - at < f.PHYSMAP.size:
            raise _wrong(offset, f"entry {number}", f"{f.PHYSMAP.size} bytes", len(body) - at)
        moved_from, moved_to, size, name_bytes = f.PHYSMAP.unpack_from(body, at)
        at += f.PHYSMAP.size
        padded = name_bytes + PADDING_BYTES[word_size]
        if len(body) - at < padded:
            raise _wrong(offset, f"name of entry {number}", f"{padded} bytes", len(body) - at)
        name = body[at : at + name_bytes]
        at += padded
        pairs += _pairs(moved_from, moved_to, size, _name(name, number, offset))
    if at != len(body):
        raise _wrong(offset, "size", f"{at} bytes for {count} entries", len(body))
    return b"".join(string + b"\0" for pair in pairs for string in pair)


def _name(stored: bytes, number: int, offset: int) -> bytes:
    """Without its NUL; b"" for a memory block without one."""
    if stored and (stored[-1] or 0 in stored[:-1]):
        raise _wrong(offset, f"name of entry {number}", "one NUL, at the end", repr(stored))
    return stored[:-1]


def _pairs(moved_from: int, moved_to: int, size: int, name: bytes) -> list[tuple[bytes, bytes]]:
    root = b"physmap/%x" % moved_from
    pairs = [(root + b"/start_addr", b"%x" % moved_to), (root + b"/size", b"%x" % size)]
    return [*pairs, (root + b"/name", name)] if name else pairs


def _wrong(offset: int, field: str, expected: str, got: object) -> FormatError:
    return FormatError(what=f"TOOLSTACK: {field}", offset=offset, expected=expected, got=str(got))
