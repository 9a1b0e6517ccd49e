"""A toy world for the pipeline: a format, handlers and a codec of a few lines each.

Its images begin with ``TOY`` and a newline, the kind of guest and the name of a codec;
each record has a head with its name, and a head without a name is the end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from attrs import define, field, frozen

from xsave import (
    BROKEN,
    Buffer,
    ByteSink,
    ByteSource,
    Codec,
    CodecChoice,
    Event,
    FieldError,
    Format,
    FormatError,
    GuestType,
    Handler,
    ImageInfo,
    LossError,
    MemoryHandler,
    PageBatch,
    PageMode,
    Phase,
    PluginInfo,
    PluginManager,
    RawEntries,
    ReadOptions,
    Record,
    RecordHandler,
    RecordType,
    Remark,
    StreamCheck,
    WriteOptions,
    build_manager,
    hookimpl,
)
from xsave.testing import MemorySink
from xsave.testing.strategies import pages_of

MAGIC = b"TOY\n"
HEAD = struct.Struct("<BBBxII")  # length of the name, version, flags, size, stored size
MANDATORY, MEMORY = 1, 2  # flags
GUESTS = tuple(GuestType)
PAGE_SIZE = 4096
FLIPPED = bytes(reversed(range(256)))

T = TypeVar("T")


def variant(kind: type[T], **attributes: Any) -> T:
    """An object of a class like this one, with other class attributes."""
    made: T = type(kind.__name__, (kind,), attributes)()
    return made


class Flip(Codec):
    """Does not compress; keeps the level in front, so that tests can see it."""

    name = "flip"
    levels = (1, 9)
    default_level = 3
    magic = b"FLIP"

    def compress(self, data: Buffer, level: int) -> Buffer:
        return bytes([level]) + bytes(data).translate(FLIPPED)

    def decompress(self, data: Buffer, size_bytes: int) -> Buffer:
        if len(data) != size_bytes + 1:
            raise FieldError(field="data", expected=f"{size_bytes}", got=f"{len(data) - 1}")
        return bytes(data[1:]).translate(FLIPPED)

    def open_stream(self, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
        magic = read(len(self.magic))
        assert magic == self.magic
        return lambda size_bytes: read(size_bytes).translate(FLIPPED)


def flipped_file(data: bytes) -> bytes:
    """As the codec's own program would write it."""
    return Flip.magic + data.translate(FLIPPED)


class Text(RecordHandler[str]):
    """A record that is some text."""

    name = "toy.text"
    phase = Phase.END_OF_CHECKPOINT

    def decode(self, body: memoryview) -> str:
        if not body:
            raise FieldError(field="text", expected="some", got="none")
        return bytes(body).decode()

    def encode(self, state: str) -> Sequence[Buffer]:
        return (state.encode(),)


class Pages(MemoryHandler):
    name = "toy.pages"

    def check(self, batch: PageBatch) -> None:
        if (found := batch.entry_list.first_of({BROKEN})) is not None:
            raise FieldError(field="type", expected="a sound page", got=f"pfn {found[1]:#x}")


