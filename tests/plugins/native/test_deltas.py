"""Pages that come again are stored as differences, and come back as what they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.native.batches import PAGES, batch, ordinary, page
from tests.plugins.native.test_finder import CountedImage
from tests.plugins.native.test_writer import INFO, batches, write
from xsave.testing import FormatSuite, MemoryPipe, MemorySink, MemorySource
from xsave.testing.format_suite import assert_same_events
from xsave_plugins.codecs.lz4 import Lz4Codec
from xsave_plugins.codecs.zstd import ZstdCodec
from xsave_plugins.native import spec
from xsave_plugins.native.format import NativeFormat
from xsave_plugins.native.pieces import read_header
from xsave_plugins.native.shelf import Keeper, add_bytes, count_set, worth_storing

ZSTD = ZstdCodec()
CHOICE = xsave.CodecChoice(ZSTD, 1)
CODECS = {"zstd": ZSTD, "lz4": Lz4Codec()}
FORMAT = NativeFormat()


def edited(seed: int, *edits: int) -> bytes:
    """The page of a seed with a word changed for each edit."""
    words = np.frombuffer(page(seed), np.uint64).copy()
    for edit in edits:
        words[edit % 512] ^= np.uint64(0x9E3779B97F4A7C15 * (edit + 1) & (1 << 64) - 1)
    return words.tobytes()


def pass_of(pages: Sequence[bytes], first_pfn: int = 0) -> xsave.PageBatch:
    return batch([(0, first_pfn + i) for i in range(len(pages))], pages)


def options(mode: xsave.PageMode = xsave.PageMode.FULL, base: bytes | None = None) -> Any:
    source = None if base is None else MemorySource(base)
    return xsave.ReadOptions(mode, CODECS, xsave.Workers(1), source)


def read(image: bytes, base: bytes | None = None) -> list[Any]:
    return list(FORMAT.reader(MemoryPipe(image), options(base=base)))


def found(image: bytes, pfns: Sequence[int], base: bytes | None = None) -> dict[int, bytes | None]:
    finder = FORMAT.page_finder(MemorySource(image), options(base=base))
    assert finder is not None
    return {
        pfn: None if contents is None else contents.tobytes()
        for pfn, (_, contents) in finder.find(pfns).items()
    }


def changes(image: bytes) -> list[tuple[int, int, int]]:
    """Of each batch: pages stored, pages that are the base's, pages kept."""
    return [
        (piece.head["stored"], piece.head.get("same", 0), piece.head.get("kept", 0))
        for piece in batches(image)
    ]


# -- within a stream -----------------------------------------------------------------------


def versions(number: int) -> list[bytes]:
    """Eight pages, after so many edits of each."""
    return [edited(seed, *range(number)) for seed in range(1, 9)]


def test_a_page_that_comes_again_a_little_changed_takes_little_room() -> None:
    stream = [pass_of(versions(number)) for number in range(6)]
    with_deltas = write(stream, codec=CHOICE, deltas=True)
    without = write(stream, codec=CHOICE)
    bodies = [piece.prefix.body_size for piece in batches(with_deltas)]
    assert all(10 * size < bodies[0] for size in bodies[1:])
    assert len(without) > 3 * len(with_deltas)
    assert_same_events(read(with_deltas), stream)


def test_a_page_that_comes_again_as_another_is_stored_as_it_is() -> None:
    stream = [ordinary(0, range(1, 9)), ordinary(0, range(11, 19))]
    first, second = batches(write(stream, codec=CHOICE, deltas=True))
    assert second.prefix.body_size > first.prefix.body_size * 9 // 10
    assert_same_events(read(write(stream, codec=CHOICE, deltas=True)), stream)


def test_without_a_codec_nothing_would_be_smaller_so_nothing_is_kept() -> None:
    stream = [pass_of(versions(number)) for number in range(3)]
    assert write(stream, deltas=True) == write(stream)


