"""A guest's memory in an image, read here and there: for debuggers and other tools.

Asked for are bytes at physical addresses. They are read through the image's own index, so that
nothing is exported and what is not asked for is not unpacked; and kept in blocks for a while,
since whoever looks at a guest follows pointers and comes back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import AbsentPageError, UsageError
from ..format import PageFinder, PageMode, ReadOptions
from ..io.source import FileImage, open_source
from ..manager import PluginManager, build_manager
from ..record import ImageInfo
from ..workers import Workers
from .base import open_base
from .stream import recognise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..pages import Entries, Pages

BLOCK_PFNS = 64
BLOCKS_KEPT = 64  # 16 MiB


class GuestMemory:
    """Several threads may read at the same time. Memory use: 16 MiB and what the format's index
    needs.

    :ivar info: of the image.
    """

    def __init__(self, info: ImageInfo, finder: PageFinder, close: ExitStack) -> None:
        self.info = info
        self._finder = finder
        self._close = close
        self._blocks: OrderedDict[int, tuple[Pages, NDArray[np.bool_]]] = OrderedDict()
        self._lock = threading.Lock()

    def entries(self) -> Entries:
        """(n,) u64, ascending by pfn: of each pfn that the image mentions, with its type in bits
        60 to 63. 8 bytes for each are needed."""
        return self._finder.entries()

    def ranges(self) -> list[tuple[int, int]]:
        """Physical addresses that have contents: start and size in bytes, ascending."""
        import numpy as np

        from ..pages import PFN_MASK, carries_page, runs

        entries = self.entries()
        pfns = (entries[carries_page(entries)] & PFN_MASK).astype(np.int64)
        firsts, lengths = runs(pfns)
        size = self.info.page_size
        return [
            (first * size, length * size)
            for first, length in zip(firsts.tolist(), lengths.tolist(), strict=True)
        ]

    def read(self, address: int, size_bytes: int) -> bytes:
        """:raises AbsentPageError: some of it the image has no contents for.
        :raises StreamError: the image is damaged there.
        """
        return b"".join(self._pieces(address, size_bytes))

    def _pieces(self, address: int, size_bytes: int) -> Iterator[memoryview]:
        size = self.info.page_size
        end = address + size_bytes
        while address < end:
            number, at = divmod(address, BLOCK_PFNS * size)
            stop = min(BLOCK_PFNS * size, at + end - address)
            with self._lock:
                pages, is_there = self._block(number)
            first = at // size
            wanted = is_there[first : (stop - 1) // size + 1]
            if not wanted.all():
                raise AbsentPageError(pfn=number * BLOCK_PFNS + first + int(wanted.argmin()))
            yield pages.reshape(-1).data[at:stop]
            address += stop - at

    def _block(self, number: int) -> tuple[Pages, NDArray[np.bool_]]:
        import numpy as np

        if (kept := self._blocks.get(number)) is not None:
            self._blocks.move_to_end(number)
            return kept
        first = number * BLOCK_PFNS
        pages = np.zeros((BLOCK_PFNS, self.info.page_size), np.uint8)
        is_there = np.zeros(BLOCK_PFNS, np.bool_)
        for pfn, (_, page) in self._finder.find(range(first, first + BLOCK_PFNS)).items():
            if page is not None:
                pages[pfn - first] = page
                is_there[pfn - first] = True
        made = self._blocks[number] = pages, is_there
        if len(self._blocks) > BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return made

    def close(self) -> None:
        self._close.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


def open_memory(
    image: str | Path,
    *,
    base: str | Path | None = None,
    manager: PluginManager | None = None,
) -> GuestMemory:
    """The memory in an image, to be read at any physical address.

    Of a native image the index is used; one of Xen's streams is passed over once, without its
    contents. To be closed, or used in a ``with`` statement.

    :param image: a file, not compressed as a whole.
    :param base: the image that this one was written against.
    :raises UsageError: pages cannot be found in it without reading all of it: make a native
        image of it first.
    :raises StreamError: it is damaged, or none that is known.
    """
    manager = manager or build_manager()
    path = Path(image)
    with ExitStack() as stack:
        earlier = open_base(stack, base)
        with open_source(path) as source, Workers(1) as workers:
            format_, unwrapped = recognise(source, manager)
            options = ReadOptions(PageMode.SKIP, manager.codecs.items(), workers, earlier)
            info = format_.reader(unwrapped, options).info
            is_plain = unwrapped is source and path.is_file()
        finder = None
        if is_plain:
            file = stack.enter_context(FileImage(path))
            options = ReadOptions(codecs=manager.codecs.items(), base=earlier)
            finder = format_.page_finder(file, options)
        if finder is None:
            what = f"of format {format_.name}" if is_plain else "compressed as a whole, or no file"
            raise UsageError(
                f"{path} is {what}: pages cannot be found in it without reading all of it; "
                "make a native image of it first (xsave run)"
            )
        return GuestMemory(info, finder, stack.pop_all())