class Toy(Format):
    name = "toy"
    suffixes: ClassVar[tuple[str, ...]] = (".toy",)
    no_place: frozenset[str] = frozenset()  # names of records that it cannot hold
    loses: frozenset[str] = frozenset()  # and of those without which a guest is not whole
    index: Any = None

    def sniff(self, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def reader(self, source: ByteSource, options: ReadOptions) -> ToyReader:
        return ToyReader(self, source, options)

    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> ToyWriter:
        return ToyWriter(self, sink, info, options.codec)

    def page_finder(self, image: Any, options: ReadOptions) -> Any:
        return self.index


class ToyReader:
    def __init__(self, format_: Toy, source: ByteSource, options: ReadOptions) -> None:
        magic, guest, size_bytes = struct.unpack("<4sBB", source.take(6, "image header"))
        if magic != MAGIC:
            raise FormatError(what="magic", offset=0, expected=f"{MAGIC!r}", got=f"{magic!r}")
        codec = bytes(source.take(size_bytes, "codec")).decode()
        self.info = ImageInfo(
            format_.name, GUESTS[guest], details={"pages": options.pages.value, "codec": codec}
        )
        self._source = source
        self._mode = options.pages
        self._codec = options.codecs[codec] if codec else None

    def __iter__(self) -> Iterator[Event]:
        source = self._source
        while True:
            offset = source.offset
            head = HEAD.unpack(source.take(HEAD.size, "record header"))
            name_bytes, version, flags, size_bytes, stored_bytes = head
            if not name_bytes:
                break
            name = bytes(source.take(name_bytes, "name")).decode()
            kind = RecordType(name, version, bool(flags & MANDATORY))
            if flags & MEMORY:
                yield self._batch(kind, offset, size_bytes, stored_bytes)
            else:
                yield Record(kind, self._unpack(name, size_bytes, stored_bytes), offset)
        if not source.at_end():
            raise FormatError(what="end", offset=source.offset, expected="nothing", got="more")

    def _batch(
        self, kind: RecordType, offset: int, size_bytes: int, stored_bytes: int
    ) -> PageBatch:
        entries = RawEntries(self._source.take(size_bytes, f"{kind.name} entries"))
        nr_pages = entries.nr_pages()
        if self._mode is PageMode.SKIP:
            self._source.skip(stored_bytes, f"{kind.name} pages")
            return PageBatch(kind, entries, None, nr_pages, offset)
        body = self._unpack(f"{kind.name} pages", nr_pages * PAGE_SIZE, stored_bytes)
        pages = np.frombuffer(body, np.uint8).reshape(nr_pages, PAGE_SIZE)
        return PageBatch(kind, entries, pages, nr_pages, offset)

    def _unpack(self, what: str, size_bytes: int, stored_bytes: int) -> Buffer:
        stored = self._source.take(stored_bytes, what)
        return stored if self._codec is None else self._codec.decompress(stored, size_bytes)


class ToyWriter:
    def __init__(
        self, format_: Toy, sink: ByteSink, info: ImageInfo, choice: CodecChoice | None
    ) -> None:
        self.left_out: list[str] = []
        self._format = format_
        self._sink = sink
        self._choice = choice
        codec = b"" if choice is None else choice.codec.name.encode()
        guest = GUESTS.index(info.guest_type)
        sink.put([struct.pack("<4sBB", MAGIC, guest, len(codec)), codec])

    def put(self, event: Event) -> None:
        if event.name in self._format.no_place:
            self.left_out.append(event.name)
            return
        if event.name in self._format.loses:
            raise LossError(losses={event.name: 1}, kept_by="toy")
        flags = MANDATORY if event.type.mandatory else 0
        before, content = b"", b""
        if isinstance(event, Record):
            content = bytes(event.body)
            size_bytes = len(content)
        else:
            assert event.pages is not None
            flags |= MEMORY
            before, content = event.entries.astype("<u8").tobytes(), event.pages.tobytes()
            size_bytes = len(before)
        choice = self._choice
        stored = content if choice is None else choice.codec.compress(content, choice.level)
        name = event.name.encode()
        head = HEAD.pack(len(name), event.type.version, flags, size_bytes, len(stored))
        self._sink.put([head, name, before, stored])

    def finish(self) -> None:
        self._sink.put([bytes(HEAD.size)])


class Plugin:
    """A plugin that is an object.

    :param checks: called for each stream, they make a check or give None.
    """

    def __init__(
        self,
        name: str,
        *offers: Any,
        needs: Sequence[str] = (),
        check: Callable[[ImageInfo], StreamCheck | None] | None = None,
    ) -> None:
        self.PLUGIN = PluginInfo(name, "for a test", (1, 1), needs)
        self._offers = offers
        self._check = check

    def _offer(self, kind: type, register: Callable[[Any], None]) -> None:
        for offer in self._offers:
            if isinstance(offer, kind):
                register(offer)

    @hookimpl
    def xsave_register_handlers(self, register: Callable[[Handler], None]) -> None:
        self._offer(Handler, register)

    @hookimpl
    def xsave_register_formats(self, register: Callable[[Format], None]) -> None:
        self._offer(Format, register)

    @hookimpl
    def xsave_register_codecs(self, register: Callable[[Codec], None]) -> None:
        self._offer(Codec, register)

    @hookimpl
    def xsave_make_check(self, info: ImageInfo) -> StreamCheck | None:
        return None if self._check is None else self._check(info)


class Broken(Plugin):
    def _offer(self, kind: type, register: Callable[[Any], None]) -> None:
        raise RuntimeError("not today")


def make_manager(*more: Plugin) -> PluginManager:
    """The toy world, and more plugins.

    Plugin ``toy`` has the format, the codec and the records toy.head (a header), toy.pages,
    toy.text and toy.end; ``extra``, which needs it, has extra.note (optional, before
    toy.text) and extra.must (after toy.text).
    """
    base = Plugin(
        "toy", Toy(), Flip(), Pages(), Text(),
        variant(Text, name="toy.head", phase=Phase.HEADER),
        variant(Text, name="toy.end", phase=Phase.END),
    )  # fmt: skip
    extra = Plugin(
        "extra",
        variant(Text, name="extra.note", mandatory=False, before=frozenset({"toy.text"})),
        variant(Text, name="extra.must", after=frozenset({"toy.text"})),
        needs=["toy"],
    )
    manager = build_manager([])
    for plugin in (base, extra, *more):
        manager.register(plugin)
    return manager


def text(name: str, body: str = "x", *, mandatory: bool = True, version: int = 1) -> Record:
    return Record(RecordType(name, version, mandatory), body.encode())


def pages(
    *pfns: int, seeds: Sequence[int] | None = None, types: Sequence[int] | None = None
) -> PageBatch:
    """A batch of toy.pages. Seeds as for :func:`pages_of`, those of absent pages unused."""
    kinds = types or [0] * len(pfns)
    raw = [kind << 60 | pfn for kind, pfn in zip(kinds, pfns, strict=True)]
    entries = RawEntries(struct.pack(f"<{len(raw)}Q", *raw))
    nr_pages = entries.nr_pages()
    chosen = list(range(nr_pages)) if seeds is None else seeds
    return PageBatch(RecordType("toy.pages"), entries, pages_of(chosen), nr_pages)


def ordinary() -> list[Event]:
    return [
        text("toy.head", "h"),
        pages(0, 1, 2),
        pages(3, 4),
        text("extra.note", "n", mandatory=False),
        text("toy.text", "t"),
        text("extra.must", "m"),
        text("toy.end", "e"),
    ]


def image(
    events: Sequence[Event] | None = None,
    *,
    guest: GuestType = GuestType.X86_HVM,
    codec: CodecChoice | None = None,
) -> bytes:
    """A toy image, by default an ordinary one."""
    sink = MemorySink()
    writer = ToyWriter(Toy(), sink, ImageInfo("toy", guest), codec)
    for event in ordinary() if events is None else events:
        writer.put(event)
    writer.finish()
    return sink.data


def names(data: bytes) -> list[str]:
    """Of the records of a toy image, in order."""
    from xsave.testing import MemorySource

    options = ReadOptions(codecs={"flip": Flip()})
    return [event.name for event in Toy().reader(MemorySource(data), options)]


@frozen
class Stream:
    """A reader of one's own: events that come from nowhere."""

    events: Sequence[Event]
    info: ImageInfo = field(factory=lambda: ImageInfo("nowhere", GuestType.X86_HVM))
    remarks: Sequence[Remark] = ()

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)


@define
class Witness:
    """A check that notes what it is shown, and may refuse some of it."""

    info: ImageInfo
    refuses: frozenset[str] = frozenset()
    seen: list[tuple[str, Any]] = field(factory=list)

    def see_record(self, record: Record, state: Any) -> None:
        self._see(record.name, state)

    def see_pages(self, batch: PageBatch) -> None:
        self._see(batch.name, batch.nr_pfns)

    def finish(self) -> None:
        self._see("finish", None)

    def _see(self, name: str, what: Any) -> None:
        self.seen.append((name, what))
        if name in self.refuses:
            raise FieldError(field="rule", expected="it kept", got="it broken")
