"""Guest memory in batches: entries, and the pages of those that have any.

An *entry* is what Xen's streams say of one pfn, a u64: bits 63-60 the page type,
59-52 reserved, 51-0 the pfn (libxc stream revision 3, PAGE_DATA). A batch keeps the
entries as they came, so that any container can be written back bit for bit.

Arrays are in :mod:`xsave.pages`. What is here does without numpy, whose import takes
longer than looking at the structure of an image of 4 GiB.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from attrs import field

from .record import Buffer, RecordType
from .value_class import define

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .pages import Entries, Pages

PAGE_SIZE = 4096

NOTAB, L1TAB, L2TAB, L3TAB, L4TAB = range(5)
PINNED = 8  # pin bit, beside the table types 1 to 4
BROKEN, XALLOC, XTAB = 0xD, 0xE, 0xF

TYPE_NAMES = (
    "NOTAB", "L1TAB", "L2TAB", "L3TAB", "L4TAB", "reserved5", "reserved6", "reserved7",
    "reserved8", "L1TAB+PIN", "L2TAB+PIN", "L3TAB+PIN", "L4TAB+PIN", "BROKEN", "XALLOC", "XTAB",
)  # fmt: skip

RESERVED_TYPES = frozenset(range(5, 9))
TYPES_WITH_PAGE = frozenset(range(BROKEN)) - RESERVED_TYPES

_TYPE_OF_BYTE = bytes(byte >> 4 for byte in range(256))  # the highest byte of an entry
_PFN_MASK = (1 << 52) - 1


class EntryList(abc.ABC):
    """The entries of a batch as a format has them; an array is made when it is asked for."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def array(self) -> Entries:
        """(n,) u64, in the order of the stream."""

    @abc.abstractmethod
    def type_counts(self) -> Mapping[int, int]:
        """How many entries there are of each type nibble that occurs."""

    def pfn_range(self) -> tuple[int, int] | None:
        """Lowest and highest pfn; None without entries."""
        if not len(self):
            return None
        pfns = self.array() & _PFN_MASK
        return int(pfns.min()), int(pfns.max())

    def first_of(self, types: Set[int]) -> tuple[int, int, int] | None:
        """Place, pfn and type of the first entry of one of these types; None if there is
        none, which costs no look at single entries."""
        if self.type_counts().keys().isdisjoint(types):
            return None
        import numpy as np

        array = self.array()
        at = int(np.isin(array >> 60, sorted(types)).argmax())
        return at, int(array[at]) & _PFN_MASK, int(array[at]) >> 60

    def nr_pages(self) -> int:
        """How many of the entries are followed by a page."""
        counts = self.type_counts()
        return sum(count for kind, count in counts.items() if kind in TYPES_WITH_PAGE)


class RawEntries(EntryList):
    """:param data: the entries as they lie in Xen's streams: 8 bytes each, little-endian."""

    def __init__(self, data: Buffer) -> None:
        self._data = bytes(data)
        self._array: Entries | None = None
        self._counts: Mapping[int, int] | None = None

    def __len__(self) -> int:
        return len(self._data) // 8

    def array(self) -> Entries:
        if self._array is None:
            import numpy as np

            self._array = np.frombuffer(self._data, "<u8").astype(np.uint64, copy=False)
        return self._array

    def type_counts(self) -> Mapping[int, int]:
        # A few calls into C, 3 us for 1024 entries; a thousand batches in an image of 4 GiB.
        if self._counts is None:
            types = self._data[7::8].translate(_TYPE_OF_BYTE)
            self._counts = {kind: types.count(kind) for kind in range(16) if kind in types}
        return self._counts


class ArrayEntries(EntryList):
    """:param array: (n,) u64."""

    def __init__(self, array: Entries) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def array(self) -> Entries:
        return self._array

    def type_counts(self) -> Mapping[int, int]:
        return RawEntries(self._array.astype("<u8", copy=False).tobytes()).type_counts()


def _entry_list(entries: Entries | EntryList) -> EntryList:
    return entries if isinstance(entries, EntryList) else ArrayEntries(entries)


@define(eq=False)
class PageBatch:
    """Some pfns with their types, and the contents of those that have any.

    :ivar entry_list: given as ``entries``: in the form the format has them, or as an array.
    :ivar pages: (m, page_size) u8, one row for each entry whose type carries data, in
        the order of the entries; None when the reader was asked to skip contents.
    :ivar nr_pages: m, known even when the contents were skipped.
    :ivar offset: of the record's header, bytes from the start of the input.
    :ivar reserved: the header word beside the count, kept for exact conversion.
    :ivar carried: what the format that was read wants to find again when the same
        format is written; only that format looks inside.
    """

    type: RecordType
    entry_list: EntryList = field(alias="entries", converter=_entry_list)
    pages: Pages | None
    nr_pages: int
    offset: int = 0
    reserved: int = 0
    carried: Any = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.type.name

    @property
    def nr_pfns(self) -> int:
        """n, the number of entries."""
        return len(self.entry_list)

    @property
    def entries(self) -> Entries:
        """(n,) u64, in the order of the stream; see the module's text."""
        return self.entry_list.array()

    @property
    def pfns(self) -> Entries:
        """(n,) u64."""
        from .pages import PFN_MASK

        return self.entries & PFN_MASK

    @property
    def types(self) -> NDArray[np.uint64]:
        """(n,) u64, the type nibbles 0 to 15."""
        from .pages import TYPE_SHIFT

        return self.entries >> TYPE_SHIFT

    def describe_pfns(self) -> str:
        """For messages: the lowest and highest pfn in it."""
        if (pfns := self.entry_list.pfn_range()) is None:
            return "no pfns"
        return f"pfns {pfns[0]:#x}-{pfns[1]:#x}"
