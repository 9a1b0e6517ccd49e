"""Whatever the bytes come from, a source gives them in order, once, and says where they end."""

from __future__ import annotations

import io
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xsave import RandomSource, SourceError, TruncatedError, UsageError
from xsave.io.source import (
    BUFFER_BYTES,
    LARGEST_PIECE,
    POOLED_BYTES,
    FileImage,
    Hasher,
    Source,
    open_source,
)

DATA = np.random.default_rng(1).integers(0, 256, 3 * BUFFER_BYTES + 4321, np.uint8).tobytes()
KINDS = ("path", "text path", "descriptor", "pipe", "object", "object that reads", "short reads")


class Short(io.RawIOBase):
    """Gives fewer bytes than it was asked for, as sockets do."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._turn = 0

    def readable(self) -> bool:
        return True

    def readinto(self, room: memoryview) -> int:  # type: ignore[override]  # one kind of buffer
        self._turn += 1
        piece = self._data[self._at :][: min(len(room), 1 + 997 * (self._turn % 5))]
        room[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


class OnlyReads:
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)


@contextmanager
def opened(
    kind: str, folder: Path, data: bytes = DATA, hasher: Hasher | None = None
) -> Iterator[Source]:
    with ExitStack() as stack:
        path = folder / "data"
        if kind in {"path", "text path", "descriptor"} and not path.exists():
            path.write_bytes(data)
        where: str | Path | int | io.BytesIO | Short | OnlyReads
        match kind:
            case "path":
                where = path
            case "text path":
                where = str(path)
            case "descriptor":
                where = os.open(path, os.O_RDONLY)
                stack.callback(os.close, where)
            case "pipe":
                where = stack.enter_context(pipe_with(data))
            case "object":
                where = io.BytesIO(data)
            case "object that reads":
                where = OnlyReads(data)
            case _:
                where = Short(data)
        yield stack.enter_context(open_source(where, hasher=hasher))


@contextmanager
def pipe_with(data: bytes) -> Iterator[int]:
    """The end to read from; somebody writes at the other, as long as it is read."""
    reading, writing = os.pipe()

    def write() -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(writing, rest) :]
        except BrokenPipeError:
            pass
        finally:
            os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield reading
    finally:
        os.close(reading)
        writer.join()


sizes = st.one_of(
    st.integers(0, 64),
    st.integers(BUFFER_BYTES - 2, BUFFER_BYTES + 2),
    st.integers(0, len(DATA)),
)
steps = st.lists(st.tuples(st.sampled_from(["take", "skip", "peek", "at_end"]), sizes), max_size=12)


def descriptors() -> set[Path]:
    """All that are open, and the one that looked."""
    return set(Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_comes_once_and_in_order(kind: str, tmp_path: Path) -> None:
    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(steps)
    def check(steps: Sequence[tuple[str, int]]) -> None:
        with opened(kind, tmp_path) as source:
            follow(source, steps)

    check()


def follow(source: Source, steps: Sequence[tuple[str, int]]) -> None:
    at = 0
    for verb, size_bytes in steps:
        assert source.offset == at
        rest = DATA[at:]
        if verb == "peek":
            assert source.peek(size_bytes) == rest[: min(size_bytes, BUFFER_BYTES)]
        elif verb == "at_end":
            assert source.at_end() == (not rest)
        elif size_bytes > len(rest):
            with pytest.raises(TruncatedError):
                getattr(source, verb)(size_bytes, "something")
            return
        elif verb == "take":
            assert source.take(size_bytes, "something") == rest[:size_bytes]
            at += size_bytes
        else:
            source.skip(size_bytes, "something")
            at += size_bytes


@given(steps)
@settings(max_examples=100, deadline=None)
def test_without_reading_ahead_nothing_is_taken_that_nobody_asked_for(
    steps: Sequence[tuple[str, int]],
) -> None:
    file = io.BytesIO(DATA)
    source = open_source(file, ahead=False)
    seen = 0
    for verb, size_bytes in steps:
        before = source.offset
        if verb == "peek":
            assert source.peek(size_bytes) == DATA[before:][: min(size_bytes, BUFFER_BYTES)]
            seen = max(seen, before + min(size_bytes, BUFFER_BYTES))
        elif verb == "at_end":
            assert source.at_end() == (before == len(DATA))
            seen = max(seen, before + 1)
        elif size_bytes <= len(DATA) - before:
            getattr(source, verb)(size_bytes, "something")
            seen = max(seen, before + size_bytes)
        assert file.tell() == min(seen, len(DATA))


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_known_of_files_only(kind: str, tmp_path: Path) -> None:
    with opened(kind, tmp_path) as source:
        regular = kind in {"path", "text path", "descriptor"}
        assert source.size_bytes == (len(DATA) if regular else None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["take", "skip"])
@pytest.mark.parametrize("wanted", [200, BUFFER_BYTES + 1, POOLED_BYTES + 1, 1 << 40])
def test_a_cut_input_says_what_is_cut_and_where(
    kind: str, verb: str, wanted: int, tmp_path: Path
) -> None:
    with opened(kind, tmp_path, DATA[:150]) as source:
        source.take(50, "a header")
        with pytest.raises(TruncatedError) as caught:
            getattr(source, verb)(wanted, "the body")
    error = caught.value
    assert (error.what, error.offset, error.got) == ("the body", 50, "100")
    assert str(error) == (
        f"the image is cut: the body at offset 0x32: expected {wanted} bytes, got 100"
    )


@pytest.mark.parametrize("kind", ["path", "pipe"])
def test_a_length_that_lies_costs_no_memory(kind: str, tmp_path: Path) -> None:
    with opened(kind, tmp_path) as source:
        tracemalloc.start()
        try:
            with pytest.raises(TruncatedError):
                source.take(1 << 40, "the body")
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 2 * LARGEST_PIECE


@pytest.mark.parametrize("kind", ["path", "pipe", "short reads"])
def test_a_large_piece_comes_whole(kind: str, tmp_path: Path) -> None:
    data = DATA * (2 * LARGEST_PIECE // len(DATA) + 2)
    if kind == "short reads":
        data = data[: POOLED_BYTES + 5]
    with opened(kind, tmp_path, data) as source:
        head = source.take(7, "a header")
        assert bytes(head) + bytes(source.take(len(data) - 9, "the body")) == data[:-2]
        assert source.peek(9) == data[-2:]


@pytest.mark.parametrize("size_bytes", [10, BUFFER_BYTES + 1, POOLED_BYTES + 1])
def test_what_was_taken_may_be_kept(size_bytes: int, tmp_path: Path) -> None:
    data = DATA * (3 * size_bytes // len(DATA) + 1)
    with opened("path", tmp_path, data) as source:
        first = source.take(size_bytes, "first")
        second = source.take(size_bytes, "second")
    assert first == data[:size_bytes]
    assert second == data[size_bytes:][:size_bytes]


def look_through_array(view: memoryview) -> memoryview:
    return np.frombuffer(view, np.uint8).reshape(1, -1)[0, 5:].data


LOOKS: dict[str, Callable[[memoryview], memoryview]] = {
    "whole": lambda view: view,
    "part": lambda view: view[10:-10],
    "view of a view": lambda view: memoryview(view)[1:][1:],
    "array": look_through_array,
}
takes = st.lists(
    st.tuples(
        st.integers(BUFFER_BYTES + 1, BUFFER_BYTES + 300),
        st.sampled_from(sorted(LOOKS)),
        st.integers(0, 3),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(takes)
def test_memory_is_not_used_again_while_anything_looks_at_it(
    takes: Sequence[tuple[int, str, int]],
) -> None:
    value = 0

    def fill(room: memoryview) -> int:
        room[:] = bytes([value]) * len(room)
        return len(room)

    source = Source(fill)
    held: list[tuple[int, memoryview]] = []
    for value, (size_bytes, look, nr_dropped) in enumerate(takes, 1):  # fill gives it
        view = LOOKS[look](source.take(size_bytes, "pages"))
        held.append((value, view))
        del view
        del held[:nr_dropped]
        for expected, kept in held:
            assert kept == bytes([expected]) * len(kept)


def test_memory_that_nobody_looks_at_is_used_again() -> None:
    source = Source(len)
    addresses = set()
    for _ in range(20):
        view = source.take(1 << 20, "pages")
        addresses.add(np.frombuffer(view, np.uint8).ctypes.data)
        del view
    assert len(addresses) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_hasher_is_shown_every_byte_in_order(kind: str, tmp_path: Path) -> None:
    shown = bytearray()

    def hasher(piece: memoryview) -> None:
        shown.extend(piece)

    with opened(kind, tmp_path, hasher=hasher) as source:
        source.peek(100)
        source.take(10, "a header")
        source.skip(5, "near")
        source.skip(BUFFER_BYTES, "far")
        source.take(BUFFER_BYTES + 1, "pages")
        source.skip(len(DATA) - source.offset, "the rest")
        assert source.at_end()
    assert bytes(shown) == DATA


def test_skipping_in_a_file_reads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"last")
    with open_source(path) as source:
        source.take(3, "a header")
        source.skip((1 << 40) - 3, "a terabyte")
        assert bytes(source.take(4, "the end")) == b"last"
        assert source.at_end()


def test_a_descriptor_is_read_from_where_it_is_and_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"before|after")
    with path.open("rb", buffering=0) as file:
        file.seek(7)
        with open_source(file.fileno()) as source:
            assert source.size_bytes == 5
            assert bytes(source.take(5, "all")) == b"after"
            with pytest.raises(TruncatedError):
                source.skip(BUFFER_BYTES, "more")
        assert file.tell() == 12


def test_a_file_object_stays_open() -> None:
    file = io.BytesIO(b"abc")
    with open_source(file) as source:
        source.take(3, "all")
    assert not file.closed


def test_a_path_is_closed_once(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x")
    before = descriptors()
    with open_source(path) as source:
        source.close()
    assert descriptors() <= before


def test_standard_input_is_a_source(stand_in: Callable[[int, int], None]) -> None:
    with pipe_with(DATA) as reading:
        stand_in(0, reading)
        with open_source("-") as source:
            assert source.take(len(DATA), "all") == DATA
            assert source.at_end()


def test_a_terminal_is_no_source(stand_in: Callable[[int, int], None], terminal: int) -> None:
    stand_in(0, terminal)
    with pytest.raises(UsageError, match="terminal"):
        open_source("-")


def test_an_absent_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot open .*absent: No such file"):
        open_source(tmp_path / "absent")


def test_a_folder_is_no_source_and_nothing_stays_open(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(SourceError, match="it is a folder"):
        open_source(tmp_path)
    assert descriptors() <= before


def test_a_source_that_fails_says_why() -> None:
    class Failing(OnlyReads):
        def read(self, size: int = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with (
        open_source(Failing(b"")) as source,
        pytest.raises(SourceError, match="cannot read the source: Input/output error"),
    ):
        source.take(1, "a byte")


def test_a_file_image_is_read_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with FileImage(path) as image:
        assert image.size_bytes == len(DATA)
        for offset, size_bytes in ((len(DATA) - 3, 3), (0, len(DATA)), (77, 0), (5, 1000)):
            assert image.read_at(offset, size_bytes, "a piece") == DATA[offset:][:size_bytes]


def test_large_pieces_of_a_file_image_stay_as_they_are_while_somebody_holds_them(
    tmp_path: Path,
) -> None:
    size = POOLED_BYTES - 8
    path = tmp_path / "data"
    path.write_bytes(b"".join(bytes([number]) * size for number in range(6)))
    with FileImage(path) as image:
        held = [image.read_at(number * size, size, "a body") for number in range(4)]
        held[1:3] = []
        held += [image.read_at(number * size, size, "a body") for number in (4, 5)]
        assert [bytes(piece[:1]) for piece in held] == [b"\0", b"\3", b"\4", b"\5"]
        assert all(piece == bytes(piece[:1]) * size for piece in held)


@pytest.mark.parametrize(("offset", "got"), [(len(DATA) - 3, "3"), (1 << 63, "0")])
def test_a_file_image_says_what_is_cut(offset: int, got: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with FileImage(path) as image, pytest.raises(TruncatedError) as caught:
        image.read_at(offset, 4, "the index")
    assert (caught.value.what, caught.value.offset, caught.value.got) == ("the index", offset, got)


def test_an_absent_file_image_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="absent"):
        FileImage(tmp_path / "absent")


def test_a_descriptor_that_is_closed_is_a_source_error() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    os.close(read_end)
    with pytest.raises(SourceError, match="cannot read the source: Bad file descriptor"):
        open_source(read_end)


def test_an_input_that_lies_in_a_file_is_read_from_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"0123456789")
    with open_source(path) as source:
        assert isinstance(source, RandomSource)
        assert source.take(3, "head") == b"012"
        assert source.read_at(7, 3, "tail") == b"789"
        assert (source.offset, bytes(source.take(1, "next"))) == (3, b"3")
        with pytest.raises(TruncatedError, match="tail at offset 0x9: expected 2 bytes, got 1"):
            source.read_at(9, 2, "tail")
    with path.open("rb") as file:
        file.seek(4)
        source = open_source(file.fileno())
        assert isinstance(source, RandomSource)
        assert source.read_at(0, 2, "head") == b"45"
    with open_source(io.BytesIO(b"01")) as source:
        assert not isinstance(source, RandomSource)
