"""Bytes as people read them: 16 to a line, with their offset and their ASCII."""

from __future__ import annotations

from collections.abc import Iterator


def hexdump(data: bytes | memoryview, offset: int = 0) -> Iterator[str]:
    """Lines; equal ones after the first are told by a single ``*``.

    :param offset: of the first byte, as it is to be shown.
    """
    width = max(8, len(f"{offset + len(data):x}"))
    view, repeated, previous = memoryview(data), False, b""
    for at in range(0, len(view), 16):
        row = bytes(view[at : at + 16])
        if row == previous and at + 16 < len(view):
            if not repeated:
                yield "*"
            repeated = True
            continue
        repeated, previous = False, row
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        pairs = row[:8].hex(" ").ljust(23) + "  " + row[8:].hex(" ").ljust(23)
        yield f"{offset + at:0{width}x}  {pairs}  |{text}|"
