"""Compressed rounds of a Remus stream (Xen 4.2 to 4.5): pages as changes of what was sent.

A round announces its entries in batches without pages; the pages follow in chunks, in the
order announced. Each is unchanged (00), whole (80 and 4096 bytes), or a list of runs: a byte
with the number of 4-byte words, and bit 7 set to keep them, clear when they follow.

What a page is a change of is what the saver still had of it: a cache of 8192 pages, from
which the least recently used goes, into which a page comes whole, and where page tables
never are (docs/formats/legacy.md). So no more than that has to be remembered here, however
large the guest.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xsave import PageBatch, RecordError, carries_page

from . import layouts as f

if TYPE_CHECKING:
    from xsave import Pages

CACHED_PAGES = 8192
UNCHANGED, WHOLE, KEEP = 0x00, 0x80, 0x80
WORDS = 0x7F
_TABLES = (1, 2, 3, 4, 9, 10, 11, 12)
RECORD = "COMPRESSED_DATA"


class Deltas:
    """Takes announcements and compressed bytes, and gives whole batches."""

    def __init__(self) -> None:
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._waiting: deque[PageBatch] = deque()
        self._nr_waiting = 0
        self._done: list[bytes] = []  # pages of the first batch that waits
        self._pfns: list[tuple[int, int]] = []  # of its entries with pages: pfn and type
        self._data = b""

    def announce(self, batch: PageBatch) -> Iterator[PageBatch]:
        """A batch without pages. It comes out at once only if it carries none."""
        self._nr_waiting += batch.nr_pages
        if self._nr_waiting > f.PENDING_MAX:
            raise _wrong(
                batch.offset, "pages announced", f"at most {f.PENDING_MAX}", str(self._nr_waiting)
            )
        self._waiting.append(batch)
        yield from self._whole()

    def add(self, data: bytes, offset: int) -> Iterator[PageBatch]:
        """:param data: of one chunk, whose end may be within a page."""
        self._data += data
        at = 0
        while self._waiting:
            yield from self._whole()
            if not self._waiting or (size := self._page(at, offset)) == 0:
                break
            at += size
        self._data = self._data[at:]
        yield from self._whole()
        if self._data and not self._waiting:
            raise _wrong(offset, "pages", "as many as were announced", "more bytes")

    def end_round(self, offset: int) -> None:
        if self._waiting or self._data:
            got = f"{self._nr_waiting - len(self._done)} missing"
            raise _wrong(offset, "pages", "all that were announced before the round's end", got)

    def _whole(self) -> Iterator[PageBatch]:
        """Batches from the front whose pages are all there."""
        import numpy as np

        while self._waiting:
            batch = self._waiting[0]
            if not self._done:
                carrying = batch.entries[carries_page(batch.entries)]
                pfns = carrying & np.uint64((1 << 52) - 1)
                self._pfns = list(zip(pfns.tolist(), (carrying >> 60).tolist(), strict=True))
            if len(self._done) < batch.nr_pages:
                return
            batch.pages = _joined(self._done)
            self._done = []
            self._nr_waiting -= batch.nr_pages
            self._waiting.popleft()
            yield batch

    def _page(self, at: int, offset: int) -> int:
        """Decode the next page; how many bytes it took, 0 if it goes on in the next chunk."""
        pfn, kind = self._pfns[len(self._done)]
        rest = len(self._data) - at
        if not rest:
            return 0
        mark = self._data[at]
        if mark == WHOLE:
            if rest <= f.PAGE_BYTES:
                return 0
            page, size = self._data[at + 1 : at + 1 + f.PAGE_BYTES], 1 + f.PAGE_BYTES
        else:
            if (base := self._cache.get(pfn)) is None:
                raise _wrong(offset, f"pfn {pfn:#x}", "a whole page first", "a change of it")
            if mark == UNCHANGED:
                page, size = base, 1
            else:
                changed = _runs(self._data, at, base, offset, pfn)
                if changed is None:
                    return 0
                page, size = changed
        self._remember(pfn, kind, page)
        self._done.append(page)
        return size

    def _remember(self, pfn: int, kind: int, page: bytes) -> None:
        if kind in _TABLES:
            self._cache.pop(pfn, None)
            return
        self._cache[pfn] = page
        self._cache.move_to_end(pfn)
        if len(self._cache) > CACHED_PAGES:
            self._cache.popitem(last=False)


def _runs(data: bytes, at: int, base: bytes, offset: int, pfn: int) -> tuple[bytes, int] | None:
    """:returns: the page and how many bytes described it; None if they are not all there."""
    page = bytearray(base)
    start, done = at, 0
    while done < f.PAGE_BYTES:
        if at >= len(data):
            return None
        mark = data[at]
        size = 4 * (mark & WORDS)
        if not size or done + size > f.PAGE_BYTES:
            got = f"{size} bytes after {done}"
            raise _wrong(offset, f"run of pfn {pfn:#x}", f"1 to {f.PAGE_BYTES - done} bytes", got)
        at += 1
        if not mark & KEEP:
            if at + size > len(data):
                return None
            page[done : done + size] = data[at : at + size]
            at += size
        done += size
    return bytes(page), at - start


def _joined(pages: list[bytes]) -> Pages:
    import numpy as np

    return np.frombuffer(b"".join(pages), np.uint8).reshape(-1, f.PAGE_BYTES)


def _wrong(offset: int, field: str, expected: str, got: str) -> RecordError:
    return RecordError(
        record=RECORD, offset=offset, reason=f"{field}: expected {expected}, got {got}"
    )
