"""Contract: a compression, and how one is asked for (``zstd:1``)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar

from .errors import UsageError
from .record import Buffer
from .value_class import frozen

Read = Callable[[int], bytes]


class Codec(abc.ABC):
    """Compress and decompress whole buffers; thread-safe, deterministic, no I/O.

    :cvar name: as it is written into images and on the command line.
    :cvar levels: lowest and highest level accepted; (0, 0) for a codec without levels.
    :cvar default_level: used when none is asked for.
    :cvar magic: first bytes of this codec's stand-alone files, b"" if it has none.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    levels: ClassVar[tuple[int, int]] = (0, 0)
    default_level: ClassVar[int] = 0
    magic: ClassVar[bytes] = b""

    @abc.abstractmethod
    def compress(self, data: Buffer, level: int) -> Buffer:
        """The same bytes for the same data and level, on any number of threads.

        :param data: contiguous; not kept.
        """

    @abc.abstractmethod
    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        """Exactly ``size_bytes`` bytes.

        :raises FieldError: the data is damaged, or holds more or fewer bytes. Never makes
            more than ``size_bytes`` plus a constant, whatever the data claims.
        """

    def open_stream(self, read: Read) -> Read:
        """Read a stand-alone compressed file: given a read function, return one that
        yields the unpacked bytes in bounded pieces; b"" at the end.

        Only for codecs with a ``magic``.
        """
        raise UsageError(f"codec {self.name} has no stand-alone files")


@frozen
class CodecChoice:
    """A codec with the level to compress at."""

    codec: Codec
    level: int

    def __str__(self) -> str:
        low, high = self.codec.levels
        return self.codec.name if low == high else f"{self.codec.name}:{self.level}"


def parse_codec(text: str, find: Callable[[str], Codec]) -> CodecChoice:
    """Understand ``NAME[:LEVEL]``.

    :param find: looks a codec up by name, raising UnknownNameError.
    """
    name, colon, level_text = text.partition(":")
    codec = find(name)
    if not colon:
        return CodecChoice(codec, codec.default_level)
    low, high = codec.levels
    if low == high:
        raise UsageError(f"codec {name} has no levels, so {text!r} says too much")
    try:
        level = int(level_text)
    except ValueError:
        level = low - 1
    if not low <= level <= high:
        raise UsageError(f"codec {name}: level {level_text!r} is not within {low} to {high}")
    return CodecChoice(codec, level)
