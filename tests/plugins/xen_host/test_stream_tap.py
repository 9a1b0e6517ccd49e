from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from xsave_plugins.xen_host.stream_tap import StreamTap

GOLDEN = Path(__file__).parents[2] / "golden" / "native"
END = struct.pack("<II", 0, 0)
bodies = st.lists(st.tuples(st.integers(1, 0xFFFFFFFF), st.binary(max_size=40)), max_size=8)


def stream(records: list[tuple[int, bytes]]) -> bytes:
    made = bytes(range(40))
    for kind, body in records:
        made += struct.pack("<II", kind, len(body)) + body + bytes(-len(body) & 7)
    return made + END


def native(pieces: list[tuple[int, bytes, bytes, bytes]]) -> bytes:
    """Framed as the format says; sums are none of the tap's business."""
    made = struct.pack("<8sHHIQ", b"\x89XSV\r\n\x1a\n", 1, 0, 13, 0) + bytes(16)
    for kind, head, table, body in [*pieces, (5, b"end", b"", b"")]:
        padding = -(len(head) + len(table)) & 7
        made += struct.pack(
            "<4sBBHIIQQ", b"xsvp", kind, 3, padding, len(head), len(table), len(body), 0
        )
        made += head + table + bytes(padding) + body + bytes(-len(body) & 7)
    return made + bytes(16)


pieces = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 4, 128]), st.binary(max_size=20), st.binary(max_size=20),
              st.binary(max_size=40)), max_size=8,
)  # fmt: skip


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


def check(expected: bytes, most: int, size: int, behind: bytes) -> None:
    source = Input(expected + behind, most)
    tap = StreamTap(source.read_into)
    found = b""
    while piece := tap.read(size):
        found += piece
    assert found == expected
    assert source.at == len(expected)
    assert tap.read(size) == b""


@given(bodies, st.integers(1, 100), st.integers(1, 5000), st.binary(max_size=50))
def test_all_of_a_libxc_stream_is_read_and_nothing_behind_it(
    records: list[tuple[int, bytes]], most: int, size: int, behind: bytes
) -> None:
    check(stream(records), most, size, behind)


@given(pieces, st.integers(1, 100), st.integers(1, 5000), st.binary(max_size=50))
def test_all_of_a_native_stream_is_read_and_nothing_behind_it(
    found: list[tuple[int, bytes, bytes, bytes]], most: int, size: int, behind: bytes
) -> None:
    check(native(found), most, size, behind)


def test_an_image_as_it_is_written_is_read_to_its_end() -> None:
    for file in sorted(GOLDEN.glob("*.xsv")):
        check(file.read_bytes(), 1 << 20, 1 << 16, b"behind")


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_end_where_they_end(data: bytes, size: int) -> None:
    for begin in (b"", b"\x89XSV\r\n\x1a\n"):
        source = Input(begin + data, 1000)
        tap = StreamTap(source.read_into)
        found = b""
        while piece := tap.read(size):
            found += piece
        assert (begin + data).startswith(found)
        assert source.at == len(found)


def test_a_stream_that_is_cut_ends_where_it_ends() -> None:
    data = stream([(1, b"x" * 100)])[:60]
    tap = StreamTap(Input(data, 7).read_into)
    found = b""
    while piece := tap.read(1000):
        found += piece
    assert found == data
