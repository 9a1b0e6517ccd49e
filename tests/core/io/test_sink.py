"""A file appears whole under its name, or not at all; everything else is written as it is."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import Buffer, OutputError, RandomSink, UsageError
from xsave.io.folder import examine_folder
from xsave.io.sink import Sink, open_sink
from xsave.io.writing import WRITE_BYTES, write_all


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def no_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system without O_TMPFILE."""
    really_open = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)


@pytest.fixture(params=["unnamed", "named"])
def either_way(request: pytest.FixtureRequest) -> None:
    """With files that have no name at first, and with hidden ones instead."""
    if request.param == "named":
        request.getfixturevalue("no_unnamed_files")


in_both_ways = pytest.mark.usefixtures("either_way")


@in_both_ways
def test_a_file_appears_whole_when_it_is_committed(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with open_sink(path) as sink:
        sink.put([b"some", bytearray(b" of"), memoryview(b" it")])
        sink.put([])
        sink.put([b"", b"!"])
        assert not path.exists()
        assert sink.offset == 11
        sink.commit()
        assert path.read_bytes() == b"some of it!"
    assert names(tmp_path) == ["image"]
    assert path.read_bytes() == b"some of it!"


@in_both_ways
def test_what_is_not_committed_never_appears(tmp_path: Path) -> None:
    with open_sink(tmp_path / "image") as sink:
        sink.put([b"some of it"])
    assert names(tmp_path) == []


@in_both_ways
def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_sink(tmp_path / "image") as sink:
        sink.put([b"some of it"])
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@in_both_ways
def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old")
    with open_sink(path) as sink:
        sink.put([b"new"])
    assert path.read_bytes() == b"old"
    with open_sink(path) as sink:
        sink.put([b"new"])
        assert path.read_bytes() == b"old"
        sink.commit()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["image"]


@in_both_ways
def test_who_reads_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old")
    with path.open("rb") as reading, open_sink(path) as sink:
        sink.put([b"new"])
        sink.commit()
        assert reading.read() == b"old"


@in_both_ways
def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_sink(tmp_path / "image") as sink:
            sink.commit()
    finally:
        os.umask(before)
    assert mode(tmp_path / "image") == 0o600


@in_both_ways
@pytest.mark.parametrize("kept", [0o644, 0o400, 0o666])
def test_a_file_that_is_replaced_keeps_its_permissions(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old")
    path.chmod(kept)
    with open_sink(path) as sink:
        sink.commit()
    assert mode(path) == kept


@in_both_ways
@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_written_through(exists: bool, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "image", tmp_path / "link"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to(Path("there") / "image")
    with open_sink(link) as sink:
        sink.put([b"new"])
        sink.commit()
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["link", "there"]
    assert names(tmp_path / "there") == ["image"]


@in_both_ways
def test_several_may_write_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with open_sink(path) as one, open_sink(path) as other:
        one.put([b"one"])
        other.put([b"other"])
        other.commit()
        one.commit()
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == ["image"]


@in_both_ways
def test_a_commit_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with open_sink(path) as sink:
        sink.commit()
        path.unlink()
        sink.commit()
    assert names(tmp_path) == []


@in_both_ways
@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_commit_that_fails_leaves_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old")

    def failing(*_args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with (
        pytest.raises(OutputError, match="cannot finish the output: Input/output error"),
        open_sink(path) as sink,
    ):
        sink.put([b"new"])
        monkeypatch.setattr(os, call, failing)
        sink.commit()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["image"]


@in_both_ways
def test_a_folder_that_may_not_be_read_can_be_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opening(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    with open_sink(tmp_path / "image") as sink:
        sink.put([b"new"])
        sink.commit()
    assert (tmp_path / "image").read_bytes() == b"new"


KILLED = """
import sys, time
from xsave.io.sink import open_sink

with open_sink(sys.argv[1]) as sink:
    sink.put([b"some of it"])
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(names(tmp_path)) == (1 if examine_folder(str(tmp_path)).unnamed_files else 2)


@pytest.mark.parametrize("absent", ["absent/image", "file/image"])
def test_a_folder_that_is_not_there_is_told(absent: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=f"cannot write .*{absent}: "):
        open_sink(tmp_path / absent)
    assert names(tmp_path) == ["file"]


def test_a_folder_is_no_destination(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Is a directory"):
        open_sink(tmp_path)


def test_a_failure_other_than_lacking_unnamed_files_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> int:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OutputError, match="Disk quota exceeded"):
        open_sink(tmp_path / "image")


# What is no regular file.


def collect(fd: int, found: bytearray) -> None:
    with os.fdopen(fd, "rb") as reading:
        found += reading.read()


@pytest.mark.parametrize("where", ["descriptor", "-", "named pipe"])
def test_a_pipe_is_written_as_it_is(
    where: str, tmp_path: Path, stand_in: Callable[[int, int], None]
) -> None:
    dest: str | int | Path
    found = bytearray()
    if where == "named pipe":
        dest = tmp_path / "pipe"
        os.mkfifo(dest)
        reading = os.open(dest, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(reading, True)
        writing = -1
    else:
        reading, writing = os.pipe()
        dest = writing
    reader = threading.Thread(target=collect, args=(reading, found))
    if where == "-":
        dest = "-"
        before = os.dup(1)
        os.dup2(writing, 1)
    try:
        with open_sink(dest) as sink:
            reader.start()
            sink.put([b"part ", b"by part"])
            sink.commit()
    finally:
        if where == "-":
            os.dup2(before, 1)
            os.close(before)
        if writing >= 0:
            os.close(writing)
        reader.join()
    assert bytes(found) == b"part by part"
    assert sink.offset == 12


def test_a_device_is_written_as_it_is() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    with open_sink("/dev/null") as sink:
        sink.put([b"gone"])
        sink.commit()
    with open_sink("/dev/null") as sink:
        sink.put([b"gone"])
    assert set(Path("/proc/self/fd").iterdir()) <= before
    assert Path("/dev/null").is_char_device()


def test_a_full_device_is_told() -> None:
    with (
        pytest.raises(OutputError, match="cannot write the output: No space left on device"),
        open_sink("/dev/full") as sink,
    ):
        sink.put([b"x"])


def test_a_device_that_fails_when_it_is_closed_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    really_close = os.close

    def failing(fd: int) -> None:
        really_close(fd)
        raise OSError(errno.EIO, "Input/output error")

    with (
        pytest.raises(OutputError, match="cannot finish the output: Input/output error"),
        open_sink("/dev/null") as sink,
    ):
        monkeypatch.setattr(os, "close", failing)
        sink.commit()


def test_a_terminal_is_no_destination(stand_in: Callable[[int, int], None], terminal: int) -> None:
    stand_in(1, terminal)
    with pytest.raises(UsageError, match="terminal"):
        open_sink("-")


def test_a_reader_that_has_gone_away_is_told() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with (
            pytest.raises(OutputError, match="whoever reads the output has gone away"),
            open_sink(writing) as sink,
        ):
            sink.put([b"x"])
    finally:
        os.close(writing)


def test_a_file_object_is_written_and_stays_open() -> None:
    file = io.BytesIO()
    with open_sink(file) as sink:
        sink.put([b"part ", np.frombuffer(b"by part", np.uint8).data])
        sink.commit()
    assert file.getvalue() == b"part by part"


def test_a_file_object_that_takes_a_little_at_a_time_gets_everything() -> None:
    class Slow(io.RawIOBase):
        def __init__(self) -> None:
            self.found = bytearray()

        def write(self, data: Buffer, /) -> int:  # type: ignore[override]  # one kind of buffer
            piece = bytes(data)[:3]
            self.found += piece
            return len(piece)

    file = Slow()
    with open_sink(file) as sink:
        sink.put([b"part ", b"by part", b""])
        sink.commit()
    assert file.found == b"part by part"
    assert sink.offset == 12


def test_a_file_object_that_takes_nothing_is_told() -> None:
    class Full(io.RawIOBase):
        def write(self, _data: object, /) -> None:
            return None

    with pytest.raises(OutputError, match="temporarily unavailable"), open_sink(Full()) as sink:
        sink.put([b"x"])


def test_a_file_object_that_fails_is_told() -> None:
    class Failing(io.BytesIO):
        def write(self, data: Buffer, /) -> int:  # type: ignore[override]  # one kind of buffer
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="No space left"), open_sink(Failing()) as sink:
        sink.put([b"x"])


# Every byte of every part.


@pytest.mark.parametrize("where", ["file", "object"])
def test_parts_of_many_dimensions_are_bytes(where: str, tmp_path: Path) -> None:
    words = np.arange(24, dtype="<u8").reshape(2, 3, 4)
    path = tmp_path / "image"
    file = io.BytesIO()
    with open_sink(path if where == "file" else file) as sink:
        sink.put([words.data, b"x"])
        assert sink.offset == 24 * 8 + 1
        sink.commit()
    found = path.read_bytes() if where == "file" else file.getvalue()
    assert found == words.tobytes() + b"x"


def test_more_parts_than_one_call_takes_are_written(tmp_path: Path) -> None:
    parts = [bytes([at % 251]) * (at % 7) for at in range(5000)]
    with open_sink(tmp_path / "image") as sink:
        sink.put(parts)
        sink.commit()
    assert (tmp_path / "image").read_bytes() == b"".join(parts)


def test_a_part_that_is_larger_than_one_call_is_written(tmp_path: Path) -> None:
    data = bytes(range(256)) * (3 * WRITE_BYTES // 256) + b"end"
    with open_sink(tmp_path / "image") as sink:
        sink.put([b"begin", data, b"more"])
        sink.commit()
    assert (tmp_path / "image").read_bytes() == b"begin" + data + b"more"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(max_size=20), max_size=20),
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
)
def test_what_the_system_writes_in_part_is_written_whole(
    parts: Sequence[bytes], amounts: Sequence[int]
) -> None:
    found = bytearray()
    turn = 0

    def writev(_fd: int, views: Sequence[memoryview]) -> int:
        nonlocal turn
        turn += 1
        piece = b"".join(views)[: amounts[turn % len(amounts)]]
        found.extend(piece)
        return len(piece)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "writev", writev)
        write_all(1, [memoryview(part) for part in parts if part])
    assert found == b"".join(parts)


def test_a_sink_of_ones_own_needs_no_commit() -> None:
    found: list[bytes] = []
    with Sink(lambda parts: found.extend(map(bytes, parts))) as sink:
        sink.put([b"x"])
        sink.commit()
    assert found == [b"x"]


# Files whose bytes have places.


def test_bytes_go_where_they_belong_and_the_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with open_sink(path) as sink:
        assert isinstance(sink, RandomSink)
        sink.put_at(6, [b"world"])
        sink.put_at(0, [b"hel", b"lo"])
        assert not path.exists()
        assert (sink.offset, sink.taken_bytes) == (0, 10)
        sink.commit()
    assert path.read_bytes() == b"hello\0world"


def test_large_pieces_are_written_whole_at_their_places(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    with open_sink(tmp_path / "out") as sink:
        assert isinstance(sink, RandomSink)
        sink.put_at(5, [data, memoryview(data)])
        sink.commit()
    assert (tmp_path / "out").read_bytes() == bytes(5) + data + data


def test_what_is_dropped_is_not_written_at_its_place_either(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out") as sink:
        assert isinstance(sink, RandomSink)
        sink.drop()
        sink.put_at(100, [b"x"])
        sink.commit()
    assert (tmp_path / "out").read_bytes() == b""


def test_what_was_put_is_read_back(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out") as sink:
        assert isinstance(sink, RandomSink)
        sink.put_at(6, [b"world"])
        assert sink.get_at(4, 5) == b"\0\0wor"
        assert sink.get_at(9, 4) == b"ld\0\0"
        assert sink.get_at(100, 2) == b"\0\0"
        sink.drop()
        assert sink.get_at(6, 2) == b"\0\0"


def test_a_pipe_has_no_places() -> None:
    read_end, write_end = os.pipe()
    try:
        sink = open_sink(write_end)
        assert not sink.is_file
        assert not isinstance(sink, RandomSink)
    finally:
        os.close(read_end)
        os.close(write_end)
