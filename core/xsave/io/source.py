"""Reading: files, pipes and file objects as a :class:`xsave.ByteSource`."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ..errors import SourceError, TruncatedError, UsageError

# Holds a record's header and the entries of a usual batch (8 KiB) in one read, and little
# of the page contents after them, which are read straight into memory of their own.
BUFFER_BYTES = 32 << 10
POOLED_BYTES = 4 << 20  # the contents of a usual batch
POOLED_BUFFERS = 8
# Allocated as bytes arrive, so that a length in a cut or hostile input costs nothing.
LARGEST_PIECE = 8 << 20

# What is passed over without seeking goes through one piece of memory of this size, so that
# a hasher finds it in the processor's second cache: 0.70 s for 4.3 GB, where pieces of
# 32 KiB took 0.84 and of 4 MiB 0.94.
SKIPPED_BYTES = 256 << 10

ReadInto = Callable[[memoryview], int]
Hasher = Callable[[memoryview], None]


class Readable(Protocol):
    """A binary file object."""

    def read(self, size: int = -1, /) -> bytes: ...


class Source:
    """A :class:`ByteSource` over anything that can fill a buffer.

    :param read_into: fills the beginning of a buffer; returns the count, 0 at the end.
    :param size_bytes: of the whole input, None if not known.
    :param seek: moves the input forward by so many bytes; None where it cannot.
    :param hasher: is shown every byte that is taken; bytes that are skipped by seeking
        are not shown, so give ``seek=None`` to have all of them.
    :param ahead: read more than is asked for, where that saves reads. Without it, no byte is
        taken from the input that nobody took or looked at here.
    """

    def __init__(
        self,
        read_into: ReadInto,
        *,
        size_bytes: int | None = None,
        seek: Callable[[int], None] | None = None,
        hasher: Hasher | None = None,
        close: Callable[[], None] | None = None,
        ahead: bool = True,
    ) -> None:
        self.size_bytes = size_bytes
        self.ahead = ahead
        self.offset = 0
        self._read_into = read_into
        self._seek = seek
        self._hasher = hasher
        self._close = close
        self._pool = _Pool()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0
        self._skipped: memoryview | None = None  # room for what is passed over

    def _read(self, room: memoryview) -> int:
        try:
            nbytes = self._read_into(room)
        except OSError as error:
            raise SourceError(f"cannot read the source: {error.strerror or error}") from error
        if self._hasher is not None and nbytes:
            self._hasher(room[:nbytes])
        return nbytes

    def _fill(self, wanted: int) -> None:
        """Have up to ``wanted`` bytes in the buffer; fewer only at the end."""
        have = self._end - self._start
        if self._start + wanted > BUFFER_BYTES:
            self._buffer[:have] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, have
        most = BUFFER_BYTES if self.ahead else self._start + wanted
        while self._end - self._start < wanted:
            nbytes = self._read(self._buffer[self._end : most])
            if not nbytes:
                return
            self._end += nbytes

    def _cut(self, what: str, wanted: int, got: int) -> TruncatedError:
        return TruncatedError(
            what=what, offset=self.offset, expected=f"{wanted} bytes", got=f"{got}"
        )

    def take(self, size_bytes: int, what: str) -> memoryview:
        if size_bytes <= BUFFER_BYTES:
            self._fill(size_bytes)
            have = self._end - self._start
            if have < size_bytes:
                raise self._cut(what, size_bytes, have)
            piece = bytes(self._buffer[self._start : self._start + size_bytes])
            self._start += size_bytes
            self.offset += size_bytes
            return memoryview(piece)
        whole = self._take_large(size_bytes, what)
        self.offset += size_bytes
        return whole

    def _take_large(self, size_bytes: int, what: str) -> memoryview:
        have = self._end - self._start
        if self.size_bytes is not None and size_bytes > self.size_bytes - self.offset:
            raise self._cut(what, size_bytes, max(self.size_bytes - self.offset, 0))
        if size_bytes <= POOLED_BYTES:
            room = self._pool.take(size_bytes)
        else:
            room = _allocate(min(size_bytes, LARGEST_PIECE))
        room[:have] = self._buffer[self._start : self._end]
        self._start = self._end = 0
        done = have
        while done < size_bytes:
            if done == len(room):
                larger = _allocate(min(size_bytes, 2 * len(room)))
                larger[:done] = room
                room = larger
            nbytes = self._read(room[done:])
            if not nbytes:
                raise self._cut(what, size_bytes, done)
            done += nbytes
        return room

    def skip(self, size_bytes: int, what: str) -> None:
        have = self._end - self._start
        if size_bytes <= have:
            self._start += size_bytes
            self.offset += size_bytes
            return
        rest = size_bytes - have
        if self._seek is not None:
            if self.size_bytes is not None and size_bytes > self.size_bytes - self.offset:
                raise self._cut(what, size_bytes, max(self.size_bytes - self.offset, 0))
            self._start = self._end = 0
            self._seek(rest)
        else:
            self._start = self._end = 0
            room = self._skipped = self._skipped or memoryview(bytearray(SKIPPED_BYTES))
            while rest:
                nbytes = self._read(room[:rest])
                if not nbytes:
                    raise self._cut(what, size_bytes, size_bytes - rest)
                rest -= nbytes
        self.offset += size_bytes

    def peek(self, size_bytes: int) -> bytes:
        self._fill(min(size_bytes, BUFFER_BYTES))
        return bytes(self._buffer[self._start : min(self._start + size_bytes, self._end)])

    def at_end(self) -> bool:
        return not self.peek(1)

    def close(self) -> None:
        if self._close is not None:
            self._close()
            self._close = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


class _Pool:
    """Memory for page contents, used again once nobody looks at it any more.

    Fresh memory for every batch made reading 60 % dearer: the kernel has to clear each page
    of it first. What is handed out is a view; when the last one is gone, its memory returns.
    """

    def __init__(self) -> None:
        self._free: list[Any] = []

    def take(self, size_bytes: int) -> memoryview:
        import numpy as np

        whole = self._free.pop() if self._free else np.empty(POOLED_BYTES, np.uint8)
        part = whole[:size_bytes]
        weakref.finalize(part, self._give_back, whole).atexit = False
        return part.data

    def _give_back(self, whole: Any) -> None:
        if len(self._free) < POOLED_BUFFERS:
            self._free.append(whole)


def _allocate(size_bytes: int) -> memoryview:
    """Memory that is not cleared first: clearing 4 MiB costs as much as reading it."""
    import numpy as np

    return np.empty(size_bytes, np.uint8).data


class FileSource(Source):
    """A regular file: a :class:`xsave.RandomSource`.

    :param fd: of the file, which the source begins at the present place of.
    """

    def __init__(
        self, fd: int, size_bytes: int, *, hasher: Hasher | None,
        close: Callable[[], None] | None, ahead: bool = True,
    ) -> None:  # fmt: skip
        def seek(nbytes: int) -> None:
            os.lseek(fd, nbytes, os.SEEK_CUR)

        super().__init__(
            lambda room: os.readv(fd, [room]),
            size_bytes=size_bytes,
            seek=seek if hasher is None else None,
            hasher=hasher,
            close=close,
            ahead=ahead,
        )
        self._fd = fd
        self._file_bytes = size_bytes
        self._begins_at = os.lseek(fd, 0, os.SEEK_CUR)

    def read_at(self, offset: int, size_bytes: int, what: str) -> memoryview:
        return read_at(self._fd, self._file_bytes, offset, size_bytes, what, self._begins_at)


class FileImage:
    """A regular file as :class:`xsave.RandomAccess`."""

    def __init__(self, path: Path) -> None:
        self._fd = _open(path)
        self.size_bytes = os.fstat(self._fd).st_size
        self._pool = _Pool()

    def read_at(self, offset: int, size_bytes: int, what: str) -> memoryview:
        return read_at(self._fd, self.size_bytes, offset, size_bytes, what, room=self._room)

    def _room(self, size_bytes: int) -> memoryview:
        if size_bytes <= BUFFER_BYTES:
            return memoryview(bytearray(size_bytes))
        # what is much smaller, and kept, would hold more memory than it has bytes
        if POOLED_BYTES // 2 < size_bytes <= POOLED_BYTES:
            return self._pool.take(size_bytes)
        return _allocate(size_bytes)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: Any) -> None:
        self.close()


def read_at(
    fd: int, file_bytes: int, offset: int, size_bytes: int, what: str, begins_at: int = 0,
    room: Callable[[int], memoryview] | None = None,
) -> memoryview:  # fmt: skip
    """:param begins_at: where in the file the input begins, of which this is the offset.
    :param room: makes memory for it.
    """
    if offset < 0 or size_bytes > file_bytes - offset:
        raise TruncatedError(
            what=what, offset=offset, expected=f"{size_bytes} bytes",
            got=f"{max(file_bytes - offset, 0)}",
        )  # fmt: skip
    # bounded by the file's size, which is there: no length in it can ask for more
    data = (_allocate if room is None else room)(size_bytes)
    done = 0
    while done < size_bytes:
        nbytes = os.preadv(fd, [data[done:]], begins_at + offset + done)
        if not nbytes:
            raise TruncatedError(
                what=what, offset=offset, expected=f"{size_bytes} bytes", got=f"{done}"
            )
        done += nbytes
    return data


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"cannot open {path}: {error.strerror}") from error


def open_source(
    where: str | os.PathLike[str] | int | Readable, *, hasher: Hasher | None = None,
    ahead: bool = True,
) -> Source:  # fmt: skip
    """A source for a path, ``-`` (standard input), a file descriptor, or a file object.

    A descriptor or file object stays open afterwards. With a ``hasher`` nothing is seeked
    over, so that it is shown every byte.

    :param ahead: see :class:`Source`.
    :raises SourceError: it cannot be opened.
    """
    if isinstance(where, int):
        return _from_fd(where, hasher, None, ahead)
    if not isinstance(where, str | os.PathLike):
        return Source(_reader_of(where), hasher=hasher, ahead=ahead)
    if where == "-":
        if os.isatty(0):
            raise UsageError("standard input is a terminal; give a file, or pipe an image in")
        return _from_fd(0, hasher, None, ahead)
    fd = _open(Path(where))
    return _from_fd(fd, hasher, lambda: os.close(fd), ahead)


def _from_fd(
    fd: int, hasher: Hasher | None, close: Callable[[], None] | None, ahead: bool
) -> Source:
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise SourceError(f"cannot read the source: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        if close is not None:
            close()
        raise SourceError("cannot read the source: it is a folder")
    if stat.S_ISREG(status.st_mode):
        size = status.st_size - os.lseek(fd, 0, os.SEEK_CUR)
        return FileSource(fd, size, hasher=hasher, close=close, ahead=ahead)
    return Source(lambda room: os.readv(fd, [room]), hasher=hasher, close=close, ahead=ahead)


def _reader_of(file: Readable) -> ReadInto:
    read_into: ReadInto | None = getattr(file, "readinto", None)
    if read_into is not None:
        return lambda room: read_into(room) or 0
    return from_read(file.read)


def from_read(read: Callable[[int], bytes]) -> ReadInto:
    """A ``read_into`` made from a function that returns bytes."""

    def read_into(room: memoryview) -> int:
        piece = read(len(room))
        room[: len(piece)] = piece
        return len(piece)

    return read_into
