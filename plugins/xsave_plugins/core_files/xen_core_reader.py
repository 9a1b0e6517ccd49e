"""A core file of Xen's own in, events out: its sections as records, its pages by pfn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from xsave import (
    Buffer,
    ByteSource,
    Cursor,
    FormatError,
    GuestType,
    ImageInfo,
    PageBatch,
    PageMode,
    PlacedPages,
    RandomAccess,
    RandomSource,
    ReadOptions,
    Record,
    RecordType,
    TruncatedError,
    UsageError,
    frozen,
)

from . import elf, xen_core
from .records import PAGES
from .xen_core_records import FRAMES, FRAMES_MAX, INFO, SHARED_INFO, VCPUS, xen_vcpus_body

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Event

PAGE = elf.PAGE_SIZE
BATCH_PFNS = 1024
SECTIONS_MAX = 64
HEADERS_AT_MAX = 1 << 20  # bytes before the section headers
NAMES_MAX = 4096
PFN_LIMIT = 1 << 52  # of an entry


@frozen
class _Headers:
    """:ivar names_in: which section has the names.
    :ivar sections: with the place of each one's header in the file.
    """

    machine: int
    names_in: int
    sections: tuple[tuple[elf.Section, int], ...]


@frozen
class _Pages:
    """Where pages and their frame numbers are.

    :ivar words: u64 words of an entry: the pfn alone, or a frame behind it.
    """

    offset: int
    table: int
    nr_pages: int
    words: int


class XenCoreReader:
    """The list of pfns is behind the pages, so an input that lies in a file is needed as soon
    as more than the headers is asked for."""

    def __init__(self, source: ByteSource, options: ReadOptions) -> None:
        self._source = source
        self._skips = options.pages is PageMode.SKIP
        self._headers = _read_headers(source)
        self.info = ImageInfo(
            format="xen-core",
            guest_type=GuestType.UNKNOWN,
            details={"machine": self._headers.machine, "nr_sections": len(self._headers.sections)},
        )

    def __iter__(self) -> Iterator[Event]:
        source = self._source
        if not isinstance(source, RandomSource):
            raise UsageError(
                "a core file of Xen's own is read from a file, and not from a pipe or unpacked "
                "on the way, since its list of pages is behind them: unpack it into a file first"
            )
        sections = _Sections(source, self._headers)
        yield from _records(sections, self._headers.machine)
        pages = _pages_in(sections)
        if pages.words == 2:
            yield from _frames(source, pages)
        if pages.nr_pages:
            if pages.offset < source.offset:
                raise _wrong(
                    "sh_offset of .xen_pages", source.offset, "pages behind the headers",
                    str(pages.offset),
                )  # fmt: skip
            source.skip(pages.offset - source.offset, "what is before the pages")
        for start in range(0, pages.nr_pages, BATCH_PFNS):
            number = min(BATCH_PFNS, pages.nr_pages - start)
            yield self._batch(source, pages, start, number)
        source.skip(source.size_bytes - source.offset, "what is behind the pages")

    def _batch(self, source: RandomSource, pages: _Pages, start: int, number: int) -> PageBatch:
        entries, filled = _entries(source, pages, start, number)
        offset, contents = source.offset, None
        if self._skips:
            source.skip(number * PAGE, "pages")
        else:
            taken = source.take(number * PAGE, "pages")
            contents = np.frombuffer(taken, np.uint8).reshape(number, PAGE)
            if len(entries) < number:
                contents = contents[filled]
        return PageBatch(RecordType(PAGES), entries, contents, len(entries), offset)


def xen_core_finder(image: RandomAccess) -> PlacedPages:
    """Pages by pfn: of the list of pfns only ranges are kept.

    :raises StreamError: the image's headers are wrong.
    """
    pages = _pages_in(_Sections(image, _read_headers(Cursor(image))))

    def read_entries(start: int, number: int) -> NDArray[np.uint64]:
        return _entries(image, pages, start, number)[0]

    finder = PlacedPages(image, read_entries)
    for start in range(0, pages.nr_pages, BATCH_PFNS):
        number = min(BATCH_PFNS, pages.nr_pages - start)
        entries, filled = _entries(image, pages, start, number)
        if not len(entries):
            continue
        if not filled[: len(entries)].all():
            raise FormatError(
                what=xen_core.PFN, offset=pages.table, expected="slots without a page at the end",
                got=f"one among slots {start} to {start + number - 1}",
            )  # fmt: skip
        at = pages.offset + start * PAGE
        finder.add((int(entries.min()), int(entries.max())), start, number, at)
    return finder


def _read_headers(source: ByteSource) -> _Headers:
    header = elf.Header.decode(source.take(elf.Header.SIZE, "ELF header"))
    if header.type != elf.ET_CORE or header.shentsize != elf.Section.SIZE:
        raise _wrong(
            "ELF header", 16, f"a core file with section headers of {elf.Section.SIZE} bytes",
            f"type {header.type}, headers of {header.shentsize} bytes",
        )  # fmt: skip
    if header.machine not in (elf.EM_386, elf.EM_X86_64):
        raise _wrong("e_machine", 18, f"{elf.EM_386} or {elf.EM_X86_64}", str(header.machine))
    if not 1 < header.shnum <= SECTIONS_MAX:
        raise _wrong("e_shnum", 60, f"2 to {SECTIONS_MAX} sections", str(header.shnum))
    if header.shstrndx >= header.shnum:
        raise _wrong("e_shstrndx", 62, f"a section below {header.shnum}", str(header.shstrndx))
    if not elf.Header.SIZE <= header.shoff <= HEADERS_AT_MAX:
        raise _wrong("e_shoff", 40, f"64 to {HEADERS_AT_MAX}", str(header.shoff))
    source.skip(header.shoff - source.offset, "what is before the section headers")
    table = source.take(header.shnum * elf.Section.SIZE, "section headers")
    sections = tuple(
        (elf.Section.decode_at(table, at), header.shoff + at)
        for at in range(0, len(table), elf.Section.SIZE)
    )
    return _Headers(header.machine, header.shstrndx, sections)


class _Sections:
    """Those of a file, by name, each in the file as a whole."""

    def __init__(self, image: RandomAccess, headers: _Headers) -> None:
        self._image = image
        self._file_bytes = image.size_bytes
        names, where = headers.sections[headers.names_in]
        self._check(names, where, xen_core.SHSTRTAB, NAMES_MAX)
        text = bytes(image.read_at(names.offset, names.size, "names of the sections"))
        self._found: dict[str, tuple[elf.Section, int]] = {}
        for one, at in headers.sections[1:]:
            name = text[one.name :].split(b"\0")[0].decode("ascii", "replace")
            self._found.setdefault(name, (one, at))

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def find(self, name: str, size_max: int) -> tuple[elf.Section, int]:
        """With the place of its header."""
        if name not in self._found:
            there = ", ".join(sorted(self._found))
            raise _wrong("sections", elf.Header.SIZE, name, f"only {there}")
        one, at = self._found[name]
        self._check(one, at, name, size_max)
        return one, at

    def body(self, name: str, size_max: int) -> tuple[memoryview, int]:
        """All of it, and where it is."""
        one, _ = self.find(name, size_max)
        return self._image.read_at(one.offset, one.size, name), one.offset

    def _check(self, one: elf.Section, at: int, name: str, size_max: int) -> None:
        if one.size > size_max:
            raise _wrong(f"sh_size of {name}", at + 32, f"at most {size_max}", str(one.size))
        if one.offset + one.size > self._file_bytes:
            raise TruncatedError(
                what=name, offset=one.offset, expected=f"{one.size} bytes",
                got=str(max(self._file_bytes - one.offset, 0)),
            )  # fmt: skip


def _records(sections: _Sections, machine: int) -> Iterator[Record]:
    body, offset = sections.body(xen_core.NOTE, xen_core.NOTES_BYTES)
    yield _record(INFO, body, offset)
    limit = xen_core.VCPUS_MAX * xen_core.CONTEXT_BYTES
    body, offset = sections.body(xen_core.PRSTATUS, limit)
    yield _record(VCPUS, xen_vcpus_body(machine, body), offset)
    if xen_core.SHARED_INFO in sections:
        body, offset = sections.body(xen_core.SHARED_INFO, xen_core.SHARED_INFO_BYTES)
        yield _record(SHARED_INFO, body, offset)


def _pages_in(sections: _Sections) -> _Pages:
    """:raises FormatError: pages and the list of their pfns do not belong together."""
    pages, at = sections.find(xen_core.PAGES, PFN_LIMIT * PAGE)
    nr_pages, rest = divmod(pages.size, PAGE)
    if rest:
        raise _wrong("sh_size of .xen_pages", at + 32, f"a multiple of {PAGE}", str(pages.size))
    words = 2 if xen_core.P2M in sections else 1
    name = xen_core.P2M if words == 2 else xen_core.PFN
    table, at = sections.find(name, PFN_LIMIT)
    if table.size != nr_pages * words * 8:
        raise _wrong(
            f"sh_size of {name}", at + 32, f"{nr_pages * words * 8} for {nr_pages} pages",
            str(table.size),
        )  # fmt: skip
    return _Pages(pages.offset, table.offset, nr_pages, words)


def _frames(image: RandomAccess, pages: _Pages) -> Iterator[Record]:
    for start in range(0, pages.nr_pages, FRAMES_MAX):
        number = min(FRAMES_MAX, pages.nr_pages - start)
        offset = pages.table + start * 16
        yield _record(FRAMES, image.read_at(offset, number * 16, xen_core.P2M), offset)


def _entries(
    image: RandomAccess, pages: _Pages, start: int, number: int
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """:returns: of these slots the pfns that there are; and (number,) which those are."""
    step = 8 * pages.words
    offset = pages.table + start * step
    listed = np.frombuffer(image.read_at(offset, number * step, "list of pfns"), "<u8")
    pfns = listed[:: pages.words].astype(np.uint64)
    filled = pfns != xen_core.NO_FRAME
    pfns = pfns[filled]
    if len(pfns) and int(pfns.max()) >= PFN_LIMIT:
        raise _wrong("list of pfns", offset, f"pfns below {PFN_LIMIT:#x}", f"{pfns.max():#x}")
    return pfns, filled


def _record(name: str, body: Buffer, offset: int) -> Record:
    return Record(RecordType(name, mandatory=False), body, offset)


def _wrong(what: str, offset: int, expected: str, got: str) -> FormatError:
    return FormatError(what=what, offset=offset, expected=expected, got=got)
