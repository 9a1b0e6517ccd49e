"""Writing: files that appear whole or not at all, pipes, and file objects."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import stat
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ..errors import OutputError, UsageError
from ..record import Buffer
from .sparse import SparseFile
from .writing import write_all

MODE = 0o600  # an image is a guest's memory, its keys included: not for everyone to read
_numbers = itertools.count()
NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


class Writable(Protocol):
    """A binary file object."""

    def write(self, data: Buffer, /) -> object: ...


class Pace:
    """Holds a sink to a rate: after each write, waits until the average since the first is
    no more than asked for.

    :param bytes_per_s: at least 1.
    """

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._began: float | None = None
        self._bytes = 0

    def passed(self, size_bytes: int) -> None:
        """So many bytes have gone out."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        self._bytes += size_bytes
        ahead = self._bytes / self._bytes_per_s - (now - self._began)
        if ahead > 0:
            time.sleep(ahead)


class Sink:
    """A :class:`xsave.ByteSink`; its output counts only once :meth:`commit` was called.

    :param write_parts: writes all of the parts, which are bytes in one dimension.
    :param commit: makes the output appear.
    :param discard: removes every trace of it; also called after a commit that failed.
    """

    def __init__(
        self,
        write_parts: Callable[[Sequence[memoryview]], None],
        *,
        commit: Callable[[], None] | None = None,
        discard: Callable[[], None] | None = None,
    ) -> None:
        self.offset = 0
        self.pace: Pace | None = None
        self._write_parts = write_parts
        self._commit = commit
        self._discard = discard

    def put(self, parts: Sequence[Buffer]) -> None:
        views = [memoryview(part) for part in parts]
        try:
            self._write_parts([view.cast("B") for view in views if view.nbytes])
        except BrokenPipeError as error:
            raise OutputError("whoever reads the output has gone away") from error
        except OSError as error:
            raise OutputError(f"cannot write the output: {error.strerror or error}") from error
        size = sum(view.nbytes for view in views)
        self.offset += size
        if self.pace is not None:
            self.pace.passed(size)

    @property
    def taken_bytes(self) -> int:
        """All bytes that were put, wherever."""
        return self.offset

    @property
    def is_file(self) -> bool:
        """Whether bytes can be put anywhere: whether it is a :class:`FileSink`."""
        return False

    def drop(self) -> None:
        """From now on nothing is written: the output will not appear, and what is still put
        is put to find out what it is."""
        self._write_parts = lambda _parts: None
        self.pace = None

    def commit(self) -> None:
        """The output is complete: let it appear.

        :raises OutputError: it could not; nothing of it is left (unless the very last step
            failed, flushing the folder: then the file is there, but might not survive a
            power cut).
        """
        commit, self._commit = self._commit, None
        if commit is None:
            return
        try:
            commit()
        except OSError as error:
            raise OutputError(f"cannot finish the output: {error.strerror or error}") from error
        self._discard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        discard, self._discard = self._discard, None
        if discard is not None:
            with contextlib.suppress(OSError):  # what went wrong before says more
                discard()


class FileSink(Sink):
    """A regular file: a :class:`xsave.RandomSink`. Long stretches of zeroes are holes in it.

    :param fd: of the file, which is empty; the rest as for every sink.
    """

    def __init__(self, fd: int, *, commit: Callable[[], None], discard: Callable[[], None]) -> None:
        def finish() -> None:
            self._file.finish()
            commit()

        super().__init__(
            lambda parts: self._file.put(parts, self.offset), commit=finish, discard=discard
        )
        self._fd = fd
        self._file = SparseFile(fd)
        self._is_dropped = False
        self._placed_bytes = 0

    @property
    def taken_bytes(self) -> int:
        return self.offset + self._placed_bytes

    @property
    def is_file(self) -> bool:
        return True

    def drop(self) -> None:
        self._is_dropped = True
        super().drop()

    def put_at(self, offset: int, parts: Sequence[Buffer]) -> None:
        views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        size = sum(view.nbytes for view in views)
        try:
            if not self._is_dropped:
                self._file.put(views, offset)
        except OSError as error:
            raise OutputError(f"cannot write the output: {error.strerror or error}") from error
        self._placed_bytes += size
        if self.pace is not None:
            self.pace.passed(size)

    def get_at(self, offset: int, size_bytes: int) -> memoryview:
        data = memoryview(bytearray(size_bytes))
        done = 0
        try:
            while done < size_bytes and not self._is_dropped:
                nbytes = os.preadv(self._fd, [data[done:]], offset + done)
                if not nbytes:  # behind the end of what was put so far
                    break
                done += nbytes
        except OSError as error:
            raise OutputError(f"cannot read the output back: {error.strerror}") from error
        return data


