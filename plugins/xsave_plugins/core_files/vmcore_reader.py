"""A vmcore in, events out: pages by physical address, and the notes as one record.

Whoever made it: this plugin, QEMU's ``dump-guest-memory``, kdump without compression.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from xsave import (
    ByteSource,
    Cursor,
    Entries,
    FormatError,
    GuestType,
    ImageInfo,
    PageBatch,
    PageMode,
    PlacedPages,
    RandomAccess,
    ReadOptions,
    Record,
    RecordType,
    TruncatedError,
)

from . import elf
from .records import NOTES, NOTES_MAX, PAGES

if TYPE_CHECKING:
    from xsave import Event

PAGE = elf.PAGE_SIZE
BATCH_PFNS = 1024
FOUND_PFNS = 1 << 16  # in a row of the table by which pages are found
SEGMENTS_MAX = elf.PN_XNUM - 1
HEADERS_AT_MAX = 64 << 20  # bytes before the program headers


def vmcore_finder(image: RandomAccess) -> PlacedPages:
    """Pages by pfn: of each segment as much as a batch holds is one entry of its table.

    :raises StreamError: the image's headers are wrong.
    """

    def read_entries(first: int, number: int) -> Entries:
        return np.arange(first, first + number, dtype=np.uint64)

    reader = VmcoreReader(Cursor(image), ReadOptions(PageMode.SKIP))
    finder = PlacedPages(image, read_entries)
    for segment, _ in reader.segments:
        if segment.type != elf.PT_LOAD:
            continue
        if segment.offset + segment.filesz > image.size_bytes:
            raise TruncatedError(
                what="pages of a segment", offset=segment.offset,
                expected=f"{segment.filesz} bytes",
                got=str(max(image.size_bytes - segment.offset, 0)),
            )  # fmt: skip
        first, count = segment.paddr // PAGE, segment.filesz // PAGE
        for start in range(0, count, FOUND_PFNS):
            number = min(FOUND_PFNS, count - start)
            at = first + start
            finder.add((at, at + number - 1), at, number, segment.offset + start * PAGE)
    return finder


class VmcoreReader:
    """Reads from the start to the end: the headers must come before what they speak of.

    :ivar segments: those with contents, in the order of the file, each with the place of its
        header.
    """

    def __init__(self, source: ByteSource, options: ReadOptions) -> None:
        self._source = source
        self._skips = options.pages is PageMode.SKIP
        header = elf.Header.decode(source.take(elf.Header.SIZE, "ELF header"))
        if header.type != elf.ET_CORE or header.phentsize != elf.Segment.SIZE:
            raise self._wrong(
                "ELF header", 16, f"a core file with segments of {elf.Segment.SIZE} bytes",
                f"type {header.type}, segments of {header.phentsize} bytes",
            )  # fmt: skip
        if not 1 <= header.phnum <= SEGMENTS_MAX:
            raise self._wrong("e_phnum", 56, f"1 to {SEGMENTS_MAX} segments", str(header.phnum))
        if not elf.Header.SIZE <= header.phoff <= HEADERS_AT_MAX:
            raise self._wrong("e_phoff", 32, f"64 to {HEADERS_AT_MAX}", str(header.phoff))
        source.skip(header.phoff - source.offset, "what is before the program headers")
        self.segments = self._read_segments(header.phnum)
        self.info = ImageInfo(
            format="vmcore",
            guest_type=GuestType.UNKNOWN,
            details={"machine": header.machine, "nr_segments": header.phnum},
        )

    def _read_segments(self, count: int) -> list[tuple[elf.Segment, int]]:
        """Those with contents, in the order of the file, each with the place of its header."""
        at = self._source.offset
        table = self._source.take(count * elf.Segment.SIZE, "program headers")
        found = []
        for number in range(count):
            where = at + number * elf.Segment.SIZE
            one = elf.Segment.decode_at(table, number * elf.Segment.SIZE)
            if one.type == elf.PT_LOAD:
                self._check_load(one, where)
            if one.type in (elf.PT_LOAD, elf.PT_NOTE) and one.filesz:
                found.append((one, where))
        return sorted(found, key=lambda item: item[0].offset)

    def _check_load(self, one: elf.Segment, where: int) -> None:
        if one.filesz != one.memsz:
            raise self._wrong("p_memsz", where + 40, f"{one.filesz} as p_filesz", str(one.memsz))
        if one.paddr % PAGE or one.filesz % PAGE:
            raise self._wrong(
                "p_paddr and p_filesz", where + 24, f"multiples of {PAGE}",
                f"{one.paddr:#x} and {one.filesz:#x}",
            )  # fmt: skip
        if one.paddr + one.filesz > 1 << 52:
            raise self._wrong("p_paddr", where + 24, "an address of 52 bits", f"{one.paddr:#x}")

    @staticmethod
    def _wrong(what: str, offset: int, expected: str, got: str) -> FormatError:
        return FormatError(what=what, offset=offset, expected=expected, got=got)

    def __iter__(self) -> Iterator[Event]:
        source = self._source
        for segment, where in self.segments:
            if segment.offset < source.offset:
                raise self._wrong(
                    "p_offset", where + 8, f"{source.offset} or more, behind what comes before",
                    str(segment.offset),
                )  # fmt: skip
            source.skip(segment.offset - source.offset, "a gap between segments")
            if segment.type == elf.PT_LOAD:
                yield from self._load(segment)
            else:
                yield self._notes(segment, where)

    def _load(self, segment: elf.Segment) -> Iterator[PageBatch]:
        first, count = segment.paddr // PAGE, segment.filesz // PAGE
        for start in range(0, count, BATCH_PFNS):
            number = min(BATCH_PFNS, count - start)
            offset, pages = self._source.offset, None
            if self._skips:
                self._source.skip(number * PAGE, "pages of a segment")
            else:
                taken = self._source.take(number * PAGE, "pages of a segment")
                pages = np.frombuffer(taken, np.uint8).reshape(number, PAGE)
            pfns = np.arange(first + start, first + start + number, dtype=np.uint64)
            yield PageBatch(RecordType(PAGES), pfns, pages, number, offset)

    def _notes(self, segment: elf.Segment, where: int) -> Record:
        if segment.filesz > NOTES_MAX:
            raise self._wrong("p_filesz", where + 32, f"at most {NOTES_MAX}", str(segment.filesz))
        offset = self._source.offset
        body = self._source.take(segment.filesz, "notes")
        return Record(RecordType(NOTES, mandatory=False), body, offset)
