"""Where QEMU had moved memory to: the toolstack chunk of either width."""

from __future__ import annotations

import struct

import pytest

from tests.plugins.legacy import build as o
from xsave import FormatError
from xsave_plugins.legacy.toolstack import xenstore_data

ENTRIES = [(0xF0000000, 0xF1000000, 0x800000, b"vga.vram\0"), (0x10, 0x20, 0x30, b"")]


def body(w: int, **how: int) -> bytes:
    return o.toolstack(w, ENTRIES, **how)[8:]


@pytest.mark.parametrize("w", [4, 8])
def test_each_block_of_memory_becomes_keys_and_values(w: int) -> None:
    """Also one without a name, which Xen's converter refuses and libxl did not."""
    strings = xenstore_data(body(w), w, 0).split(b"\0")
    assert strings.pop() == b""
    pairs = dict(zip(strings[::2], strings[1::2], strict=True))
    assert pairs == {
        b"physmap/f0000000/start_addr": b"f1000000", b"physmap/f0000000/size": b"800000",
        b"physmap/f0000000/name": b"vga.vram", b"physmap/10/start_addr": b"20",
        b"physmap/10/size": b"30",
    }  # fmt: skip


def test_nothing_moved_is_nothing() -> None:
    assert xenstore_data(o.toolstack(8)[8:], 8, 0) == b""


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\1\0\0\0", "TOOLSTACK: size at offset 0x40: expected at least 8 bytes, got 4"),
        (body(8, version=2), "TOOLSTACK: version at offset 0x40: expected 1, got 2"),
        (body(8)[:-1], "TOOLSTACK: name of entry 1 at .*: expected 4 bytes, got 3"),
        (body(8)[:60], "TOOLSTACK: entry 1 at .*: expected 28 bytes, got 11"),
        (body(8) + b"\0", "TOOLSTACK: size at .*: expected 81 bytes for 2 entries, got 82"),
        (body(4), "TOOLSTACK"),
        (struct.pack("<II", 1, 0xFFFFFFFF), "TOOLSTACK: entry 0"),
        (body(8).replace(b"vram\0", b"vram!"), "TOOLSTACK: name of entry 0 .*: expected one NUL"),
        (body(8).replace(b"vga.", b"vg\0."), "TOOLSTACK: name of entry 0 .*: expected one NUL"),
    ],
)
def test_another_body_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        xenstore_data(data, 8, 0x40)
