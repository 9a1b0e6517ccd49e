"""What version 2 adds to a batch's table: which pages are those of the base, and which
stored ones are differences (XOR), from what.

    bits (m), if ``same``: page i is the page of this pfn in the base, and has no slot
    bits (s), if ``based``: stored page i is a difference from the page of its pfn in the base
    if ``kept``:
        bits (s): stored page i goes onto the shelf
        u32 each, ``place_runs`` of them: the first place of each run; then how long each is
        bits (k): the j-th of these is a difference from what lay in that place before

The head has the number of bits set, and nothing where that is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsave import expand_runs, frozen, runs

from . import spec

Bits = NDArray[np.bool_]


@frozen
class Deltas:
    """Of a batch with m pages that have contents, s of them stored and k of these kept.

    :ivar same: (m,) bool; :ivar based: (s,) bool; :ivar kept: (s,) bool.
    :ivar places: (k,) i64, each another one, in the order of the stored pages.
    :ivar changed: (k,) bool: stored as a difference from what lay in its place.
    """

    same: Bits
    based: Bits
    kept: Bits
    places: NDArray[np.int64]
    changed: Bits

    @property
    def says_anything(self) -> bool:
        return bool(len(self.places) or self.same.any() or self.based.any())

    @property
    def is_plain(self) -> bool:
        """Every page that is stored is stored as it is."""
        return not self.based.any() and not self.changed.any()


def pack_deltas(deltas: Deltas) -> tuple[bytes, dict[str, int]]:
    """:returns: what follows the table, and the keys of the head."""
    parts: list[bytes] = []
    head: dict[str, int] = {}
    for key, bits in (("same", deltas.same), ("based", deltas.based)):
        if count := int(np.count_nonzero(bits)):
            head[key] = count
            parts.append(spec.pack_bits(bits))
    if len(deltas.places):
        first, lengths = runs(deltas.places)
        head |= {"kept": len(deltas.places), "place_runs": len(first)}
        parts += [
            spec.pack_bits(deltas.kept), first.astype("<u4").tobytes(),
            lengths.astype("<u4").tobytes(), spec.pack_bits(deltas.changed),
        ]  # fmt: skip
    return b"".join(parts), head


@frozen
class Counts:
    """Of a head, checked to be within their bounds."""

    same: int
    based: int
    kept: int
    place_runs: int

    def any(self) -> bool:
        return bool(self.same or self.based or self.kept or self.place_runs)


def unpack_deltas(
    data: memoryview, counts: Counts, nr_pages: int, nr_stored: int, nr_places: int
) -> Deltas:
    """:param nr_places: on the shelf.

    :raises ValueError: the sizes do not fit together; the text says which.
    """
    reader = _Parts(data)
    same = reader.bits(nr_pages, counts.same, "same")
    based = reader.bits(nr_stored, counts.based, "based")
    kept = reader.bits(nr_stored, counts.kept, "kept")
    first = reader.words(counts.place_runs)
    lengths = reader.words(counts.place_runs)
    changed = reader.bits(counts.kept, None, "changed")
    reader.end()
    spec.check_lengths(lengths, counts.kept, "places")
    places = expand_runs(first, lengths)
    if len(places):
        if int(places.max()) >= nr_places:
            raise ValueError(f"place {int(places.max())} on a shelf of {nr_places}")
        ordered = np.sort(places)
        if (ordered[1:] == ordered[:-1]).any():
            raise ValueError("a place given twice")
    if (based[kept] & changed).any():
        raise ValueError("a page that differs from the base and from the shelf")
    return Deltas(same, based, kept, places, changed)


class _Parts:
    """Takes a table's parts one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def _take(self, size_bytes: int) -> memoryview:
        part = self._data[self._at : self._at + size_bytes]
        if len(part) < size_bytes:
            raise ValueError(f"a table of {len(self._data)} bytes for differences")
        self._at += size_bytes
        return part

    def bits(self, count: int, nr_set: int | None, what: str) -> Bits:
        """:param nr_set: how many must be set; where that is none, nothing is stored."""
        if nr_set == 0:
            return np.zeros(count, np.bool_)
        bits = spec.unpack_bits(self._take((count + 7) // 8), count)
        if nr_set is not None and (got := int(np.count_nonzero(bits))) != nr_set:
            raise ValueError(f"{got} pages marked as {what!r} for {nr_set}")
        return bits

    def words(self, count: int) -> NDArray[Any]:
        return np.frombuffer(self._take(4 * count), "<u4").astype(np.int64)

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes after the table")


def rows_of_stored(slots: NDArray[np.int64], rows: NDArray[Any], nr_stored: int) -> NDArray[Any]:
    """(s,) i64: for each stored page the first page that is it; -1 for one that none is.

    :param slots: (q,) the place of each of these pages among the stored ones, below 0 for
        those stored before; :param rows: (q,) which pages of the batch they are.
    """
    first = np.full(nr_stored, -1, np.int64)
    here = np.flatnonzero(slots >= 0)[::-1]  # of several for one, the last assignment stays
    first[slots[here]] = rows[here]
    return first
