"""What a simulated guest does with tmem: gets, puts and flushes, repeatable from its seed.

As with all workloads, what the guest remembers stands in its state page. Each page it puts
begins with its own handle, so that the guest notices when it gets another one back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .contents import Contents, numbers
from .state_page import STATE_PFN, Word

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .guest import Guest
    from .tmem import Tmem

    Oid = tuple[int, ...]

# Words of the state page; those before are in state_page.py.
NR_HANDLES, RATE, CREDIT, POSITION, NR_WRONG = range(128, 133)

OBJECT_PAGES = 16
SPARE = 2  # handles for each page at the start: about half of them are in use at a time
GETS, PUTS, FLUSHES = 55, 35, 9  # percent of the operations; the rest flush whole objects
_HEAD_WORDS = 6  # pool, object id, index, and when it was put
_FILL_PAGES = 512


class TmemWorkload:
    """Called with the guest's lock held."""

    def __init__(self, guest: Guest, tmem: Tmem) -> None:
        self._guest = guest
        self._tmem = tmem
        self._contents: Contents | None = None
        self._ids: list[int] = []

    def boot(self, nr_pages: int, rate: int) -> None:
        """:param rate: operations a second."""
        row = self._guest.row(STATE_PFN)
        row[NR_HANDLES], row[RATE] = SPARE * nr_pages, rate
        self._find_pools()
        for start in range(0, nr_pages, _FILL_PAGES):
            handles = range(start, min(start + _FILL_PAGES, nr_pages))
            row[POSITION] = start + len(handles)
            made = self._pages(row, list(handles), start)
            for handle, page in zip(handles, made, strict=True):
                self._tmem.put(*self._place(handle), page.tobytes())

    def run(self, slice_ns: int) -> None:
        if self._guest.state is None or not self._guest.peek(STATE_PFN)[RATE]:
            return
        row = self._guest.row(STATE_PFN)
        credit = int(row[CREDIT]) + int(int(row[RATE]) * self._guest.share) * slice_ns
        count, row[CREDIT] = divmod(credit, 10**9)
        if not count:
            return
        self._find_pools()
        position = int(row[POSITION])
        drawn = numbers(int(row[Word.SEED]) ^ 3, position, count)
        handles = (drawn >> np.uint64(8)) % row[NR_HANDLES]
        made = self._pages(row, handles.tolist(), position)
        kinds = (drawn % np.uint64(100)).tolist()
        for kind, handle, page in zip(kinds, handles.tolist(), made, strict=True):
            row[NR_WRONG] += not self._operate(kind, handle, page)
        row[POSITION] += np.uint64(count)

    def _operate(self, kind: int, handle: int, page: NDArray[np.uint64]) -> bool:
        """:returns: False if a page came back that is not the one that was put."""
        tmem = self._tmem
        pool_id, oid, index = self._place(handle)
        if kind < GETS:
            got = tmem.get(pool_id, oid, index)
            return got is None or _head(got) == _head(page.tobytes())
        if kind < GETS + PUTS:
            tmem.put(pool_id, oid, index, page.tobytes())
        elif kind < GETS + PUTS + FLUSHES:
            tmem.flush(pool_id, oid, index)
        else:
            tmem.flush_object(pool_id, oid)
        return True

    def _find_pools(self) -> None:
        if not self._ids:
            self._ids = [pool_id for pool_id, *_ in self._tmem.pools()]

    def _place(self, handle: int) -> tuple[int, Oid, int]:
        """Pool, object id and index of the n-th handle that the guest uses."""
        number, which = divmod(handle, len(self._ids))
        obj, index = divmod(number, OBJECT_PAGES)
        oid = (obj, 0xFFFFFFFFFFFFFFFF, 0) if self._tmem.abi_version else (obj,)
        return self._ids[which], oid, index

    def _pages(
        self, row: NDArray[np.uint64], handles: list[int], position: int
    ) -> NDArray[np.uint64]:
        """(n, 512) u64, contents to put there at these positions of the workload."""
        seed = int(row[Word.SEED])
        if self._contents is None or self._contents.seed != seed:
            self._contents = Contents.of(seed)
        pages = np.empty((len(handles), 512), np.uint64)
        self._contents.make(numbers(seed ^ 4, position, len(handles)), pages)
        for place, handle in enumerate(handles):
            pool_id, oid, index = self._place(handle)
            head = [pool_id, *oid, *[0] * (3 - len(oid)), index, position + place]
            pages[place, :_HEAD_WORDS] = head
        return pages


def _head(page: bytes) -> bytes:
    """What names the handle, without when it was put."""
    return page[: 8 * (_HEAD_WORDS - 1)]
