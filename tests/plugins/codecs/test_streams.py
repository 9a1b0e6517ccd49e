"""Stand-alone compressed files, unpacked in bounded pieces."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tracemalloc
from collections.abc import Callable

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import Codec, FieldError, StreamError, TruncatedError, UsageError
from xsave_plugins.codecs import brotli, none
from xsave_plugins.codecs.bzip2 import Bzip2Codec
from xsave_plugins.codecs.gzip import GzipCodec
from xsave_plugins.codecs.lz4 import Lz4Codec
from xsave_plugins.codecs.xz import XzCodec
from xsave_plugins.codecs.zstd import ZstdCodec, _library

zstd = _library()
STREAMS: dict[str, tuple[Codec, Callable[[bytes], bytes]]] = {
    "zstd": (ZstdCodec(), zstd.compress),
    "lz4": (Lz4Codec(), lz4.frame.compress),
    "gzip": (GzipCodec(), gzip.compress),
    "xz": (XzCodec(), lambda data: lzma.compress(data, preset=0)),  # a small dictionary
    "bzip2": (Bzip2Codec(), bz2.compress),
}
SKIPPABLE = bytes.fromhex("502a4d18 05000000") + b"aside"

each_codec = pytest.mark.parametrize("name", STREAMS)


def unpack(name: str, packed: bytes, step: int = 4096, piece: int = 1 << 20) -> bytes:
    """:param piece: how much the file gives at once, at most."""
    file = io.BytesIO(packed)
    read = STREAMS[name][0].open_stream(lambda n: file.read(min(n, piece)))
    parts = []
    while part := read(step):
        assert len(part) <= step
        parts.append(part)
    assert read(step) == b""
    return b"".join(parts)


@each_codec
@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(st.binary(max_size=2000), min_size=1, max_size=4),
    step=st.integers(1, 3000),
    piece=st.integers(1, 3000),
)
def test_frames_one_after_the_other_are_one_file(
    name: str, frames: list[bytes], step: int, piece: int
) -> None:
    packed = b"".join(STREAMS[name][1](frame) for frame in frames)
    assert packed.startswith(STREAMS[name][0].magic)
    assert unpack(name, packed, step, piece) == b"".join(frames)


@each_codec
def test_large_blocks_come_in_the_pieces_asked_for(name: str) -> None:
    data = os.urandom(3000) * 1000
    assert unpack(name, STREAMS[name][1](data), 70_001) == data


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_skippable_frames_are_passed_over(name: str) -> None:
    pack = STREAMS[name][1]
    packed = pack(b"one") + SKIPPABLE + pack(b"") + SKIPPABLE + pack(b"two") + SKIPPABLE
    assert unpack(name, packed) == b"onetwo"


@each_codec
def test_thousands_of_tiny_frames_are_no_trouble(name: str) -> None:
    pack = STREAMS[name][1]
    assert unpack(name, pack(b"") * 20_000 + pack(b"end")) == b"end"


@each_codec
@pytest.mark.parametrize("before", [b"", b"first frame"])
def test_a_file_cut_anywhere_is_said_to_be_cut(name: str, before: bytes) -> None:
    pack = STREAMS[name][1]
    head = pack(before) if before else b""
    tail = pack(b"some text, some more text, and some text again" * 3)
    for nr_bytes in range(1 if before else 0, len(tail)):
        with pytest.raises(
            TruncatedError, match=f"{name} file at offset {len(head) + nr_bytes:#x}"
        ):
            unpack(name, head + tail[:nr_bytes])


@each_codec
@pytest.mark.parametrize("tail", [b"neither frame nor anything", bytes(512)])
def test_junk_after_a_frame_is_refused(name: str, tail: bytes) -> None:
    with pytest.raises(FieldError, match=f"{name} file: expected whole {name} frames"):
        unpack(name, STREAMS[name][1](b"data") + tail)


@each_codec
@settings(max_examples=100, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_damage_is_a_stream_error_or_goes_unnoticed_but_never_anything_else(
    name: str, where: float, bit: int
) -> None:
    packed = bytearray(STREAMS[name][1](b"some text, some more, and some text again" * 50))
    packed[int(len(packed) * where)] ^= 1 << bit
    try:
        unpack(name, bytes(packed))
    except StreamError as error:
        assert name in str(error)


@each_codec
def test_a_bomb_takes_no_more_memory_than_the_pieces(name: str) -> None:
    bomb = STREAMS[name][1](bytes(256 << 20))
    file = io.BytesIO(bomb)
    tracemalloc.start()
    try:
        read = STREAMS[name][0].open_stream(file.read)
        total = 0
        while part := read(1 << 20):
            total += len(part)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 256 << 20
    assert peak < 8 << 20


@each_codec
def test_reading_nothing_yields_nothing_and_loses_nothing(name: str) -> None:
    file = io.BytesIO(STREAMS[name][1](b"data"))
    read = STREAMS[name][0].open_stream(file.read)
    assert read(0) == b""
    assert read(9) == b"data"


@pytest.mark.parametrize("codec", [none.NoneCodec(), brotli.BrotliCodec()])
def test_codecs_without_a_magic_have_no_files(codec: Codec) -> None:
    assert codec.magic == b""
    with pytest.raises(UsageError, match="no stand-alone files"):
        codec.open_stream(io.BytesIO().read)
