"""A file with holes has the bytes that were put, whatever was put where before."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import OutputError
from xsave.io import allocation
from xsave.io.sink import FileSink, open_sink
from xsave.io.sparse import BLOCK_BYTES, HOLE_BYTES, zero_stretches
from xsave.io.writing import WRITE_BYTES

ZEROES = bytes(HOLE_BYTES)
MIB = 1 << 20


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


@contextmanager
def a_file(path: Path) -> Iterator[FileSink]:
    with open_sink(path) as sink:
        assert isinstance(sink, FileSink)
        yield sink


# Long stretches of zeroes, on and beside the edges of blocks, and what is none quite.
sizes = st.one_of(
    st.integers(0, 20),
    st.builds(
        lambda blocks, beside: max(blocks * BLOCK_BYTES + beside, 0),
        st.sampled_from([1, 2, 15, 16, 17, 18, 40]),
        st.sampled_from([0, 0, 0, -1, 1, 8, -8, 100]),
    ),
)
pieces = st.tuples(sizes, st.sampled_from(["zero", "zero", "full", "begins with zeroes"]))


def piece(size_bytes: int, kind: str) -> bytes:
    if kind == "zero":
        return bytes(size_bytes)
    if kind == "full":
        return bytes(1 + at % 255 for at in range(257)) * (size_bytes // 257) + b"\1" * (
            size_bytes % 257
        )
    return (bytes(BLOCK_BYTES - 1) + b"\2") * (size_bytes // BLOCK_BYTES)


parts = st.lists(pieces.map(lambda drawn: piece(*drawn)), max_size=5)
places = st.one_of(
    st.just(0),
    st.builds(
        lambda blocks, beside: blocks * BLOCK_BYTES + beside,
        st.integers(0, 80),
        st.sampled_from([0, 0, 1, 8, 4095]),
    ),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.just(0), parts),
        st.tuples(st.just("put_at"), places, parts),
        st.tuples(st.just("get_at"), places, parts),
    ),
    max_size=8,
)


def follow(model: bytearray, offset: int, data: bytes) -> None:
    if data:
        model.extend(bytes(max(0, offset + len(data) - len(model))))
        model[offset : offset + len(data)] = data


def lacking(*names: str) -> Any:
    """A C library without these functions."""
    real = allocation._of_c_library
    return lambda name: None if name in names else real(name)


FILE_SYSTEMS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one that is told what to make room for": {"_kind_of_file_system": lambda _fd: allocation.EXT4},
    "one that makes no room": {"_kind_of_file_system": lambda _fd: 0},
    "one without fallocate": {"_fallocate": lambda *_arguments: False},
    "a C library without fallocate": {"_of_c_library": lacking("fallocate", "fallocate64")},
    "a C library without fstatfs": {"_of_c_library": lacking("fstatfs")},
}


@pytest.mark.parametrize("system", FILE_SYSTEMS)
@settings(max_examples=40, deadline=None)
@given(steps=steps)
def test_whatever_is_put_wherever_the_file_has_it_in_the_end(
    system: str, steps: Sequence[tuple[str, int, list[bytes]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "whatever"
    model = bytearray()
    with pytest.MonkeyPatch.context() as patch:
        for name, function in FILE_SYSTEMS[system].items():
            patch.setattr(allocation, name, function)
        patch.setattr(os, "fsync", lambda _fd: None)  # waits for the disk
        with a_file(path) as sink:
            for what, offset, some in steps:
                data = b"".join(some)
                if what == "put":
                    follow(model, sink.offset, data)
                    sink.put(some)
                elif what == "put_at":
                    follow(model, offset, data)
                    sink.put_at(offset, some)
                else:
                    found = bytes(model[offset : offset + len(data)])
                    assert sink.get_at(offset, len(data)) == found.ljust(len(data), b"\0")
            sink.commit()
    assert path.read_bytes() == model


@given(st.lists(pieces, min_size=1, max_size=4), st.integers(0, 2 * BLOCK_BYTES))
def test_a_stretch_is_of_whole_blocks_of_zeroes_and_none_is_missed(
    drawn: Sequence[tuple[int, str]], offset: int
) -> None:
    data = b"".join(piece(*one) for one in drawn)
    found = list(zero_stretches(memoryview(data), offset))
    for start, stop in found:
        assert (offset + start) % BLOCK_BYTES == (offset + stop) % BLOCK_BYTES == 0
        assert stop - start >= HOLE_BYTES
        assert not any(data[start:stop])
    chosen = bytearray(len(data))
    for start, stop in found:
        chosen[start:stop] = b"\1" * (stop - start)
    run = 0
    for at in range(-offset % BLOCK_BYTES, len(data) - BLOCK_BYTES + 1, BLOCK_BYTES):
        left = not chosen[at] and not any(data[at : at + BLOCK_BYTES])
        run = run + 1 if left else 0
        assert run * BLOCK_BYTES < HOLE_BYTES


# Holes.


@pytest.mark.parametrize("header", [0, 8, 4095])
def test_many_zeroes_in_a_row_take_no_room(header: int, tmp_path: Path) -> None:
    path = tmp_path / "image"
    with a_file(path) as sink:
        sink.put([b"x" * header, bytes(8 * MIB), b"end"])
        sink.commit()
    assert path.read_bytes() == b"x" * header + bytes(8 * MIB) + b"end"
    assert on_disk(path) <= HOLE_BYTES


def test_a_hole_at_the_end_is_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with a_file(path) as sink:
        sink.put([b"begin", bytes(8 * MIB)])
        assert bytes(sink.get_at(4, 4)) == b"n\0\0\0"
        sink.commit()
    assert path.stat().st_size == 5 + 8 * MIB
    assert on_disk(path) <= HOLE_BYTES


def test_zeroes_over_what_was_put_before_are_zeroes(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with a_file(path) as sink:
        sink.put_at(0, [b"old" * MIB])
        sink.put([b"new", bytes(2 * MIB)])
        assert not any(sink.get_at(3, 2 * MIB))
        sink.commit()
    found = path.read_bytes()
    assert found[: 3 + 2 * MIB] == b"new" + bytes(2 * MIB)
    assert found[3 + 2 * MIB :] == (b"old" * MIB)[3 + 2 * MIB :]
    if os.statvfs(tmp_path).f_bsize == BLOCK_BYTES:
        assert on_disk(path) <= MIB + HOLE_BYTES


def test_few_zeroes_are_written_like_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "image"
    data = (b"x" * BLOCK_BYTES + bytes(HOLE_BYTES - BLOCK_BYTES)) * 16
    with a_file(path) as sink:
        sink.put([data])
        sink.commit()
    assert path.read_bytes() == data
    assert on_disk(path) >= len(data)


def test_no_more_room_is_made_than_the_file_needs(tmp_path: Path) -> None:
    path = tmp_path / "image"
    data = np.random.default_rng(1).bytes(3 * MIB)
    with a_file(path) as sink:
        for at in range(0, len(data), 100_000):
            sink.put([data[at : at + 100_000]])
        sink.commit()
    assert path.read_bytes() == data
    assert on_disk(path) <= len(data) + HOLE_BYTES


def test_small_files_need_no_numpy_and_no_c_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*_arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(allocation, "_of_c_library", unwanted)
    monkeypatch.setattr(np, "frombuffer", unwanted)
    with a_file(tmp_path / "image") as sink:
        sink.put([bytes(1000), b"x" * 1000])
        sink.put_at(10_000, [bytes(HOLE_BYTES - 1)])
        sink.commit()
    assert (tmp_path / "image").stat().st_size == 10_000 + HOLE_BYTES - 1


# What fails.


PUT = [b"head", b"x" * WRITE_BYTES, ZEROES * 4, b"y" * WRITE_BYTES, b"tail"]


@pytest.mark.parametrize("before", range(5))
@pytest.mark.parametrize("at_its_place", [False, True])
def test_a_write_that_fails_at_any_moment_is_told_and_leaves_nothing(
    before: int, at_its_place: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_write = os.pwritev
    calls = 0

    def failing(fd: int, views: Sequence[memoryview], offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls > before:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really_write(fd, views, offset)

    monkeypatch.setattr(os, "pwritev", failing)
    with (
        pytest.raises(OutputError, match="cannot write the output: No space left on device"),
        a_file(tmp_path / "image") as sink,
    ):
        for _ in range(2):
            if at_its_place:
                sink.put_at(100, PUT)
            else:
                sink.put(PUT)
        sink.commit()
    assert calls == before + 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_grows_too_large_is_told(tmp_path: Path) -> None:
    """By the system itself, which refuses to make room for it too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with (
            pytest.raises(OutputError, match="cannot write the output: File too large"),
            a_file(tmp_path / "image") as sink,
        ):
            for _ in range(4):
                sink.put([b"x" * (MIB // 2)])
            sink.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_become_as_long_as_it_is_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_arguments: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "ftruncate", failing)
    with (
        pytest.raises(OutputError, match="cannot finish the output: File too large"),
        a_file(tmp_path / "image") as sink,
    ):
        sink.put([bytes(MIB)])
        sink.commit()
    assert list(tmp_path.iterdir()) == []


def test_what_was_dropped_leaves_no_file_of_any_length(tmp_path: Path) -> None:
    with a_file(tmp_path / "image") as sink:
        sink.drop()
        sink.put([bytes(MIB)])
        sink.put_at(MIB, [bytes(MIB)])
        assert sink.taken_bytes == 2 * MIB
        sink.commit()
    assert (tmp_path / "image").stat().st_size == 0


# What is no regular file has no holes.


@pytest.mark.parametrize("where", ["named pipe", "-"])
def test_zeroes_go_through_a_pipe(where: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    found = bytearray()

    def collect() -> None:
        with path.open("rb") as reading:
            found.extend(reading.read())

    reader = threading.Thread(target=collect)
    reader.start()
    kept = os.dup(1)
    try:
        if where == "-":
            with path.open("wb") as writing:
                os.dup2(writing.fileno(), 1)
        with open_sink(path if where != "-" else "-") as sink:
            sink.put([b"begin", bytes(MIB)])
            sink.commit()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        reader.join()
    assert found == b"begin" + bytes(MIB)
