"""Page batches: from 28 bits of pfn and a type nibble above them to libxc's entries.

The pages themselves are the same in both formats, and are handed on as they were read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xsave import TYPE_NAMES, PageBatch, PageMode, RecordError, RecordType

from . import layouts as f
from .deltas import Deltas

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xsave import Entries, Pages

    from .kind import Kind
    from .words import Words


class Batches:
    """Reads the batches of one stream.

    :ivar compressed: whether those of this round come without their pages, which chunks of
        compressed data bring later.
    """

    def __init__(self, words: Words, kind: Kind, mode: PageMode) -> None:
        self._words = words
        self._p2m_size = kind.p2m_size
        self._type = RecordType(f.PAGE_NAMES[kind.guest_type])
        self._mode = mode
        # Nothing is to be checked in pages as they are: to be passed over is enough.
        self._skips = mode in (PageMode.SKIP, PageMode.CHECK)
        self._deltas = Deltas()
        self._sent: NDArray[np.bool_] | None = None
        self.compressed = False

    def read(self, count: int, offset: int) -> Iterator[PageBatch]:
        """The batch of so many entries whose count was just read; nothing if all of its
        entries only say that a page could not be mapped."""
        entries = self._entries(count, offset)
        batch = PageBatch(self._type, entries, None, 0, offset)
        batch.nr_pages = batch.entry_list.nr_pages()
        if not self.compressed:
            self._read_pages(batch)
        if not len(entries):
            return
        self._note(batch)
        if self.compressed and self._mode is not PageMode.SKIP:
            yield from self._deltas.announce(batch)
        else:
            yield batch

    def decompress(self, offset: int) -> Iterator[PageBatch]:
        """A chunk of compressed data, and the batches that it makes whole."""
        size = self._words.word("size of COMPRESSED_DATA")
        name = f"body of {f.CHUNK_NAMES[f.COMPRESSED_DATA]}"
        if size > f.COMPRESSED_MAX:
            raise self._wrong(offset, "size", f"at most {f.COMPRESSED_MAX} bytes", str(size))
        if not self.compressed:
            raise self._wrong(offset, "place", "ENABLE_COMPRESSION in a round before", "none")
        if self._mode is PageMode.SKIP:
            self._words.source.skip(size, name)
        else:
            yield from self._deltas.add(bytes(self._words.source.take(size, name)), offset)

    def end_round(self, offset: int) -> None:
        """:raises RecordError: pages that were announced have not come."""
        self._deltas.end_round(offset)

    def forget(self, pfns: Entries, offset: int) -> Iterator[PageBatch]:
        """Of the guest's pages that turned out not to be mapped, those that were sent: they
        are absent. (The converter of Xen drops this list.)"""
        import numpy as np

        if not len(pfns) or self._sent is None:
            return
        gone = pfns[self._sent[pfns]]
        for start in range(0, len(gone), f.BATCH_MAX):
            entries = gone[start : start + f.BATCH_MAX] | np.uint64(0xF << 60)
            none = None if self._skips else np.empty((0, f.PAGE_BYTES), np.uint8)
            yield PageBatch(self._type, entries, none, 0, offset)
        self._sent[gone] = False

    def _entries(self, count: int, offset: int) -> Entries:
        import numpy as np

        stored = self._words.words(count, "entries of a page batch")
        types = stored >> np.uint64(f.TYPE_SHIFT)
        if (types > 0xF).any():
            at = int((types > 0xF).argmax())
            raise self._wrong(offset, f"entry {at}", "32 bits", f"{int(stored[at]):#x}")
        if ((types >= 5) & (types <= 8)).any():
            at = int(((types >= 5) & (types <= 8)).argmax())
            raise self._wrong(offset, f"entry {at}", "a page type", TYPE_NAMES[int(types[at])])
        named = stored != f.NO_PFN
        if not named.all():
            stored, types = stored[named], types[named]
        pfns = stored & np.uint64(f.PFN_MASK)
        if (pfns >= self._p2m_size).any():
            at = int((pfns >= self._p2m_size).argmax())
            expected = f"below {self._p2m_size:#x}, the p2m's size"
            raise self._wrong(offset, "pfn", expected, f"{int(pfns[at]):#x}")
        return pfns | (types << np.uint64(60))

    def _read_pages(self, batch: PageBatch) -> None:
        size = batch.nr_pages * f.PAGE_BYTES
        what = f"pages of {self._type.name}"
        if self._skips:
            self._words.source.skip(size, what)
        else:
            batch.pages = _as_pages(self._words.source.take(size, what))

    def _note(self, batch: PageBatch) -> None:
        """Remember which pages of a PV guest have contents: a byte a pfn, and only for
        pfns that come."""
        import numpy as np

        from xsave import carries_page

        if self._type.name != f.PAGE_NAMES_PV:
            return
        if self._sent is None:
            self._sent = np.zeros(self._p2m_size, np.bool_)
        self._sent[batch.pfns] = carries_page(batch.entries)

    def _wrong(self, offset: int, field: str, expected: str, got: str) -> RecordError:
        return RecordError(
            record=self._type.name, offset=offset, reason=f"{field}: expected {expected}, got {got}"
        )


def _as_pages(contents: memoryview) -> Pages:
    import numpy as np

    return np.frombuffer(contents, np.uint8).reshape(-1, f.PAGE_BYTES)
