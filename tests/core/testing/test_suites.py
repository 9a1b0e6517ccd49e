"""The conformance suites pass what keeps the contract, and catch what does not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from xsave import (
    Buffer,
    ByteSink,
    ByteSource,
    Codec,
    Event,
    FieldError,
    Format,
    FormatError,
    ImageInfo,
    MemoryHandler,
    PageBatch,
    PageMode,
    Phase,
    ReadOptions,
    Record,
    RecordHandler,
    RecordType,
    WriteOptions,
)
from xsave.testing import CodecSuite, FormatSuite, HandlerSuite, MemoryHandlerSuite


def failing(suite: Any) -> set[str]:
    """Names of the tests of a suite that fail, without ``test_``."""
    names = [name for name in dir(suite) if name.startswith("test_")]
    assert names
    return {name.removeprefix("test_") for name in names if _fails(getattr(suite, name))}


def _fails(test: Callable[[], None]) -> bool:
    try:
        test()
    except (Exception, pytest.fail.Exception):
        return True
    return False


# Record handlers.


class Text(RecordHandler[str]):
    """ASCII with its length before it."""

    name = "test.text"
    phase = Phase.DEVICE_MODEL

    def decode(self, body: memoryview) -> str:
        if not len(body) or body[0] != len(body) - 1:
            raise FieldError(field="length", expected="that of the text", got="another")
        try:
            return str(body[1:], "ascii")
        except UnicodeDecodeError:
            raise FieldError(field="text", expected="ASCII", got="other bytes") from None

    def encode(self, state: str) -> Sequence[Buffer]:
        return (bytes([len(state)]), state.encode("ascii"))


class TestText(HandlerSuite):
    handler = Text()
    bodies = (b"\0", b"\x03abc")
    refused = (b"", b"\x01", b"\x01\xff")


def text_suite(broken: Text) -> HandlerSuite:
    class Suite(HandlerSuite):
        handler = broken
        bodies = TestText.bodies
        refused = TestText.refused

    return Suite()


class Forgetful(Text):
    def encode(self, state: str) -> Sequence[Buffer]:
        return (bytes([len(state)]), state.lower().strip("c").encode())


class Careless(Text):
    def decode(self, body: memoryview) -> str:
        return str(body[1 : 1 + body[0]], "ascii")


class Clinging(RecordHandler[memoryview]):
    name = "test.text"
    phase = Phase.DEVICE_MODEL

    def decode(self, body: memoryview) -> memoryview:
        Text().decode(body)
        return body

    def encode(self, state: memoryview) -> Sequence[Buffer]:
        return (state,)


class Wordless(Text):
    def describe(self, state: str, seen: Mapping[str, Any]) -> Any:
        return {0: state}


class Nameless(Text):
    name = "text"


class Trusting(Text):
    def describe(self, state: str, seen: Mapping[str, Any]) -> Any:
        return seen["xen.pv.info"]


@pytest.mark.parametrize(
    ("handler", "caught"),
    [
        (Text(), set()),
        (Forgetful(), {"encode_of_decode_is_the_same_bytes"}),
        (Careless(), {"garbage_is_refused_or_identical", "what_must_be_refused_is"}),
        (Clinging(), {"a_state_outlives_the_buffer_it_was_decoded_from"}),
        (Wordless(), {"a_description_is_json"}),
        (Trusting(), {"a_description_is_json"}),
        (Nameless(), {"identity_is_complete"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_handler_that_breaks_a_promise_is_caught(handler: Any, caught: set[str]) -> None:
    found = failing(text_suite(handler))
    assert caught <= found
    assert bool(found) == bool(caught)


def test_golden_bodies_are_those_named_after_the_record(tmp_path: Path) -> None:
    for name in ("test.text.bin", "test.text.short.bin", "test.textual.bin", "test.text.txt"):
        (tmp_path / name).write_bytes(name.encode())

    class Suite(HandlerSuite):
        handler = Text()
        golden = tmp_path

    assert Suite().all_bodies() == [b"test.text.bin", b"test.text.short.bin"]


def test_a_suite_without_a_body_fails() -> None:
    class Suite(HandlerSuite):
        handler = Text()

    assert "encode_of_decode_is_the_same_bytes" in failing(Suite())


# Memory handlers.


class Flat(MemoryHandler):
    name = "test.flat"

    def check(self, batch: PageBatch) -> None:
        if batch.types.any():
            raise FieldError(field="type", expected="NOTAB", got="another")


class Peeking(Flat):
    def check(self, batch: PageBatch) -> None:
        super().check(batch)
        if batch.pages is None or not batch.pages.any():
            raise FieldError(field="pages", expected="some", got="none")


class Scribbling(Flat):
    def check(self, batch: PageBatch) -> None:
        batch.entries.sort()
        super().check(batch)


class Lax(Flat):
    def check(self, batch: PageBatch) -> None:
        pass


class Crashing(Flat):
    def check(self, batch: PageBatch) -> None:
        if batch.entries.max() >> 60 != 0:
            raise FieldError(field="type", expected="NOTAB", got="another")


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (Flat(), set()),
        (Peeking(), {"good_entries_pass_with_and_without_contents"}),
        (Scribbling(), {"good_entries_pass_with_and_without_contents"}),
        (Lax(), {"what_must_be_refused_is"}),
        (Crashing(), {"an_empty_batch_is_refused_or_fine"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_memory_handler_that_breaks_a_promise_is_caught(
    broken: MemoryHandler, caught: set[str]
) -> None:
    class Suite(MemoryHandlerSuite):
        handler = broken
        good = ((0, 2, 1),)
        refused = ((1 << 60,),)

    found = failing(Suite())
    assert caught <= found
    assert bool(found) == bool(caught)


# Codecs.


class Gzip(Codec):
    name = "gzip"
    levels = (1, 9)
    default_level = 1
    magic = b"\x1f\x8b"

    def compress(self, data: Buffer, level: int) -> Buffer:
        return zlib.compress(data, level)

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        unpacker = zlib.decompressobj()
        try:
            found = unpacker.decompress(data, size_bytes + 1)
        except zlib.error as error:
            raise FieldError(field="data", expected="zlib", got=str(error)) from None
        if len(found) != size_bytes or not unpacker.eof or unpacker.unused_data:
            raise FieldError(field="data", expected=f"{size_bytes} bytes", got="another size")
        return found

    def open_stream(self, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
        unpacker = zlib.decompressobj(wbits=31)

        def unpack(size_bytes: int) -> bytes:
            while not unpacker.eof:
                packed = unpacker.unconsumed_tail or read(size_bytes)
                piece = unpacker.decompress(packed, size_bytes)
                if piece:
                    return piece
                if not packed:
                    raise FieldError(field="file", expected="its end", got="a cut")
            return b""

        return unpack


class Unbounded(Gzip):
    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        try:
            found = zlib.decompress(data)
        except zlib.error as error:
            raise FieldError(field="data", expected="zlib", got=str(error)) from None
        if len(found) != size_bytes:
            raise FieldError(field="data", expected=f"{size_bytes} bytes", got="another size")
        return found


class Generous(Gzip):
    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        try:
            return zlib.decompressobj().decompress(data, size_bytes + 1)[:size_bytes]
        except zlib.error as error:
            raise FieldError(field="data", expected="zlib", got=str(error)) from None


class Talkative(Gzip):
    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        found = super().decompress(data, size_bytes)
        zlib.decompress(data)  # raises what the contract does not know
        return found if size_bytes != 1 else zlib.decompress(b"?")


class Moody(Gzip):
    nr_calls = 0

    def compress(self, data: Buffer, level: int) -> Buffer:
        self.nr_calls += 1
        return zlib.compress(data, 1 + self.nr_calls % 9)


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (Gzip(), set()),
        (Unbounded(), {"a_bomb_is_refused_without_making_what_it_claims"}),
        (
            Generous(),
            {
                "more_or_fewer_bytes_than_expected_are_refused",
                "data_with_more_behind_it_is_refused",
            },
        ),
        (Talkative(), {"decompress_gives_back_what_was_compressed"}),
        (Moody(), {"the_same_data_gives_the_same_bytes_on_any_number_of_threads"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_codec_that_breaks_a_promise_is_caught(broken: Codec, caught: set[str]) -> None:
    class Suite(CodecSuite):
        codec = broken
        stand_alone = gzip.compress(b"content" * 3000)
        stand_alone_content = b"content" * 3000

    found = failing(Suite())
    assert caught <= found
    assert bool(found) == bool(caught)


# Formats.

MAGIC = b"LINE"


class Lines(Format):
    """The magic; for each record its length and body, with their sum; a length of 255."""

    name = "lines"
    suffixes = (".lines",)

    def sniff(self, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def reader(self, source: ByteSource, options: ReadOptions) -> LineReader:
        return LineReader(source)

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> LineWriter:
        return LineWriter(sink)


class LineReader:
    def __init__(self, source: ByteSource) -> None:
        self.info = ImageInfo("lines")
        self.source = source
        if source.take(4, "magic") != MAGIC:
            raise FormatError(what="magic", offset=0, expected="LINE", got="another")

    def __iter__(self) -> Iterator[Event]:
        while (size_bytes := self.source.take(1, "length")[0]) != 255:
            offset = self.source.offset - 1
            body = self.source.take(size_bytes, "body")
            if self.source.take(1, "sum")[0] != (sum(body) + size_bytes) % 256:
                raise FormatError(what="sum", offset=offset, expected="right", got="wrong")
            yield Record(RecordType("test.line"), body, offset)


class LineWriter:
    left_out: Sequence[str] = ()

    def __init__(self, sink: ByteSink) -> None:
        self.sink = sink
        sink.put([MAGIC])

    def put(self, event: Event) -> None:
        assert isinstance(event, Record)
        size_bytes = len(event.body)
        total = (sum(event.body) + size_bytes) % 256
        self.sink.put([bytes([size_bytes]), event.body, bytes([total])])

    def finish(self) -> None:
        self.sink.put([b"\xff"])


class Endless(Lines):
    """Takes the end of the input for the end of the image."""

    def reader(self, source: ByteSource, options: ReadOptions) -> LineReader:
        class Reader(LineReader):
            def __iter__(self) -> Iterator[Event]:
                events = super().__iter__()
                while not source.at_end():
                    try:
                        yield next(events)
                    except StopIteration:
                        return

        return Reader(source)


class Greedy(Lines):
    """Takes what is behind the end, too."""

    def reader(self, source: ByteSource, options: ReadOptions) -> LineReader:
        class Reader(LineReader):
            def __iter__(self) -> Iterator[Event]:
                yield from super().__iter__()
                while not source.at_end():
                    source.take(1, "more")

        return Reader(source)


class Gullible(Lines):
    def sniff(self, head: bytes) -> bool:
        return not head or head[0] != ord("#")


class Unreliable(Lines):
    """Raises what the contract does not know."""

    def reader(self, source: ByteSource, options: ReadOptions) -> LineReader:
        if source.peek(4) != MAGIC:
            raise ValueError("what is this?")
        return LineReader(source)


class Seeking(Lines):
    def reader(self, source: ByteSource, options: ReadOptions) -> LineReader:
        assert source.size_bytes is not None
        return LineReader(source)


class Dropping(Lines):
    def reader(self, source: ByteSource, options: ReadOptions) -> LineReader:
        class Reader(LineReader):
            def __iter__(self) -> Iterator[Event]:
                events = list(super().__iter__())
                yield from events[: None if options.pages is PageMode.FULL else 1]

        return Reader(source)


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (Lines(), set()),
        (Endless(), {"an_image_cut_anywhere_is_refused"}),
        (Greedy(), {"trailing_bytes_are_refused_or_left"}),
        (Gullible(), {"its_own_images_are_recognised_and_garbage_is_not"}),
        (Unreliable(), {"any_bytes_are_refused_or_read"}),
        (Seeking(), {"a_pipe_gives_the_same_events_as_a_file"}),
        (Dropping(), {"skipped_pages_leave_everything_else", "carried_pages_give_the_same_bytes"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_format_that_breaks_a_promise_is_caught(broken: Format, caught: set[str]) -> None:
    class Suite(FormatSuite):
        format = broken
        max_examples = 20

        def events(self) -> Sequence[Event]:
            return [Record(RecordType("test.line"), body) for body in (b"one", b"", b"three")]

    found = failing(Suite())
    assert caught <= found
    assert bool(found) == bool(caught)


class Checked(Lines):
    """Two bytes more, so that a changed length is noticed."""

    def reader(self, source: ByteSource, options: ReadOptions) -> LineReader:
        class Reader(LineReader):
            def __iter__(self) -> Iterator[Event]:
                yield from super().__iter__()
                if bytes(source.take(2, "end")) != b"OK" or not source.at_end():
                    raise FormatError(what="end", offset=0, expected="OK", got="another")

        return Reader(source)

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> LineWriter:
        class Writer(LineWriter):
            def finish(self) -> None:
                sink.put([b"\xffOK"])

        return Writer(sink)


@pytest.mark.parametrize("careless", [False, True])
def test_damage_without_notice_is_caught_where_a_format_claims_to_find_it(careless: bool) -> None:
    class Suite(FormatSuite):
        format = Checked()
        finds_damage = True

        def events(self) -> Sequence[Event]:
            return [Record(RecordType("test.line"), b"one"), Record(RecordType("test.line"), b"")]

        def read(self, source: ByteSource, pages: PageMode = PageMode.FULL) -> list[Event]:
            try:
                return super().read(source, pages)
            except FormatError:
                if careless:
                    return []
                raise

    assert ("damage_is_refused_or_read_as_something_else" in failing(Suite())) == careless
