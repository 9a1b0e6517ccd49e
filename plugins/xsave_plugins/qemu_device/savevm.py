"""QEMU's saved devices: finding the sections of a ``QEVM`` blob, and what is in them.

The data of a section has no length, which only the device itself knows. Four ways to find
where it ends, tried in this order for each section:

``description``
    JSON after the end, which gives the size of every field. Full migration streams.
``footer``
    0x7E and the section's number after its data. Full migration streams since 2.4.
``known``
    A description of that device and version, collected from streams of a QEMU that is known,
    fits: the data can be read field by field, and where it ends the next section begins, or
    the whole ends. What Xen asks for has neither of the above, so this is the usual case.
``heuristic``
    Look for the next thing that could be a section's header, at every byte. No more than an
    educated guess.

Nothing may be rewritten on the word of the last two. Nothing here raises: a blob that cannot
be walked is shown with fewer sections. Every way is linear in the size of the blob, and the
number of sections kept is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from attrs import field

from xsave import define, frozen

from .description import Description, find_description
from .grammar import (
    COMMAND,
    CONFIGURATION,
    END,
    EOF,
    FOOTER_BYTES,
    FULL,
    HEAD_BYTES,
    KINDS,
    PART,
    START,
    SUBSECTION,
    Header,
    number_at,
    read_header,
    split_idstr,
)
from .known import known_descriptions
from .shape import Fitting, MisfitError, Shape

MAX_SECTIONS = 1 << 14  # three for each vcpu, and some dozens
# False starts and ends that are looked at; a device's data has none, as a rule.
MAX_FALSE = 1 << 16
# What is read to find out which descriptions fit; 128 vcpus need a fifth of it.
MAX_VALUES_TRIED = 1 << 22

# Of a section's header as far as a heuristic may believe it: ids are handed out one by
# one, a few dozen in a machine. No two candidates can overlap in these four bytes.
_CANDIDATE = re.compile(rb"\x04\0\0[\0-\x03](?=.[\x02-\xff][0-9A-Za-z][\x20-\x7e])", re.DOTALL)
_MAX_ID = 1000

OWN = "its own description"


@frozen
class Section:
    """One section as found.

    :ivar kind: "full" in Xen's blobs; "start", "part", "end" in migration streams.
    :ivar section_id: number within this blob.
    :ivar path: of a PCI device, "0000:00:01.3"; else "".
    :ivar name: of the device, as QEMU calls it.
    :ivar offset: of the section's first byte, in the blob.
    :ivar data_offset: of its data, in the blob.
    :ivar data_size_bytes: without a footer.
    :ivar found_by: how its end was found: see the module's text.
    :ivar shapes: descriptions that fit its data, by whose they are: a QEMU version, or ``OWN``.
    """

    kind: str
    section_id: int
    path: str
    name: str
    instance_id: int
    version_id: int
    offset: int
    data_offset: int
    data_size_bytes: int
    found_by: str
    shapes: Mapping[str, Shape] = field(factory=dict, repr=False, eq=False)

    def decode(self, blob: bytes, whose: str) -> dict[str, Any]:
        """Its fields by name, by the description of that QEMU, which fits."""
        end = self.data_offset + self.data_size_bytes
        return Fitting(blob, end, self.data_offset).structure(self.shapes[whose])


@frozen
class Walk:
    """What a blob holds, as far as can be told.

    :ivar machine: type of the machine, from the configuration section; "" without one.
    :ivar remarks: what is unlike a blob written for Xen, in words.
    :ivar end: offset of the end mark; None if there is none where it should be.
    :ivar is_described: whether it has a description of its own behind the end mark.
    :ivar has_gaps: whether there are bytes that belong to no section.
    :ivar fits: versions of QEMU whose descriptions, as collected here, fit every section of a
        blob without one.
    """

    version: int
    sections: tuple[Section, ...]
    machine: str = ""
    remarks: tuple[str, ...] = ()
    end: int | None = None
    is_described: bool = False
    fits: tuple[str, ...] = ()
    has_gaps: bool = False

    @property
    def is_proved(self) -> bool:
        """Whether sections follow each other up to the end mark, each found by what the stream
        itself says: a cut would have been noticed."""
        return (
            self.end is not None
            and not self.has_gaps
            and all(one.found_by in ("description", "footer") for one in self.sections)
        )


def walk(blob: bytes) -> Walk:
    """Find the sections of a blob that begins with ``MAGIC``, at least ``MIN_BYTES`` long."""
    version = number_at(blob, 4)
    if version != 3:
        return Walk(version, (), remarks=("version 2 has other sections, none are looked for",))
    return _Walker(blob, HEAD_BYTES).walk()


def walk_devices(tail: bytes) -> Walk:
    """The same for what follows the memory of a full migration stream."""
    return _Walker(tail, 0).walk()


@define
class _Walker:
    """:ivar start: of the first section."""

    blob: bytes
    start: int
    machine: str = ""
    sections: list[Section] = field(factory=list)
    has_footers: bool | None = None  # once a section showed it
    has_gaps: bool = False  # bytes that belong to no section
    nr_values_tried: int = 0
    nr_false_footers: int = 0

    @cached_property
    def description(self) -> Description | None:
        return find_description(self.blob, self.start)

    @cached_property
    def limit(self) -> int:
        """Where the sections and the end mark are over."""
        return len(self.blob) if self.description is None else self.description.start

    @cached_property
    def data_limit(self) -> int:
        """Where the last section is over: before the end mark, if there is one."""
        return self.limit - (self.blob[self.limit - 1] == EOF)

    @cached_property
    def candidates(self) -> Iterator[Header]:
        """Headers that could be, for the heuristic: plausible ones, in order. Each is looked at
        once: what was passed over is behind, or has an id that came before."""
        found = _CANDIDATE.finditer(self.blob, self.start, self.data_limit)
        for one in islice(found, MAX_FALSE):
            header = read_header(self.blob, one.start(), self.data_limit)
            if header is not None and header.section_id < _MAX_ID and header.is_plausible:
                yield header

    def walk(self) -> Walk:
        end = self._walk_sections()
        is_described = self.description is not None
        fits = () if is_described else _fit_all(self.sections)
        remarks = tuple(self._remarks(end))
        return Walk(
            3, tuple(self.sections), self.machine, remarks, end, is_described, fits, self.has_gaps,
        )  # fmt: skip

    def _walk_sections(self) -> int | None:
        """:returns: offset of the end mark."""
        blob, limit, offset = self.blob, self.limit, self.start
        started: dict[int, Header] = {}
        while offset < limit and len(self.sections) < MAX_SECTIONS:
            kind = blob[offset]
            if kind == EOF and offset == limit - 1:
                return offset
            if kind == CONFIGURATION and offset == HEAD_BYTES == self.start:
                machine, offset = _read_configuration(blob, limit)
                self.machine = machine.decode("ascii", "backslashreplace")
                continue
            if kind == COMMAND and offset + 5 <= limit:
                offset += 5 + int.from_bytes(blob[offset + 3 : offset + 5], "big")
                continue
            header = _read_any_header(blob, offset, limit, started)
            found = None if header is None else self._find_data_end(header)
            if found is None:
                self.has_gaps = True
                last_id = self.sections[-1].section_id if self.sections else -1
                header = self._next_candidate(offset, last_id)
                found = None if header is None else self._find_data_end(header)
            if header is None or found is None:
                return None
            data_end, offset, found_by, shapes = found
            self.sections.append(_section(header, data_end, found_by, shapes))
        return None

    def _find_data_end(self, header: Header) -> tuple[int, int, str, dict[str, Shape]] | None:
        """Where the data ends, where the next section begins, how that was found, and the
        descriptions that fit."""
        start, is_full = header.data_offset, header.kind == FULL
        if is_full and (told := self._described(header)) is not None:
            data_end = start + told[0]
            has_footer = self.blob.startswith(header.footer, data_end)
            return data_end, data_end + FOOTER_BYTES * has_footer, "description", told[1]
        if self.has_footers is not False and (at := self._find_footer(header)) is not None:
            self.has_footers = True
            shapes = self._known(header, at) if is_full and self.description is None else {}
            return at, at + FOOTER_BYTES, "footer", shapes.get(at, {})
        is_believed = header.is_plausible and header.section_id < _MAX_ID
        if not is_full or not is_believed or start > self.data_limit:
            return None
        self.has_footers = False
        fitting = self._known(header, None)
        if len(fitting) == 1:  # several would be a riddle, and none is the rule for the unknown
            ((data_end, shapes_there),) = fitting.items()
            return data_end, data_end, "known", shapes_there
        following = self._next_candidate(start, header.section_id)
        data_end = self.data_limit if following is None else following.offset
        return data_end, data_end, "heuristic", {}

    def _described(self, header: Header) -> tuple[int, dict[str, Shape]] | None:
        """Size of a section's data, and its shape if that fits, by the blob's own description."""
        if self.description is None:
            return None
        device = self.description.devices.get((header.idstr.decode("latin-1"), header.instance_id))
        if device is None:
            return None
        size, shape = device
        if header.data_offset + size >= self.limit:
            return None
        end = self._end_by(shape, header.data_offset, header.data_offset + size)
        return size, {OWN: shape} if end == header.data_offset + size else {}

    def _end_by(self, shape: Shape, start: int, limit: int) -> int | None:
        """Where data of that shape would end; None if it is not of it."""
        if self.nr_values_tried > MAX_VALUES_TRIED:
            return None
        fitting = Fitting(self.blob, limit, start)
        try:
            fitting.structure(shape)
        except MisfitError:
            return None
        finally:
            self.nr_values_tried += fitting.nr_values
        return fitting.at

    def _find_footer(self, header: Header) -> int | None:
        at = self.blob.find(header.footer, header.data_offset, self.limit)
        while at >= 0:
            if _can_follow_footer(self.blob, at + FOOTER_BYTES, self.limit):
                return at
            self.nr_false_footers += 1
            if self.nr_false_footers > MAX_FALSE:
                return None
            at = self.blob.find(header.footer, at + 1, self.limit)
        return None

    def _known(self, header: Header, data_end: int | None) -> dict[int, dict[str, Shape]]:
        """Ends that a known description gives the data, and whose they are.

        :param data_end: where it ends; None if that is what shall be found out.
        """
        found: dict[int, dict[str, Shape]] = {}
        name = split_idstr(header.idstr.decode("latin-1"))[1]
        for known in known_descriptions().shapes(name, header.version_id):
            at = self._end_by(known.shape, header.data_offset, self.limit)
            if at is None:
                continue
            if at == data_end or (data_end is None and self._can_follow_data(at, header)):
                found.setdefault(at, {}).setdefault(known.qemu, known.shape)
        return found

    def _can_follow_data(self, offset: int, header: Header) -> bool:
        """Whether the next section is here, or the end mark."""
        if offset == self.limit - 1:
            return self.blob[offset] == EOF
        if offset >= self.limit or self.blob[offset] != FULL:
            return False
        following = read_header(self.blob, offset, self.limit)
        return (
            following is not None
            and following.is_plausible
            and header.section_id < following.section_id < _MAX_ID
        )

    def _next_candidate(self, offset: int, section_id: int) -> Header | None:
        """The next thing that could be a header, with an id that goes up."""
        return next(
            (
                one
                for one in self.candidates
                if one.offset >= offset and one.section_id > section_id
            ),
            None,
        )

    def _remarks(self, end: int | None) -> Iterator[str]:
        blob, sections = self.blob, self.sections
        if len(sections) == MAX_SECTIONS:
            yield f"only the first {MAX_SECTIONS} sections are listed"
        if any(section.name == "ram" for section in sections):
            yield "it has a section ram: this is a full migration stream, not a record for Xen"
        if blob[self.start] not in (EOF, START, FULL, CONFIGURATION, COMMAND):
            yield f"no section begins at offset {self.start}"
        elif self.has_gaps:
            yield "there are bytes that belong to no section"
        if blob[self.limit - 1] != EOF:
            yield "the last byte is no end mark"
        devices = [one for one in sections if one.kind == KINDS[FULL]]
        unknown = sorted({one.name for one in devices if not one.shapes})
        if self.description is None and unknown and any(one.shapes for one in devices):
            yield f"no description is known that fits {', '.join(unknown)}"


def _fit_all(sections: Sequence[Section]) -> tuple[str, ...]:
    """Versions whose descriptions fit each of the devices."""
    devices = [one for one in sections if one.kind == KINDS[FULL]]
    if not devices:
        return ()
    return tuple(
        version
        for version in known_descriptions().versions
        if all(version in one.shapes for one in devices)
    )


def _section(header: Header, data_end: int, found_by: str, shapes: dict[str, Shape]) -> Section:
    path, name = split_idstr(header.idstr.decode("ascii", "backslashreplace"))
    return Section(
        KINDS[header.kind], header.section_id, path, name, header.instance_id,
        header.version_id, header.offset, header.data_offset, data_end - header.data_offset,
        found_by, shapes,
    )  # fmt: skip


def _read_any_header(
    blob: bytes, offset: int, end: int, started: dict[int, Header]
) -> Header | None:
    kind = blob[offset]
    if kind in (START, FULL):
        header = read_header(blob, offset, end)
        if header is not None and kind == START:
            started[header.section_id] = header
        return header
    if kind in (PART, END) and offset + 5 <= end:
        first = started.get(number_at(blob, offset + 1))
        if first is not None:
            return Header(
                kind, first.section_id, first.idstr, first.instance_id, first.version_id,
                offset, offset + 5,
            )  # fmt: skip
    return None


def _can_follow_footer(blob: bytes, offset: int, end: int) -> bool:
    """Guest data may hold what looks like a footer: look at what comes next, too. An end mark
    does even where more comes: then the rest belongs to nothing."""
    if offset >= end:
        return False
    kind = blob[offset]
    if kind in (START, FULL):
        header = read_header(blob, offset, end)
        return header is not None and header.is_plausible
    return kind == EOF or (kind in (PART, END, COMMAND) and offset + 5 <= end)


def _read_configuration(blob: bytes, end: int) -> tuple[bytes, int]:
    """The machine's type, and the offset after the configuration with its sub-sections."""
    size = number_at(blob, HEAD_BYTES + 1)
    start = HEAD_BYTES + 5
    offset = start + size
    while offset + 2 <= end and blob[offset] == SUBSECTION:
        after_name = offset + 2 + blob[offset + 1]
        name = blob[offset + 2 : after_name]
        data = after_name + 4  # after the version
        if name == b"configuration/target-page-bits":
            offset = data + 4
        elif name == b"configuration/uuid":
            offset = data + 16
        elif name == b"configuration/capabilities":
            offset = data + 4
            for _ in range(min(number_at(blob, data), 256)):
                offset += 1 + (blob[offset] if offset < end else 0)
        else:
            break  # the caller finds no section here, and gives up
    return blob[start : start + min(size, 256)], offset
