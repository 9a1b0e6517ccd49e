"""Reading fields of a legacy stream from a :class:`xsave.ByteSource`."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from xsave import ByteSource, FormatError

from . import layouts as f

if TYPE_CHECKING:
    from xsave import Entries


class Words:
    """:ivar word_size: of the toolstack that wrote the stream, bytes."""

    def __init__(self, source: ByteSource, word_size: int) -> None:
        self.source = source
        self.word_size = word_size
        self._word = struct.Struct(f.WORD_CODES[word_size])

    def number(self, layout: struct.Struct, what: str) -> int:
        """The one number of this layout."""
        value: int = layout.unpack(self.source.take(layout.size, what))[0]
        return value

    def word(self, what: str) -> int:
        return self.number(self._word, what)

    def size(self, what: str, limit: int) -> int:
        """A u32 that says how many bytes follow.

        :raises FormatError: more than ``limit``.
        """
        offset = self.source.offset
        size = self.number(f.UINT, what)
        expect(what, offset, size <= limit, f"at most {limit} bytes", size)
        return size

    def words(self, count: int, what: str) -> Entries:
        """(count,) u64. The caller has bounded the count."""
        import numpy as np

        data = self.source.take(count * self.word_size, what)
        return np.frombuffer(data, f"<u{self.word_size}").astype(np.uint64)


def expect(what: str, offset: int, fine: bool, expected: str, got: object) -> None:
    """:raises FormatError: it is not fine."""
    if not fine:
        raise FormatError(what=what, offset=offset, expected=expected, got=str(got))