def test_an_image_with_differences_is_told_apart_by_its_version() -> None:
    """A reader of version 1 looks at nothing before the version."""
    image = write([pass_of(versions(0))], codec=CHOICE, deltas=True)
    assert image[8:10] == b"\2\0"
    head, _ = read_header(MemorySource(image))
    assert (head["needs"], head["shelf"]) == (["deltas"], spec.SHELF)
    assert write([pass_of(versions(0))], codec=CHOICE)[8:10] == b"\1\0"


def test_equal_pages_of_which_one_comes_again_stay_right() -> None:
    """A page stored as a difference is named by another pfn, in its batch and later."""
    two = [page(1), edited(1, 3)]
    stream = [
        pass_of([page(1), page(2)]), pass_of([two[1], two[1]]), pass_of([page(5), two[1]]),
        pass_of([two[1], edited(5, 1), bytes(4096)]),
    ]  # fmt: skip
    image = write(stream, codec=CHOICE, deltas=True)
    assert_same_events(read(image), stream)
    assert found(image, [0, 1, 2]) == {0: two[1], 1: edited(5, 1), 2: bytes(4096)}


def test_a_pfn_twice_in_a_batch_keeps_one_place() -> None:
    first = batch([(0, 5), (0, 5), (0, 6)], [page(1), page(2), page(3)])
    again = batch([(0, 5), (0, 5), (0, 6)], [edited(1, 2), edited(2, 2), edited(3, 2)])
    image = write([first, again, again], codec=CHOICE, deltas=True)
    assert_same_events(read(image), [first, again, again])
    assert found(image, [5, 6]) == {5: edited(2, 2), 6: edited(3, 2)}


_VERSIONS = st.lists(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 5), st.lists(st.integers(0, 600), max_size=4)),
        min_size=1, max_size=8,
    ),
    max_size=7,
)  # fmt: skip
_Drawn = list[list[tuple[int, int, list[int]]]]


def drawn(stream: _Drawn) -> list[xsave.PageBatch]:
    """Batches of pfns below 12 (also twice in one), of six contents with edits."""
    return [
        batch([(0, pfn) for pfn, _, _ in one], [edited(s, *edits) if s else page(0)
              for _, s, edits in one])
        for one in stream
    ]  # fmt: skip


def latest(stream: Sequence[xsave.PageBatch]) -> dict[int, bytes]:
    return {
        pfn: contents.tobytes()
        for one in stream
        if one.pages is not None
        for pfn, contents in zip(one.pfns.tolist(), one.pages, strict=True)
    }


@settings(max_examples=80, deadline=None)
@given(_VERSIONS, st.sampled_from([1, 3, 16]))
def test_any_stream_comes_back_and_every_page_is_found(plan: _Drawn, nr_places: int) -> None:
    stream = drawn(plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spec, "SHELF", nr_places)
        image = write(stream, codec=CHOICE, deltas=True)
    assert_same_events(read(image), stream)
    for mode in (xsave.PageMode.SKIP, xsave.PageMode.CHECK, xsave.PageMode.CARRY):
        assert len(list(FORMAT.reader(MemoryPipe(image), options(mode)))) == len(stream)
    if stream:
        assert found(image, list(range(12))) == latest(stream)


@settings(max_examples=40, deadline=None)
@given(_VERSIONS)
def test_differences_are_carried_as_they_are(plan: _Drawn) -> None:
    image = write(drawn(plan), codec=CHOICE, deltas=True)
    assert carried(image) == image


def carried(image: bytes, drop: int | None = None, **more: Any) -> bytes:
    """Read and written with bodies as they are; without one of the batches."""
    reader = FORMAT.reader(MemorySource(image), options(xsave.PageMode.CARRY))
    sink = MemorySink()
    writer = FORMAT.writer(sink, reader.info, xsave.WriteOptions(workers=xsave.Workers(1), **more))
    for number, event in enumerate(reader):
        if number != drop:
            writer.put(event)
    writer.finish()
    return sink.data


