from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from xsave_plugins.xen_host.libxc_tap import LibxcTap

END = struct.pack("<II", 0, 0)
bodies = st.lists(st.tuples(st.integers(1, 0xFFFFFFFF), st.binary(max_size=40)), max_size=8)


def stream(records: list[tuple[int, bytes]]) -> bytes:
    made = bytes(range(40))
    for kind, body in records:
        made += struct.pack("<II", kind, len(body)) + body + bytes(-len(body) & 7)
    return made + END


class Input:
    """:param most: bytes that it gives at once."""

    def __init__(self, data: bytes, most: int) -> None:
        self.data = data
        self.most = most
        self.at = 0

    def read_into(self, room: memoryview) -> int:
        assert len(room), "asked for nothing"
        piece = self.data[self.at : self.at + min(len(room), self.most)]
        room[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)


@given(bodies, st.integers(1, 100), st.integers(1, 5000), st.binary(max_size=50))
def test_all_of_the_stream_is_read_and_nothing_behind_it(
    records: list[tuple[int, bytes]], most: int, size: int, behind: bytes
) -> None:
    expected = stream(records)
    source = Input(expected + behind, most)
    tap = LibxcTap(source.read_into)
    found = b""
    while piece := tap.read(size):
        found += piece
    assert found == expected
    assert source.at == len(expected)
    assert tap.read(size) == b""


def test_a_stream_that_is_cut_ends_where_it_ends() -> None:
    data = stream([(1, b"x" * 100)])[:60]
    tap = LibxcTap(Input(data, 7).read_into)
    found = b""
    while piece := tap.read(1000):
        found += piece
    assert found == data
