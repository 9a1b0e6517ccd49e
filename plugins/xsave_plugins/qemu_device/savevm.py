"""QEMU's saved devices: finding the sections of a ``QEVM`` blob.

Grammar and numbers: QEMU migration/savevm.c, its migration documentation, and one blob
that Xen 4.17's QEMU wrote. All integers are big-endian.

The data of a section has no length, which only the device itself knows. Three ways to
find where it ends, tried in this order for each section:

``description``
    JSON after the end, which gives the size of every field. Full migration streams.
``footer``
    0x7E and the section's number after its data. Full migration streams since 2.4.
``heuristic``
    Look for the next thing that could be a section's header, at every byte. What Xen
    asks for has neither of the above, so this is the usual case, and no more than an
    educated guess: nothing may be rewritten on its word.

Nothing here raises: a blob that cannot be walked is shown with fewer sections. Every way
is linear in the size of the blob, and the number of sections kept is bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from attrs import field, frozen

MAGIC = b"QEVM"
VERSIONS = (2, 3)  # 2 is an older layout that no QEMU loads any more
HEAD_BYTES = 8  # magic and version
MIN_BYTES = HEAD_BYTES + 1  # and the end mark

EOF, START, PART, END, FULL = range(5)
SUBSECTION, DESCRIPTION, CONFIGURATION, COMMAND = range(5, 9)
FOOTER = 0x7E
KINDS = {START: "start", PART: "part", END: "end", FULL: "full"}

MAX_SECTIONS = 4096
# QEMU's own are 100 to 300 KB; parsed JSON takes many times its text in memory.
MAX_DESCRIPTION_BYTES = 4 << 20

# Of a section's header as far as a heuristic may believe it: ids are handed out one by
# one, a few dozen in a machine. No two candidates can overlap in these four bytes.
_CANDIDATE = re.compile(rb"\x04\0\0[\0-\x03](?=.[\x02-\xff][0-9A-Za-z][\x20-\x7e])", re.DOTALL)
_MAX_ID = 1000
_NAME = re.compile(rb"[0-9A-Za-z][\x20-\x7e]+")
_PCI_PATH = re.compile(r"((?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7](?::.*)?)/([^/]+)")

DEVICES: Final = {
    "timer": "virtual clock",
    "cpu_common": "cpu: halted state and pending interrupts",
    "cpu": "cpu as QEMU sees it: not the guest's, which the hypervisor keeps",
    "apic": "local interrupt controller as QEMU sees it: not the guest's",
    "fw_cfg": "firmware configuration",
    "PCIBUS": "PCI bus",
    "I440FX": "host bridge",
    "PIIX3": "ISA bridge",
    "dma": "8237 DMA controller",
    "ioapic": "IO interrupt controller",
    "hpet": "high precision event timer",
    "mc146818rtc": "real-time clock",
    "serial": "serial port",
    "fdc": "floppy disk controller",
    "ps2kbd": "PS/2 keyboard",
    "ps2mouse": "PS/2 mouse",
    "pckbd": "8042 keyboard controller",
    "port92": "port 92: A20 gate and reset",
    "ide": "IDE controller and disks",
    "i2c_bus": "SMBus",
    "piix4_pm": "power management (ACPI)",
    "platform": "Xen platform device",
    "vga": "VGA adapter",
    "cirrus_vga": "Cirrus VGA adapter",
    "e1000": "Intel network adapter",
    "rtl8139": "Realtek network adapter",
    "uhci": "USB controller",
    "ram": "guest memory: only in a full migration stream",
    "globalstate": "run state: only in a full migration stream",
}


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


@frozen
class Walk:
    """What a blob holds, as far as can be told.

    :ivar machine: type of the machine, from the configuration section; "" without one.
    :ivar remarks: what is unlike a blob written for Xen, in words.
    """

    version: int
    sections: tuple[Section, ...]
    machine: str = ""
    remarks: tuple[str, ...] = ()


@frozen
class _Header:
    kind: int
    section_id: int
    idstr: bytes
    instance_id: int
    version_id: int
    offset: int
    data_offset: int


@frozen
class _Description:
    """:ivar start: of the byte 0x06 that introduces it.
    :ivar sizes: idstr and instance to the size of the section's data, bytes."""

    start: int
    sizes: dict[tuple[str, int], int] = field(factory=dict)


