"""Bytes that are kept apart until it is known what becomes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import OutputError
from ..record import Buffer

MEMORY_BYTES = 64 << 20  # kept in memory; more goes to a file


class Spool:
    """Pieces, in order. What is more than fits into memory lies in a temporary file that has no
    name and that only its owner could read (it may hold a guest's memory).

    :param memory_bytes: so much stays in memory.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._file = self._fresh()
        self.size_bytes = 0

    def _fresh(self) -> tempfile.SpooledTemporaryFile[bytes]:
        # closed by clear and close; it lives as long as this object
        return tempfile.SpooledTemporaryFile(max_size=self._memory_bytes)

    def put(self, parts: Sequence[Buffer]) -> None:
        """:raises OutputError: there is no room for it."""
        with _told():
            for part in parts:
                self._file.write(memoryview(part).cast("B"))
                self.size_bytes += memoryview(part).nbytes

    def take(self, sizes: Iterator[int]) -> Iterator[bytearray]:
        """From the beginning, pieces of these sizes, each in memory of its own."""
        with _told():
            self._file.seek(0)
        for size_bytes in sizes:
            piece = bytearray(size_bytes)
            with _told():
                if self._file.readinto(piece) != size_bytes:
                    raise OutputError("what was kept apart cannot be read back whole")
            yield piece

    def clear(self) -> None:
        """Forget all of it. A file goes: the next pieces may fit into memory."""
        self._file.close()
        self._file = self._fresh()
        self.size_bytes = 0

    def close(self) -> None:
        self._file.close()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        raise OutputError(
            f"cannot keep a round of checkpoints apart in {folder}: {error.strerror or error}"
        ) from error
