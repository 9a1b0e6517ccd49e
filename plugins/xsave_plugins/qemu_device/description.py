"""The description that QEMU puts behind the end mark of a full stream: JSON, device by device."""

from __future__ import annotations

import json
from typing import Any

from attrs import field

from xsave import frozen

from .grammar import DESCRIPTION, EOF, number_at
from .shape import Shape, described_size, from_description

# QEMU's own are 100 to 300 KB; parsed JSON takes many times its text in memory.
MAX_DESCRIPTION_BYTES = 4 << 20

_NOT_JSON = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip


@frozen
class Description:
    """:ivar start: of the byte 0x06 that introduces it.
    :ivar devices: idstr and instance to the size of its data, and its shape."""

    start: int
    devices: dict[tuple[str, int], tuple[int, Shape]] = field(factory=dict)


def find_description(blob: bytes, start: int) -> Description | None:
    """The JSON after the end mark. Its text has no NUL, and its length, a u32 below 16 MiB
    after the byte 0x06, begins with one: so it starts within four bytes of the last NUL."""
    last_nul = blob.rfind(b"\0", start)
    for text_start in range(last_nul + 1, last_nul + 5):
        head = text_start - 5
        size = len(blob) - text_start
        if (
            head > start
            and blob[head] == DESCRIPTION
            and blob[head - 1] == EOF
            and 0 < size == number_at(blob, text_start - 4) <= MAX_DESCRIPTION_BYTES
        ):
            try:
                return Description(head, _described_devices(json.loads(blob[text_start:])))
            except _NOT_JSON:
                return None
    return None


def _described_devices(description: Any) -> dict[tuple[str, int], tuple[int, Shape]]:
    return {
        (device["name"], int(device["instance_id"])): (
            described_size(device), from_description(device),
        )
        for device in description["devices"]
    }  # fmt: skip
