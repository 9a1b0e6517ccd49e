"""Contract: a framing of images. Formats frame and unframe; they do no I/O.

A reader pulls bytes from a :class:`ByteSource` and yields events; a writer takes
events and puts bytes into a :class:`ByteSink`. Both ends are handed in: a file, a pipe,
memory. Pulling was measured against a push parser with a receive buffer: one copy less
for each page body, and a parser that reads like the format's table of contents
(docs/design/0002-formats-pull.md).
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from attrs import field

from .codec import Codec, CodecChoice
from .record import Buffer, ImageInfo, Record, RecordType
from .value_class import frozen
from .workers import Workers

if TYPE_CHECKING:
    from .batch import PageBatch
    from .pages import Entries, Pages

    Event = Record | PageBatch
else:
    Event = Record


class ByteSource(Protocol):
    """Bytes to read, from the start to the end, each once."""

    @property
    def offset(self) -> int:
        """Bytes taken or skipped so far."""

    @property
    def size_bytes(self) -> int | None:
        """Of the whole input, None for a pipe."""

    def take(self, size_bytes: int, what: str) -> memoryview:
        """Exactly so many bytes, in memory of their own: valid as long as they are held.

        The caller has bounded ``size_bytes``.

        :param what: is being read, for the error: "image header".
        :raises TruncatedError: the input ends before.
        """

    def skip(self, size_bytes: int, what: str) -> None:
        """Pass over so many bytes, without reading them where the input can seek."""

    def at_end(self) -> bool:
        """Whether nothing follows."""

    def peek(self, size_bytes: int) -> bytes:
        """Up to so many of the next bytes (at most 4096), not taken."""


class RandomAccess(Protocol):
    """An image that lies in a file."""

    @property
    def size_bytes(self) -> int: ...

    def read_at(self, offset: int, size_bytes: int, what: str) -> memoryview:
        """Exactly so many bytes; TruncatedError if the file is shorter."""


@runtime_checkable
class RandomSource(ByteSource, Protocol):
    """An input that lies in a file, and not compressed: also a :class:`RandomAccess`, which
    leaves ``offset`` of the source where it is."""

    @property
    def size_bytes(self) -> int: ...

    def read_at(self, offset: int, size_bytes: int, what: str) -> memoryview:
        """As in :class:`RandomAccess`."""


class ByteSink(Protocol):
    """Where a writer puts its bytes."""

    @property
    def offset(self) -> int:
        """Bytes put so far."""

    def put(self, parts: Sequence[Buffer]) -> None:
        """All of the parts in order, in one go where possible. They may be reused after."""


@runtime_checkable
class RandomSink(ByteSink, Protocol):
    """A file: bytes also go where they belong, in any order. Where many zeroes in a row are put
    it has a hole: nobody needs to look for them."""

    def put_at(self, offset: int, parts: Sequence[Buffer]) -> None:
        """All of the parts, one after the other, from this offset on; what was there before is
        gone. ``offset`` of the sink does not move. What was never written to is zero."""

    def get_at(self, offset: int, size_bytes: int) -> memoryview:
        """What was put there, in memory of its own; zeroes where nothing was. Of an output
        that was dropped, zeroes."""


class PageMode(enum.Enum):
    """What a reader does with the contents of pages."""

    SKIP = "skip"  # pages is None; bodies are passed over, and not verified
    CHECK = "check"  # verified as with FULL, but nobody looks at them: pages may be None
    CARRY = "carry"  # as the format holds them, verified; pages may be None
    FULL = "full"


@frozen
class ReadOptions:
    """:ivar codecs: by name; a reader that meets another raises MissingPluginError.
    :ivar base: the earlier image that the one to be read was written against. A reader that
        needs it to give what ``pages`` asks for, and has none or another one, raises
        UsageError.
    :ivar nested: the image lies inside another stream: what follows it is none of its reader's
        business. Only said to formats that :attr:`Format.nests`.
    :ivar inside: a reader of what begins at a place of the source and is of another format, one
        that nests; None for what no such format recognises. To be asked while the headers are
        read, and with what to do with the contents of its pages.
    """

    pages: PageMode = PageMode.FULL
    codecs: Mapping[str, Codec] = field(factory=dict)
    workers: Workers = field(factory=Workers)
    base: RandomAccess | None = None
    nested: bool = False
    inside: Callable[[ByteSource, PageMode], Reader | None] = lambda source, pages: None


@frozen
class WriteOptions:
    """:ivar codec: for page bodies and records; None to leave bodies as they are: what was
        read compressed stays so, the rest stays uncompressed.
    :ivar identify: a record type with owner and version filled in, as far as the plugins
        at hand know it.
    :ivar checksum: name of the checksum for formats that offer a choice; "" for theirs.
    :ivar about: who writes and when, for formats that say so: "writer", "created" (both
        text; the time in UTC as in RFC 3339). Formats ask no clock themselves.
    :ivar deltas: whether pages that come again may be written as their difference from what
        they were; None: if what is read has them so. Only asked of formats with
        :attr:`Format.writes_deltas`.
    :ivar base: an earlier image of the same guest: write what changed since; likewise.
    :ivar describe: the fields of a record as JSON values, by the handler in use that knows it;
        None where none does. For formats that hold something else than records.
    """

    codec: CodecChoice | None = None
    codecs: Mapping[str, Codec] = field(factory=dict)
    workers: Workers = field(factory=Workers)
    identify: Callable[[RecordType], RecordType] = lambda kind: kind
    checksum: str = ""
    about: Mapping[str, str] = field(factory=dict)
    deltas: bool | None = None
    base: RandomAccess | None = None
    describe: Callable[[Record], Any] = lambda record: None


@frozen
class Remark:
    """Something about an image that does not stop its being read, for people.

    :ivar text: one sentence or two, without a full stop.
    :ivar is_loss: the guest's state is not whole: whoever wrote the image lost some of it.
    """

    text: str
    is_loss: bool = False


class Reader(Protocol):
    """A stream being read. ``info`` is known before the first event.

    A reader may also have ``remarks``, a sequence of :class:`Remark`: what was wrong with the
    image and could be mended or has to be said. They are asked for after the last event.
    """

    @property
    def info(self) -> ImageInfo: ...

    def __iter__(self) -> Iterator[Event]:
        """All events in order; ends after the format's own end was seen and checked."""


