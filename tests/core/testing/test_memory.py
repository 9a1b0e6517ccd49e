"""Memory that stands in for files and pipes keeps their contracts to the letter."""

from __future__ import annotations

import pytest

from xsave import ByteSink, ByteSource, RandomAccess, TruncatedError
from xsave.testing import MemoryPipe, MemorySink, MemorySource

DATA = bytes(range(100))


def test_they_are_what_the_contracts_ask_for() -> None:
    source: ByteSource = MemorySource(DATA)
    pipe: ByteSource = MemoryPipe(DATA)
    image: RandomAccess = MemorySource(DATA)
    sink: ByteSink = MemorySink()
    assert (source.size_bytes, pipe.size_bytes) == (100, None)
    assert (image.size_bytes, sink.offset) == (100, 0)


@pytest.mark.parametrize("kind", [MemorySource, MemoryPipe])
def test_bytes_are_taken_once_and_in_order(kind: type[MemorySource]) -> None:
    source = kind(DATA)
    assert source.peek(3) == DATA[:3]
    assert source.take(2, "a") == DATA[:2]
    source.skip(90, "b")
    assert source.offset == 92
    assert not source.at_end()
    assert source.peek(4096) == DATA[92:]
    assert source.take(8, "c") == DATA[92:]
    assert source.at_end()
    assert len(source.take(0, "d")) == 0


def test_what_was_taken_is_memory_of_its_own() -> None:
    source = MemorySource(DATA)
    first = source.take(10, "a")
    first[:] = bytes(10)
    assert source.read_at(0, 10, "a") == DATA[:10]


def test_an_early_end_says_what_and_where() -> None:
    for act in ("take", "skip"):
        source = MemorySource(DATA)
        source.skip(98, "a")
        with pytest.raises(TruncatedError, match="body at offset 0x62: expected 3 bytes, got 2"):
            getattr(source, act)(3, "body")
        assert source.offset == 98
    with pytest.raises(TruncatedError, match="index at offset 0x60: expected 8 bytes, got 4"):
        MemorySource(DATA).read_at(96, 8, "index")


def test_a_length_without_bounds_is_the_readers_fault() -> None:
    source = MemorySource(DATA, take_max_bytes=50)
    with pytest.raises(AssertionError, match="body: asked for 51 bytes"):
        source.take(51, "body")
    with pytest.raises(AssertionError, match="body: asked for 51 bytes"):
        source.read_at(0, 51, "body")


def test_parts_that_were_put_may_be_reused() -> None:
    sink, part = MemorySink(), bytearray(b"ab")
    sink.put([part, b"cd", memoryview(b"ef")])
    part[:] = b"xx"
    sink.put([])
    assert sink.data == b"abcdef"
    assert sink.offset == 6
