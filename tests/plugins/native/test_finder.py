"""Single pages through the index: the right ones, and little read for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.native.batches import batch, ordinary, page
from tests.plugins.native.test_writer import write
from xsave.testing import MemorySource
from xsave.testing.strategies import page_batches
from xsave_plugins.codecs.zstd import ZstdCodec
from xsave_plugins.native.finder import Cursor, stretches
from xsave_plugins.native.format import NativeFormat

ZSTD = ZstdCodec()
OPTIONS = xsave.ReadOptions(codecs={"zstd": ZSTD})


class CountedImage:
    """Random access that counts what is read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)
        self.nr_read = 0

    def read_at(self, offset: int, size_bytes: int, what: str) -> memoryview:
        self.nr_read += size_bytes
        return MemorySource(self._data).read_at(offset, size_bytes, what)


def find(image: bytes, pfns: list[int]) -> dict[int, tuple[int, bytes | None]]:
    finder = NativeFormat().page_finder(CountedImage(image), OPTIONS)
    assert finder is not None
    return {
        pfn: (kind, None if contents is None else contents.tobytes())
        for pfn, (kind, contents) in finder.find(pfns).items()
    }


def test_the_latest_mention_of_a_pfn_wins() -> None:
    image = write([ordinary(0, [1, 2, 3]), ordinary(1, [4]), batch([(15, 2)], [])])
    assert find(image, [0, 1, 2, 9]) == {0: (0, page(1)), 1: (0, page(4)), 2: (15, None)}


def test_a_page_stored_in_another_batch_is_found_there() -> None:
    image = write([ordinary(0, [1, 2, 3]), ordinary(10, [3, 0])])
    assert find(image, [10, 11]) == {10: (0, page(3)), 11: (0, page(0))}


@settings(max_examples=60, deadline=None)
@given(st.lists(page_batches(), max_size=5), st.booleans())
def test_every_page_is_found_as_a_reader_of_the_whole_finds_it(
    stream: list[xsave.PageBatch], compress: bool
) -> None:
    latest: dict[int, tuple[int, bytes | None]] = {}
    for one in stream:
        assert one.pages is not None
        rows = iter(one.pages)
        for entry, carries in zip(one.entries, xsave.carries_page(one.entries), strict=True):
            contents = next(rows).tobytes() if carries else None
            latest[int(entry) & (1 << 52) - 1] = (int(entry) >> 60, contents)
    choice = xsave.CodecChoice(ZSTD, 1) if compress else None
    image = write(stream, codec=choice)
    if latest:
        assert find(image, list(latest)) == latest


@given(st.sets(st.integers(0, 300), max_size=40))
def test_stretches_cover_all_rows_in_order_and_pass_over_wide_gaps(wanted: set[int]) -> None:
    rows = np.array(sorted(wanted), np.intp)
    covered = [row for part in stretches(rows) for row in range(part.start, part.stop)]
    assert covered == sorted(covered)
    assert wanted <= set(covered)
    for row in set(covered) - wanted:
        assert wanted & set(range(row - 8, row))
        assert wanted & set(range(row + 1, row + 9))


def test_a_cursor_tells_of_what_is_cut_as_if_it_read_nothing_ahead() -> None:
    cursor = Cursor(MemorySource(bytes(range(100))), 10)
    assert bytes(cursor.take(20, "first")) == bytes(range(10, 30))
    cursor.skip(30, "between")
    assert bytes(cursor.take(5, "second")) == bytes(range(60, 65))
    with pytest.raises(xsave.TruncatedError) as caught:
        cursor.take(36, "third")
    assert (caught.value.what, caught.value.offset) == ("third", 65)
    assert bytes(cursor.take(35, "the rest")) == bytes(range(65, 100))
    assert cursor.at_end()


def test_only_the_pieces_needed_are_read() -> None:
    image = write([ordinary(100 * n, range(100 * n, 100 * n + 100)) for n in range(40)])
    counted = CountedImage(image)
    finder = NativeFormat().page_finder(counted, OPTIONS)
    assert finder is not None
    assert finder.find([1234])[1234][1] is not None
    assert counted.nr_read < len(image) / 20
