"""The part of a round that has come, until its checkpoint has come too.

A standby must be able to take over from the last whole checkpoint. So what belongs to the next
one is kept apart: pages and streamed state in a spool, other state decoded, the latest of each
key. Memory for pages that the guest did not have is given at once, so that nothing is kept
that the host has no room for.

How much that can be is bounded: each page may come twice in a round (once while the guest runs,
once when it is paused), so that the spool holds at most twice what the host gives the guest;
and streamed state has a limit of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import FieldError
from ..handler import MemoryHandler, RecordHandler
from ..io.spool import Spool
from ..record import Record, RecordType
from ..value_class import frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..batch import PageBatch
    from ..pages import Entries

STREAMED_MAX = 1 << 30  # bytes of streamed records in one round
TIMES_MAX = 2  # a page may come in one round

Held = dict[tuple[str, Any], tuple[RecordHandler[Any], Any]]


@frozen
class _Kept:
    """What to read back, and as what.

    :ivar sizes: in bytes: of a record its body's; of a batch its entries' and its pages'.
    """

    type: RecordType
    handler: RecordHandler[Any] | MemoryHandler
    sizes: tuple[int, ...]
    offset: int


class PartialRound:
    """:ivar held: as in the writer, of this round only.
    :ivar fresh: arrays of pfns that were given memory for this round, and had none before.
    """

    def __init__(self, spool: Spool | None = None) -> None:
        self.held: Held = {}
        self.fresh: list[Entries] = []
        self._spool = spool or Spool()
        self._kept: list[_Kept] = []
        self._marks: NDArray[np.bool_] | None = None  # pfns that came in this round
        self._nr_pfns = self._nr_pages = self._streamed_bytes = 0

    def __bool__(self) -> bool:
        """Whether anything came."""
        return bool(self._kept or self.held)

    def keep_record(self, record: Record, handler: RecordHandler[Any]) -> None:
        """State that is applied in its place among the pages."""
        self._streamed_bytes += len(record.body)
        if self._streamed_bytes > STREAMED_MAX:
            raise FieldError(
                field="streamed state of a round", expected=f"at most {STREAMED_MAX} bytes",
                got="more",
            )  # fmt: skip
        self._spool.put([record.body])
        self._kept.append(_Kept(record.type, handler, (len(record.body),), record.offset))

    def keep_batch(self, batch: PageBatch, handler: MemoryHandler) -> None:
        import numpy as np

        assert batch.pages is not None
        self._count(batch)
        entries = np.ascontiguousarray(batch.entries)
        pages = np.ascontiguousarray(batch.pages)
        self._spool.put([entries.data, pages.reshape(-1).data])
        sizes = entries.nbytes, pages.nbytes
        self._kept.append(_Kept(batch.type, handler, sizes, batch.offset))

    def _count(self, batch: PageBatch) -> None:
        import numpy as np

        at = batch.pfns.astype(np.intp)
        end = int(at.max(initial=-1)) + 1
        if self._marks is None or end > len(self._marks):
            grown = np.zeros(max(end, 1 << 16), np.bool_)
            if self._marks is not None:
                grown[: len(self._marks)] = self._marks
            self._marks = grown
        self._nr_pfns += int(np.count_nonzero(~self._marks[np.unique(at)]))
        self._marks[at] = True
        self._nr_pages += batch.nr_pages
        if self._nr_pages > TIMES_MAX * self._nr_pfns:
            raise FieldError(
                field="pages of a round", expected=f"each at most {TIMES_MAX} times",
                got=f"{self._nr_pages} pages of {self._nr_pfns} pfns",
            )  # fmt: skip

    def replay(self) -> Iterator[tuple[Record | PageBatch, RecordHandler[Any] | MemoryHandler]]:
        """What was kept, in the order in which it came."""
        import numpy as np

        from ..batch import PageBatch

        pieces = self._spool.take(size for kept in self._kept for size in kept.sizes)
        for kept in self._kept:
            if isinstance(kept.handler, RecordHandler):
                yield Record(kept.type, next(pieces), kept.offset), kept.handler
                continue
            entries = np.frombuffer(next(pieces), np.uint64)
            contents = np.frombuffer(next(pieces), np.uint8)
            nr_pages = PageBatch(kept.type, entries, None, 0).entry_list.nr_pages()
            pages = contents.reshape(nr_pages, -1) if nr_pages else contents.reshape(0, 1)
            yield PageBatch(kept.type, entries, pages, nr_pages, kept.offset), kept.handler

    def clear(self) -> None:
        """Begin the next round."""
        self.held.clear()
        self.fresh.clear()
        self._kept.clear()
        self._spool.clear()
        self._marks = None
        self._nr_pfns = self._nr_pages = self._streamed_bytes = 0

    def close(self) -> None:
        self._spool.close()