def test_differences_are_never_carried_without_what_they_differ_from() -> None:
    stream = [pass_of(versions(0)), pass_of(versions(1))]
    image = write(stream, codec=CHOICE, deltas=True)
    with pytest.raises(xsave.OutputError, match="a batch without its pages"):
        carried(image, drop=0)
    one, other = (
        list(FORMAT.reader(MemorySource(image), options(xsave.PageMode.CARRY))) for _ in range(2)
    )
    info = FORMAT.reader(MemorySource(image), options(xsave.PageMode.CARRY)).info
    writer = FORMAT.writer(MemorySink(), info, xsave.WriteOptions())
    writer.put(one[0])
    with pytest.raises(xsave.OutputError, match="a batch without its pages"):
        writer.put(other[1])


def test_recompressing_keeps_differences() -> None:
    image = write([pass_of(versions(number)) for number in range(6)], codec=CHOICE, deltas=True)
    reader = FORMAT.reader(MemorySource(image), options())
    lz4 = xsave.CodecChoice(CODECS["lz4"], 0)
    sink = MemorySink()
    writer = FORMAT.writer(sink, reader.info, xsave.WriteOptions(lz4))
    events = list(reader)
    for event in events:
        writer.put(event)
    writer.finish()
    assert changes(sink.data) == changes(image)
    assert_same_events(read(sink.data), events)


def test_hot_pages_keep_their_places_however_many_others_come_by() -> None:
    """Sixteen places, four pages that are written all the time, and sweeps over 64 more."""
    keeper = Keeper(16)
    hits = []
    for number in range(6):
        pfns = np.arange(4 if number % 2 else 64, dtype=np.uint64)
        pages = np.frombuffer(
            b"".join(edited(1 + pfn % 7, *range(number)) for pfn in pfns.tolist()), np.uint8
        ).reshape(-1, 4096)
        keeper.follow(0, int(pfns[-1]))
        shelved = keeper.shelve(pfns, pages, pages, np.zeros(len(pfns), np.bool_))
        rows = np.flatnonzero(shelved.kept)[shelved.changed]
        hits.append({int(pfn) for pfn in pfns[rows] if pfn < 4})
    assert hits[2:] == [{0, 1, 2, 3}] * 4


def test_the_first_pass_fills_the_shelf_and_later_ones_take_it_over() -> None:
    keeper = Keeper(8)
    places = []
    for first, last in ((0, 31), (8, 15), (8, 15), (8, 15)):
        pfns = np.arange(first, last + 1, dtype=np.uint64)
        pages = np.frombuffer(b"".join(page(1) for _ in pfns), np.uint8).reshape(-1, 4096)
        keeper.follow(first, last)
        shelved = keeper.shelve(pfns, pages, pages, np.zeros(len(pfns), np.bool_))
        places.append((len(shelved.places), int(shelved.changed.sum())))
    assert places == [(8, 0), (8, 0), (8, 8), (8, 8)]


@given(st.lists(st.integers(0, 255), min_size=8, max_size=8), st.integers(0, 512))
def test_flags_are_counted_by_eights_as_one_by_one(bytes_: list[int], nr_set: int) -> None:
    words = np.array([bytes_], np.uint8).view(np.uint64).ravel()
    assert add_bytes(words).tolist() == [sum(bytes_)]
    flags = np.arange(512) < nr_set
    assert count_set(np.stack([flags, flags[::-1], ~flags])).tolist() == [
        nr_set, nr_set, 512 - nr_set
    ]  # fmt: skip


@given(st.integers(0, 512), st.integers(0, 512), st.booleans())
def test_a_difference_is_stored_where_a_quarter_of_what_is_there_changed_at_most(
    nr_filled: int, nr_changed: int, at_the_end: bool
) -> None:
    filled = np.arange(512) < nr_filled
    words = (filled[::-1] if at_the_end else filled).astype(np.uint64)[None]
    worth = worth_storing(np.array([nr_changed]), words)
    assert worth.tolist() == [4 * nr_changed <= nr_filled]