def walk(blob: bytes) -> Walk:
    """Find the sections of a blob that begins with ``MAGIC``, at least ``MIN_BYTES`` long."""
    version = _u32(blob, 4)
    if version != 3:
        return Walk(version, (), remarks=("version 2 has other sections, none are looked for",))
    exact = _walk_exactly(blob)
    if exact is not None:
        machine, sections, end = exact
    else:
        machine, end = "", len(blob) - (blob[-1] == EOF)
        sections = list(_guess(blob, end))
    return Walk(version, tuple(sections), machine, tuple(_remarks(blob, sections, end)))


def _remarks(blob: bytes, sections: list[Section], end: int) -> Iterator[str]:
    if len(sections) == MAX_SECTIONS:
        yield f"only the first {MAX_SECTIONS} sections are listed"
    if any(section.name == "ram" for section in sections):
        yield "it has a section ram: this is a full migration stream, not a record for Xen"
    if blob[HEAD_BYTES] not in (EOF, START, FULL, CONFIGURATION):
        yield f"no section begins at offset {HEAD_BYTES}"
    if end == len(blob):
        yield "the last byte is no end mark"


def _u32(blob: bytes, offset: int) -> int:
    return int.from_bytes(blob[offset : offset + 4], "big")


def _read_header(blob: bytes, offset: int, end: int) -> _Header | None:
    """The header of a full or a starting section at ``offset``; None if it does not fit."""
    name_offset = offset + 6
    if name_offset > end:
        return None
    after = name_offset + blob[offset + 5]
    if after + 8 > end:
        return None
    return _Header(
        blob[offset], _u32(blob, offset + 1), blob[name_offset:after],
        _u32(blob, after), _u32(blob, after + 4), offset, after + 8,
    )  # fmt: skip


def _is_plausible(header: _Header) -> bool:
    return (
        header.instance_id < 1 << 16
        and header.version_id < 1 << 16
        and _NAME.fullmatch(header.idstr) is not None
    )


def _section(header: _Header, size_bytes: int, found_by: str) -> Section:
    idstr = header.idstr.decode("ascii", "backslashreplace")
    path, name = found.groups() if (found := _PCI_PATH.fullmatch(idstr)) else ("", idstr)
    return Section(
        KINDS[header.kind], header.section_id, path, name, header.instance_id,
        header.version_id, header.offset, header.data_offset, size_bytes, found_by,
    )  # fmt: skip


# The heuristic.


def _guess(blob: bytes, end: int) -> Iterator[Section]:
    """Every header that could be one, with section ids going up."""
    previous: _Header | None = None
    for candidate in _CANDIDATE.finditer(blob, HEAD_BYTES, end):
        offset = candidate.start()
        section_id = _u32(blob, offset + 1)
        if section_id >= _MAX_ID or (previous is not None and section_id <= previous.section_id):
            continue
        header = _read_header(blob, offset, end)
        if header is None or not _is_plausible(header):
            continue
        if previous is not None:
            if offset < previous.data_offset:
                continue
            yield _section(previous, offset - previous.data_offset, "heuristic")
        previous = header
    if previous is not None:
        yield _section(previous, end - previous.data_offset, "heuristic")


# With a description or footers.


def _walk_exactly(blob: bytes) -> tuple[str, list[Section], int] | None:
    """Machine type, sections, and where the end mark is; None when any section has
    neither a description nor a footer."""
    description = _find_description(blob)
    end = len(blob) if description is None else description.start
    machine, offset = "", HEAD_BYTES
    sections: list[Section] = []
    started: dict[int, _Header] = {}
    while offset < end and len(sections) < MAX_SECTIONS:
        kind = blob[offset]
        if kind == EOF and offset == end - 1:
            return machine, sections, offset
        if kind == CONFIGURATION and offset == HEAD_BYTES:
            machine_bytes, offset = _read_configuration(blob, end)
            machine = machine_bytes.decode("ascii", "backslashreplace")
            continue
        if kind == COMMAND and offset + 5 <= end:
            offset += 5 + int.from_bytes(blob[offset + 3 : offset + 5], "big")
            continue
        header = _read_any_header(blob, offset, end, started)
        if header is None:
            return None
        found = _find_data_end(blob, header, end, description)
        if found is None:
            return None
        data_end, offset, found_by = found
        sections.append(_section(header, data_end - header.data_offset, found_by))
    return (machine, sections, offset) if len(sections) == MAX_SECTIONS else None


