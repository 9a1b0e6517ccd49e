"""What the contract promises of formats, as tests to inherit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from ..batch import PageBatch
from ..codec import Codec, CodecChoice
from ..errors import StreamError, XsaveError
from ..format import ByteSource, Format, PageMode, ReadOptions, WriteOptions
from ..pages import carries_page
from ..record import ImageInfo, Record
from ..workers import Workers
from . import strategies
from .handler_suite import cut_sizes
from .memory import MemoryPipe, MemorySink, MemorySource

if TYPE_CHECKING:
    from ..format import Event

_HEAD_BYTES = 4096


class FormatSuite:
    """For a :class:`xsave.Format` that is both read and written. Define ``events`` in the
    subclass, and ``info`` where the headers say more than the format's name.

    :cvar format: the one under test.
    :cvar codecs: to try, beside none.
    :cvar images: images that came from elsewhere; reading and writing gives their bytes.
    :cvar finds_damage: whether every changed byte is noticed.
    """

    format: ClassVar[Format]
    codecs: ClassVar[Sequence[Codec]] = ()
    images: ClassVar[Sequence[bytes]] = ()
    finds_damage: ClassVar[bool] = False
    max_examples: ClassVar[int] = 50

    def info(self) -> ImageInfo:
        """What the headers say, for the events below."""
        return ImageInfo(self.format.name)

    def events(self) -> Sequence[Event]:
        """A short stream with each kind of thing in it that the format has a place for."""
        raise AssertionError("the suite has no stream to try: define `events`")

    def streams(self) -> st.SearchStrategy[Sequence[Event]]:
        """More streams for the round trip; by default only :meth:`events`."""
        return st.just(self.events())

    # What the tests below are made of.

    def read_options(self, pages: PageMode = PageMode.FULL) -> ReadOptions:
        codecs = {codec.name: codec for codec in self.codecs}
        return ReadOptions(pages, codecs, Workers(1))

    def write_options(self, codec: Codec | None = None, *, nr_threads: int = 1) -> WriteOptions:
        codecs = {codec.name: codec for codec in self.codecs}
        choice = None if codec is None else CodecChoice(codec, codec.default_level)
        return WriteOptions(choice, codecs, Workers(nr_threads))

    def write(
        self,
        events: Sequence[Event],
        options: WriteOptions | None = None,
        info: ImageInfo | None = None,
    ) -> bytes:
        options = options or self.write_options()
        sink = MemorySink()
        with options.workers:
            writer = self.format.writer(sink, info or self.info(), options)
            for event in events:
                writer.put(event)
            writer.finish()
        return sink.data

    def read(self, source: ByteSource, pages: PageMode = PageMode.FULL) -> list[Event]:
        return list(self.format.reader(source, self.read_options(pages)))

    def image(self) -> bytes:
        return self.write(self.events())

    def choices(self) -> list[Codec | None]:
        return [None, *self.codecs]

    # What the contract promises.

    def test_identity_is_complete(self) -> None:
        assert self.format.name
        assert all(suffix.startswith(".") for suffix in self.format.suffixes)
        assert self.format.readable or self.format.writable

    def test_what_was_written_is_read_back(self) -> None:
        for codec in self.choices():
            image = self.write(self.events(), self.write_options(codec))
            assert_same_events(self.read(MemorySource(image)), self.events())

    def test_any_stream_that_was_written_is_read_back(self) -> None:
        @settings(max_examples=self.max_examples, deadline=None)
        @given(self.streams(), st.sampled_from(self.choices()))
        def check(events: Sequence[Event], codec: Codec | None) -> None:
            image = self.write(events, self.write_options(codec))
            assert_same_events(self.read(MemoryPipe(image)), events)

        check()

    def test_the_header_comes_back(self) -> None:
        info = self.info()
        found = self.format.reader(MemorySource(self.image()), self.read_options()).info
        assert found.format == self.format.name
        assert found.page_size == info.page_size
        assert info.guest_type in {found.guest_type, info.guest_type.UNKNOWN}

    def test_a_pipe_gives_the_same_events_as_a_file(self) -> None:
        image = self.image()
        assert_same_events(self.read(MemoryPipe(image)), self.read(MemorySource(image)))

    def test_offsets_are_those_of_the_image(self) -> None:
        image = self.image()
        offsets = [event.offset for event in self.read(MemorySource(image))]
        assert offsets == sorted(offsets)
        assert all(0 <= offset < len(image) for offset in offsets)

    def test_reading_and_writing_gives_the_same_bytes(self) -> None:
        for image in (self.image(), *self.images):
            reader = self.format.reader(MemorySource(image), self.read_options())
            assert self.write(list(reader), info=reader.info) == image

    def test_carried_pages_give_the_same_bytes(self) -> None:
        for codec in self.choices():
            image = self.write(self.events(), self.write_options(codec))
            options = self.read_options(PageMode.CARRY)
            reader = self.format.reader(MemorySource(image), options)
            assert self.write(list(reader), info=reader.info) == image

    def test_skipped_pages_leave_everything_else(self) -> None:
        image = self.image()
        skipped = self.read(MemorySource(image), PageMode.SKIP)
        for event in skipped:
            assert isinstance(event, Record) or event.pages is None
        bare = [_without_pages(event) for event in self.events()]
        assert_same_events(skipped, bare)

    def test_the_bytes_do_not_depend_on_the_number_of_threads(self) -> None:
        for codec in self.choices():
            alone = self.write(self.events(), self.write_options(codec))
            many = self.write(self.events(), self.write_options(codec, nr_threads=4))
            assert many == alone

    def test_its_own_images_are_recognised_and_garbage_is_not(self) -> None:
        for image in (self.image(), *self.images):
            assert self.format.sniff(image[:_HEAD_BYTES])
        for head in (b"", b"\0", bytes(_HEAD_BYTES), b"\xff" * _HEAD_BYTES, b"#!/bin/sh\n"):
            assert not self.format.sniff(head)

    def test_sniffing_takes_any_bytes(self) -> None:
        @settings(max_examples=self.max_examples, deadline=None)
        @given(strategies.record_bodies(self.image()[:_HEAD_BYTES]))
        def check(head: bytes) -> None:
            assert self.format.sniff(head) in {True, False}

        check()

    def test_an_image_cut_anywhere_is_refused(self) -> None:
        image = self.image()
        for size_bytes in cut_sizes(len(image)):
            for source in (MemorySource(image[:size_bytes]), MemoryPipe(image[:size_bytes])):
                with pytest.raises(StreamError):
                    self.read(source)

    def test_an_image_cut_anywhere_is_refused_without_reading_pages(self) -> None:
        image = self.image()
        for size_bytes in cut_sizes(len(image)):
            with pytest.raises(StreamError):
                self.read(MemorySource(image[:size_bytes]), PageMode.SKIP)

    def test_trailing_bytes_are_refused_or_left(self) -> None:
        image = self.image()
        for more in (b"\0", b"\xff" * 9, image):
            source = MemorySource(image + more)
            try:
                events = self.read(source)
            except StreamError:
                continue
            assert source.offset == len(image), "bytes behind the end were taken"
            assert_same_events(events, self.events())

    def test_an_image_inside_another_one_is_read_to_its_end(self) -> None:
        if not self.format.nests:
            return
        image = self.image()
        for size_before in (0, 1, 4099):
            for pages in (PageMode.FULL, PageMode.SKIP):
                source = MemorySource(bytes(size_before) + image + b"what follows")
                source.skip(size_before, "what is before")
                options = evolve(self.read_options(pages), nested=True)
                events = list(self.format.reader(source, options))
                assert source.offset == size_before + len(image)
                assert all(size_before <= event.offset < source.offset for event in events)
                expected = self.read(MemorySource(image), pages)
                assert_same_events(events, expected)

    def test_damage_is_refused_or_read_as_something_else(self) -> None:
        image = self.image()

        @settings(max_examples=self.max_examples * 4, deadline=None)
        @given(st.integers(0, len(image) - 1), st.integers(1, 255))
        def check(offset: int, flips: int) -> None:
            damaged = bytearray(image)
            damaged[offset] ^= flips
            try:
                self.read(MemorySource(damaged))
            except XsaveError:
                return
            assert not self.finds_damage, f"byte {offset:#x} changed without notice"

        check()

    def test_checking_refuses_what_reading_refuses(self) -> None:
        @settings(max_examples=self.max_examples * 2, deadline=None)
        @given(strategies.record_bodies(self.image()))
        def check(data: bytes) -> None:
            refused = []
            for mode in (PageMode.FULL, PageMode.CHECK):
                try:
                    self.read(MemoryPipe(data), mode)
                    refused.append(False)
                except XsaveError:
                    refused.append(True)
            assert refused[0] == refused[1]

        check()

    def test_any_bytes_are_refused_or_read(self) -> None:
        @settings(max_examples=self.max_examples, deadline=None)
        @given(strategies.record_bodies(self.image()))
        def check(data: bytes) -> None:
            for mode in PageMode:
                try:
                    self.read(MemoryPipe(data), mode)
                except XsaveError:
                    continue

        check()

    def test_the_index_finds_the_latest_page_of_each_pfn(self) -> None:
        for codec in self.choices():
            image = self.write(self.events(), self.write_options(codec))
            finder = self.format.page_finder(MemorySource(image), self.read_options())
            if finder is None:
                return
            latest = _latest_pages(self.events())
            entries = finder.entries().tolist()
            assert entries == [latest[pfn][0] << 60 | pfn for pfn in sorted(latest)]
            found = finder.find(sorted(latest))
            assert set(found) == set(latest)
            for pfn, (kind, page) in latest.items():
                found_kind, found_page = found[pfn]
                assert found_kind == kind
                assert (found_page is None) == (page is None)
                if found_page is not None:
                    assert found_page.tobytes() == page


def assert_same_events(found: Sequence[Event], expected: Sequence[Event]) -> None:
    """Equal but for offsets, owners, and what readers carry for their own format."""
    assert [event.name for event in found] == [event.name for event in expected]
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        assert evolve(one.type, owner=None) == evolve(other.type, owner=None)
        if isinstance(one, Record) and isinstance(other, Record):
            assert bytes(one.body) == bytes(other.body)
            assert one.padding == other.padding
        elif isinstance(one, PageBatch) and isinstance(other, PageBatch):
            assert np.array_equal(one.entries, other.entries)
            assert (one.nr_pages, one.reserved) == (other.nr_pages, other.reserved)
            assert (one.pages is None) == (other.pages is None)
            if one.pages is not None and other.pages is not None:
                assert one.pages.shape == other.pages.shape
                assert np.array_equal(one.pages, other.pages)


def _without_pages(event: Event) -> Event:
    return event if isinstance(event, Record) else evolve(event, pages=None)


def _latest_pages(events: Sequence[Event]) -> dict[int, tuple[int, Any]]:
    """pfn to its latest type and page (bytes, or None for types that carry none)."""
    latest: dict[int, tuple[int, Any]] = {}
    for event in events:
        if isinstance(event, Record) or event.pages is None:
            continue
        pages = iter(event.pages)
        for pfn, kind, has_page in zip(
            event.pfns.tolist(), event.types.tolist(), carries_page(event.entries), strict=True
        ):
            page = next(pages).tobytes() if has_page else None
            latest[pfn] = (kind, page)
    return latest