class TestNativeWithDeltas(FormatSuite):
    """All that holds for images holds for those with differences in them."""

    format = FORMAT
    codecs = (ZSTD,)
    finds_damage = True
    max_examples = 25

    def info(self) -> xsave.ImageInfo:
        return INFO

    def events(self) -> Sequence[Any]:
        return [
            pass_of([page(1), page(2), bytes(4096), page(3)]),
            pass_of([edited(1, 4), edited(2, 4), page(3), page(3)]),
            pass_of([edited(1, 4, 7), page(9), edited(3, 1), edited(2, 4)]),
        ]

    def write_options(self, codec: Any = None, *, nr_threads: int = 1) -> xsave.WriteOptions:
        choice = None if codec is None else xsave.CodecChoice(codec, 1)
        return xsave.WriteOptions(choice, CODECS, xsave.Workers(nr_threads), deltas=True)

    def image(self) -> bytes:
        return self.write(self.events(), self.write_options(ZSTD))

    def test_reading_and_writing_gives_the_same_bytes(self) -> None:
        reader = self.format.reader(MemorySource(self.image()), self.read_options())
        again = self.write(list(reader), self.write_options(ZSTD), reader.info)
        head, sealed = read_header(MemorySource(again))
        assert head["source"] == {"format": "test"}
        assert again[len(sealed) : -200] == self.image()[len(sealed) : -200]


# -- against an earlier image ----------------------------------------------------------------


def successor(stream: Sequence[xsave.PageBatch], base: bytes, **more: Any) -> bytes:
    return write(stream, base=MemorySource(base), codecs=CODECS, **{"codec": CHOICE, **more})


def test_a_successor_holds_only_what_changed() -> None:
    base = write([ordinary(0, range(1, 41))], codec=CHOICE)
    pages = [page(seed) for seed in range(1, 41)]
    pages[7], pages[8] = edited(8, 5), page(77)
    after = [pass_of(pages)]
    image = successor(after, base)
    assert changes(image) == [(2, 38, 0)]
    assert len(image) < len(base) // 4
    assert_same_events(read(image, base), after)
    assert found(image, [0, 7, 8, 39], base) == {0: page(1), 7: pages[7], 8: pages[8], 39: page(40)}


def test_without_a_codec_unchanged_pages_are_left_out_too() -> None:
    base = write([ordinary(0, range(1, 9))])
    image = successor([ordinary(0, [1, 2, 3, 99])], base, codec=None)
    assert changes(image) == [(1, 3, 0)]
    assert_same_events(read(image, base), [ordinary(0, [1, 2, 3, 99])])


@settings(max_examples=80, deadline=None)
@given(_VERSIONS, _VERSIONS, st.booleans(), st.booleans())
def test_any_successor_of_any_image_comes_back(
    before: _Drawn, after: _Drawn, base_deltas: bool, deltas: bool
) -> None:
    base = write(drawn(before), codec=CHOICE, deltas=base_deltas)
    stream = drawn(after)
    image = successor(stream, base, deltas=deltas)
    assert_same_events(read(image, base), stream)
    if stream:
        assert found(image, list(range(12)), base) == latest(stream)
    checked = FORMAT.reader(MemoryPipe(image), options(xsave.PageMode.CHECK, base))
    assert len(list(checked)) == len(stream)
    assert carried(image) == image


def test_pages_are_looked_for_in_the_base_as_it_ended() -> None:
    """Its latest mention counts, and a pfn that lost its page has none."""
    base = write([ordinary(0, [1, 2, 3]), ordinary(1, [4]), batch([(15, 2)], [])], codec=CHOICE)
    image = successor([ordinary(0, [1, 4, 3])], base)
    assert changes(image) == [(1, 2, 0)]
    assert_same_events(read(image, base), [ordinary(0, [1, 4, 3])])


def test_a_pfn_twice_in_a_batch_of_the_base_counts_as_the_batch_ended() -> None:
    twice = [(0, 5), (0, 5), (0, 6)]
    base = write([batch(twice, [page(1), page(2), page(3)])], codec=CHOICE)
    after = [batch(twice, [page(1), page(2), page(3)])]
    image = successor(after, base)
    assert changes(image) == [(1, 2, 0)]
    assert_same_events(read(image, base), after)


