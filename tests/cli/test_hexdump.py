from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xsave.cli.hexdump import hexdump


def test_a_line_has_offset_bytes_and_text() -> None:
    assert list(hexdump(b"xsave\x00\xff 0123456789ab", 0x1000)) == [
        "00001000  78 73 61 76 65 00 ff 20  30 31 32 33 34 35 36 37  |xsave.. 01234567|",
        "00001010  38 39 61 62                                       |89ab|",
    ]


def test_equal_lines_are_told_by_a_star() -> None:
    lines = list(hexdump(bytes(64)))
    assert [line[:8] for line in lines] == ["00000000", "*", "00000030"]
    assert list(hexdump(b"")) == []


@given(st.binary(max_size=200), st.integers(0, 1 << 52))
def test_the_bytes_can_be_read_back(data: bytes, offset: int) -> None:
    read = b""
    starred = False
    for line in hexdump(data, offset):
        if line == "*":
            starred = True
            continue
        at, _, rest = line.partition("  ")
        if starred:
            read += read[-16:] * ((int(at, 16) - offset - len(read)) // 16)
            starred = False
        assert int(at, 16) == offset + len(read)
        read += bytes.fromhex(rest[:49])
    assert read == data