def _read_any_header(
    blob: bytes, offset: int, end: int, started: dict[int, _Header]
) -> _Header | None:
    kind = blob[offset]
    if kind in (START, FULL):
        header = _read_header(blob, offset, end)
        if header is not None and kind == START:
            started[header.section_id] = header
        return header
    if kind in (PART, END) and offset + 5 <= end:
        first = started.get(_u32(blob, offset + 1))
        if first is not None:
            return _Header(
                kind, first.section_id, first.idstr, first.instance_id, first.version_id,
                offset, offset + 5,
            )  # fmt: skip
    return None


def _find_data_end(
    blob: bytes, header: _Header, end: int, description: _Description | None
) -> tuple[int, int, str] | None:
    """Where the data ends, where the next section begins, and how that was found."""
    footer = bytes([FOOTER]) + header.section_id.to_bytes(4, "big")
    if description is not None and header.kind == FULL:
        size = description.sizes.get((header.idstr.decode("latin-1"), header.instance_id))
        if size is not None and header.data_offset + size < end:
            data_end = header.data_offset + size
            has_footer = blob.startswith(footer, data_end)
            return data_end, data_end + len(footer) * has_footer, "description"
    at = blob.find(footer, header.data_offset, end)
    while at >= 0:
        if _can_follow_footer(blob, at + len(footer), end):
            return at, at + len(footer), "footer"
        at = blob.find(footer, at + 1, end)
    return None


def _can_follow_footer(blob: bytes, offset: int, end: int) -> bool:
    """Guest data may hold what looks like a footer: look at what comes next, too."""
    if offset >= end:
        return False
    kind = blob[offset]
    if kind in (START, FULL):
        header = _read_header(blob, offset, end)
        return header is not None and _is_plausible(header)
    if kind == EOF:
        return offset == end - 1
    return kind in (PART, END, COMMAND) and offset + 5 <= end


def _read_configuration(blob: bytes, end: int) -> tuple[bytes, int]:
    """The machine's type, and the offset after the configuration with its sub-sections."""
    size = _u32(blob, HEAD_BYTES + 1)
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
            for _ in range(min(_u32(blob, data), 256)):
                offset += 1 + (blob[offset] if offset < end else 0)
        else:
            break  # the caller finds no section here, and gives up
    return blob[start : start + min(size, 256)], offset


def _find_description(blob: bytes) -> _Description | None:
    """The JSON after the end mark. Its text has no NUL, and its length, a u32 below 16 MiB
    after the byte 0x06, begins with one: so it starts within four bytes of the last NUL."""
    last_nul = blob.rfind(b"\0", HEAD_BYTES)
    for start in range(last_nul + 1, last_nul + 5):
        head = start - 5
        size = len(blob) - start
        if (
            head > HEAD_BYTES
            and blob[head] == DESCRIPTION
            and blob[head - 1] == EOF
            and 0 < size == _u32(blob, start - 4) <= MAX_DESCRIPTION_BYTES
        ):
            try:
                return _Description(head, _described_sizes(json.loads(blob[start:])))
            except (
                ValueError,
                TypeError,
                LookupError,
                AttributeError,
                ArithmeticError,
                RecursionError,
            ):
                return None
    return None


def _described_sizes(description: Any) -> dict[tuple[str, int], int]:
    return {
        (device["name"], int(device["instance_id"])): _described_size(device)
        for device in description["devices"]
    }


def _described_size(described: Any) -> int:
    """Fields, a struct's size including what it holds, then sub-sections."""
    size = sum(
        int(field["size"]) * int(field.get("array_len", 1)) for field in described.get("fields", ())
    )
    for subsection in described.get("subsections", ()):
        # 0x05, length of the name, name, version
        size += 6 + len(subsection["vmsd_name"].encode()) + _described_size(subsection)
    if size < 0:
        raise ValueError(size)
    return size