def test_pages_that_are_zero_as_before_need_no_base() -> None:
    base = write([pass_of([bytes(4096), page(1), bytes(4096), page(2)])], codec=CHOICE)
    after = [pass_of([bytes(4096), page(1), page(3), bytes(4096)])]
    image = successor(after, base)
    assert changes(image) == [(1, 1, 0)]
    assert_same_events(read(image, base), after)


def test_each_body_of_the_base_is_read_once_even_where_later_batches_name_its_pages() -> None:
    earlier = [ordinary(0, range(1, 33))]
    later = [ordinary(32 * n, [*range(1, 17), *range(32 * n, 32 * n + 16)]) for n in range(1, 9)]
    base = CountedImage(write([*earlier, *later], codec=CHOICE))
    after = [ordinary(0, range(1, 33)), *later]
    image = write(after, base=base, codecs=CODECS, codec=CHOICE)
    assert changes(image) == [(0, 32, 0)] * 9
    assert base.nr_read < base.size_bytes * 5 // 4


def test_pfns_beyond_all_memory_are_stored_as_they_are() -> None:
    far = (1 << 52) - 2
    base = write([ordinary(far, [1, 2])], codec=CHOICE)
    image = successor([ordinary(far, [1, 2])], base)
    assert changes(image) == [(2, 0, 0)]
    assert_same_events(read(image, base), [ordinary(far, [1, 2])])


def test_a_base_that_is_absent_or_another_is_told_by_its_seal() -> None:
    base, other = write([ordinary(0, [1, 2])]), write([ordinary(0, [1, 3])])
    image = successor([ordinary(0, [1, 2])], base)
    with pytest.raises(xsave.UsageError, match=r"seal [0-9a-f]{64}: name that image with --base"):
        read(image)
    with pytest.raises(xsave.UsageError, match=r"the base given has seal .* one with seal"):
        read(image, other)
    with pytest.raises(xsave.UsageError, match="name that image with --base"):
        found(image, [0])
    with pytest.raises(xsave.UsageError, match="the base given has seal"):
        list(FORMAT.reader(MemoryPipe(image), options(xsave.PageMode.CHECK, other)))


def test_a_base_that_has_a_base_is_refused_with_the_way_out() -> None:
    base = write([ordinary(0, [1, 2])])
    second = successor([ordinary(0, [1, 3])], base)
    with pytest.raises(xsave.UsageError, match="make it a whole one first"):
        successor([ordinary(0, [1, 3])], second)


@pytest.mark.parametrize("data", [b"", b"\x89XSV", bytes(4096)])
def test_what_is_no_native_image_is_no_base(data: bytes) -> None:
    with pytest.raises(xsave.UsageError, match="no native image"):
        successor([ordinary(0, [1])], data)


def test_a_damaged_base_is_found_out_where_it_is_used() -> None:
    base = bytearray(write([ordinary(0, range(1, 9))]))
    image = successor([ordinary(0, range(1, 9))], bytes(base))
    base[base.index(page(4))] ^= 1
    with pytest.raises(xsave.DamageError, match="a batch of pages"):
        read(image, bytes(base))
    with pytest.raises(xsave.StreamError):
        read(image, bytes(base[:-20]))


def test_what_is_read_with_its_base_is_whole() -> None:
    base = write([ordinary(0, [1, 2])], codec=CHOICE)
    image = successor([ordinary(0, [1, 9])], base)
    reader = FORMAT.reader(MemorySource(image), options(base=base))
    assert reader.info.base
    sink = MemorySink()
    writer = FORMAT.writer(sink, reader.info, xsave.WriteOptions(CHOICE))
    for event in reader:
        writer.put(event)
    writer.finish()
    assert_same_events(read(sink.data), [ordinary(0, [1, 9])])
    assert sink.data[8] == 1


def test_kinds_of_records_do_not_matter_to_a_base() -> None:
    record = xsave.Record(xsave.RecordType("test.record"), b"body")
    base = write([record, ordinary(0, [1, 2]), record])
    image = successor([ordinary(0, [1, 2]), record], base)
    assert [event.name for event in read(image, base)] == [PAGES.name, "test.record"]