class Writer(Protocol):
    """A stream being written."""

    @property
    def left_out(self) -> Sequence[str]:
        """Names of what this format has no place for, once for each record: optional ones,
        and headers of the container that was read."""

    def put(self, event: Event) -> None:
        """Take the next event. May hold it until a later call.

        :raises XsaveError: the event does not fit here; nothing of it was written.
        """

    def finish(self) -> None:
        """Everything has been put: write what closes the image."""


@frozen
class Loss:
    """Something of a damaged or cut image that is not provably whole.

    :ivar what: a record by its name, or "unknown pieces" and such where that is lost too.
    :ivar offset: bytes from the start of the image; :ivar size_bytes: as far as it goes.
    :ivar reason: what is wrong with it.
    :ivar pfns: pages of these are lost with it: pairs of the first and the last, both included.
    :ivar is_exact: whether ``pfns`` are just those; otherwise any of them may be.
    """

    what: str
    offset: int
    size_bytes: int
    reason: str
    pfns: tuple[tuple[int, int], ...] = ()
    is_exact: bool = True


class SalvageReader(Protocol):
    """A damaged image being read. ``info`` is known before the first event."""

    @property
    def info(self) -> ImageInfo: ...

    def __iter__(self) -> Iterator[Event | Loss]:
        """What is provably whole, and what is not, in the order of the image. In a batch, pfns
        whose contents are lost come as BROKEN. Raises nothing because of damage."""


class PageFinder(Protocol):
    """Pages by pfn, reading only the pieces needed."""

    def entries(self) -> Entries:
        """(n,) u64, ascending by pfn: the latest entry of each pfn the image mentions. Reads
        tables, and no contents."""

    def find(self, pfns: Sequence[int]) -> Mapping[int, tuple[int, Pages | None]]:
        """For each pfn the image mentions: its latest type nibble, and its latest page as
        (1, page_size) u8, None if that type carries none."""


class Format(abc.ABC):
    """One framing, for reading, writing, both or neither.

    One that is neither read nor written is known by sight: ``xsave identify`` names it, and
    the summary says what it is and why it is not read.

    :cvar suffixes: of file names that mean this format when none is named.
    :cvar needs_file: its writer is given a :class:`RandomSink`, and no pipe.
    :cvar writes_deltas: pages can be written as differences: from what they were earlier in
        the stream, or in an earlier image.
    :cvar nests: an image may lie inside one of another format: it says itself where it ends,
        wherever it begins, and its reader takes no byte behind that.
    :cvar has_magic: whether inputs begin with bytes that are made to be recognised. Formats
        without are asked only when no other recognises an input.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    suffixes: ClassVar[tuple[str, ...]] = ()
    needs_file: ClassVar[bool] = False
    readable: ClassVar[bool] = True
    writable: ClassVar[bool] = True
    writes_deltas: ClassVar[bool] = False
    nests: ClassVar[bool] = False
    has_magic: ClassVar[bool] = True

    @abc.abstractmethod
    def sniff(self, head: bytes) -> bool:
        """Whether an input that begins with these bytes (up to 4096) is of this format."""

    def explain(self, head: bytes) -> str:
        """By what an input that :meth:`sniff` accepts is recognised, for people."""
        return f"it begins with {head[:16].hex(' ')}"

    @abc.abstractmethod
    def reader(self, source: ByteSource, options: ReadOptions) -> Reader:
        """Read the headers, and be ready to yield events.

        :raises StreamError: the headers are wrong.
        """

    @abc.abstractmethod
    def writer(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> Writer:
        """Be ready to take events; may write headers at once.

        :param info: of the stream to come.
        """

    def salvage(self, image: RandomAccess, options: ReadOptions) -> SalvageReader | None:
        """Read on behind what is damaged, by means of the image's own checksums. None where
        there are none: then what comes before the damage is all that can be had.

        :raises StreamError: the headers are lost, and nothing can be understood without.
        """
        return None

    def page_finder(self, image: RandomAccess, options: ReadOptions) -> PageFinder | None:
        """Pages by pfn through the image's own index; None if it has none."""
        return None
