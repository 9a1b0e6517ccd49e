"""EMULATOR_XENSTORE_DATA: pairs, what Xen refuses, and the physmap of old QEMUs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import FieldError
from xsave.testing import HandlerSuite
from xsave_plugins.qemu_device.xenstore_data import XenstoreData, XenstoreDataHandler

HEADER = bytes.fromhex("02000000 00000000")
PHYSMAP = (
    b"physmap/f0000000/start_addr\0f1000000\0"
    b"physmap/f0000000/size\x00800000\0"
    b"physmap/f0000000/name\0vga.vram\0"
    b"physmap/80/size\0not hex\0"
    b"physmap/80/other\x001\0"
    b"physmap/x/size\x001\0"
    b"state\0\0"
)
HANDLER = XenstoreDataHandler()


def decode(data: bytes) -> XenstoreData:
    return HANDLER.decode(memoryview(HEADER + data))


class TestXenstoreData(HandlerSuite):
    handler = HANDLER
    bodies = (
        HEADER,
        HEADER + PHYSMAP,
        HEADER + b"key\0value\0key\0again\0",
        HEADER + b"k\xff\0\xfe\0a..b/..c\0\0",
        bytes.fromhex("09000000 07000000") + b"a/b\0c\0",
    )
    refused = (
        b"",
        HEADER[:7],
        HEADER + b"key",
        HEADER + b"key\0",
        HEADER + b"key\0value",
        HEADER + b"key\0value\0\0",
        HEADER + b"\0value\0",
        HEADER + b"/key\0value\0",
        HEADER + b"a\0b\0..\0value\0",
        HEADER + b"../key\0value\0",
        HEADER + b"a/../../key\0value\0",
        HEADER + b"a/..\0value\0",
    )


def test_pairs_keep_their_order_and_doubles() -> None:
    assert decode(b"b\x001\0a\0\0b\x002\0").pairs == ((b"b", b"1"), (b"a", b""), (b"b", b"2"))


def test_an_error_names_the_key() -> None:
    with pytest.raises(FieldError, match=r"key 1: expected a key that is relative, got '/b'"):
        decode(b"a\x001\0/b\x001\0")


def test_physmap_keys_are_grouped_by_block_and_read_as_numbers() -> None:
    shown = HANDLER.describe(decode(PHYSMAP), {})
    assert shown["emulator"]["emulator_id"] == {"value": 2, "name": "qemu"}
    assert shown["physmap"] == [
        {"offset": 0xF0000000, "start_addr": 0xF1000000, "size": 0x800000, "name": "vga.vram"},
        {"offset": 0x80, "size": "not hex"},
    ]
    assert len(shown["pairs"]) == 7
    assert shown["pairs"][-1] == {"key": "state", "value": ""}


strings = st.binary(max_size=12).map(lambda text: text.replace(b"\0", b"/"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(strings, strings), max_size=5))
def test_any_pairs_with_good_keys_come_back(pairs: list[tuple[bytes, bytes]]) -> None:
    data = b"".join(key + b"\0" + value + b"\0" for key, value in pairs)
    good = all(
        key and not key.startswith(b"/") and b".." not in key.split(b"/") for key, _ in pairs
    )
    if good:
        assert decode(data).pairs == tuple(pairs)
    else:
        with pytest.raises(FieldError, match=r"^key "):
            decode(data)