def open_sink(where: str | os.PathLike[str] | int | Writable, pace: Pace | None = None) -> Sink:
    """See :func:`_open_sink`, held to a pace if one is given."""
    sink = _open_sink(where)
    sink.pace = pace
    return sink


def _open_sink(where: str | os.PathLike[str] | int | Writable) -> Sink:
    """A sink for a path, ``-`` (standard output), a file descriptor, or a file object.

    A regular file appears whole under its name when the sink is committed, and replaces
    an older one only then. Pipes and devices are written as they are.

    :raises OutputError: it cannot be opened. :raises UsageError: it is a terminal.
    """
    if isinstance(where, int):
        return Sink(lambda parts: write_all(where, parts))
    if not isinstance(where, str | os.PathLike):
        return Sink(lambda parts: _write_object(where, parts))
    if where == "-":
        if sys.stdout is not None and os.isatty(1):
            raise UsageError(
                "standard output is a terminal, and an image is no text; "
                "name a file, or pipe the output on"
            )
        return Sink(lambda parts: write_all(1, parts))
    return _open_path(Path(where))


def _open_path(path: Path) -> Sink:
    try:
        special = path.exists() and not stat.S_ISREG(path.stat().st_mode)
        if special:
            return _Special(path).sink
        return _AtomicFile(path).sink
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


class _Special:
    """A device or a named pipe: what is written there is gone."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self.sink = Sink(
            lambda parts: write_all(self._fd, parts), commit=self.close, discard=self.close
        )

    def close(self) -> None:
        fd, self._fd = self._fd, -1  # closed even when closing it fails
        if fd >= 0:
            os.close(fd)


class _AtomicFile:
    """A file without a name until it is whole.

    ``O_TMPFILE`` leaves nothing behind even when the process is killed; where the file
    system has no such thing, a hidden temporary file stands in, which only SIGKILL or a
    power cut can leave.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # write through a symbolic link, as cp does
        which = f"{os.getpid()}.{next(_numbers)}"  # several runs may write in one process
        self._temporary = self._path.with_name(f".{self._path.name}.{which}.xsave-part")
        self._named = False
        folder = self._path.parent
        try:
            self._fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, MODE)
        except OSError as error:
            if error.errno not in NO_TMPFILE:
                raise
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self._temporary, flags, MODE)
            self._named = True
        self.sink = FileSink(self._fd, commit=self.commit, discard=self.discard)

    def commit(self) -> None:
        os.fsync(self._fd)
        if self._path.exists():
            os.fchmod(self._fd, stat.S_IMODE(self._path.stat().st_mode))
        if not self._named:
            with contextlib.suppress(FileNotFoundError):
                self._temporary.unlink()
            # the folder descriptor is not looked at, but makes Python call linkat(2), which
            # alone follows the link that /proc keeps for a file without a name
            os.link(f"/proc/self/fd/{self._fd}", self._temporary, src_dir_fd=self._fd)
            self._named = True
        self._temporary.replace(self._path)
        self._named = False
        self._close()
        try:
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:  # one may write into a folder that one may not read
            return
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        if self._named:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1  # closed even when closing it fails
        if fd >= 0:
            os.close(fd)


def _write_object(file: Writable, parts: Sequence[memoryview]) -> None:
    for part in parts:
        if isinstance(file, io.RawIOBase):
            _write_raw(file, part)
        else:
            file.write(part)


def _write_raw(file: io.RawIOBase, part: memoryview) -> None:
    """Unlike a buffered one it may write less than it is given, and None for nothing."""
    while part:
        written = file.write(part)
        if not written:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        part = part[written:]
