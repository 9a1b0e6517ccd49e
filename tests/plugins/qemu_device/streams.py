"""Small migration streams, put together as QEMU would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attrs import frozen

HEAD = b"QEVM\0\0\0\3"
EOF, START, PART, END, FULL = range(5)
ZERO, MEM_SIZE, PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
RAM_ID = 2
MACHINE = b"pc-i440fx-7.2"


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def header(section_id: int, idstr: bytes, instance: int = 0, version: int = 1,
           kind: int = FULL) -> bytes:  # fmt: skip
    return b"".join((bytes([kind]), u32(section_id), text(idstr), u32(instance), u32(version)))


def footer(section_id: int) -> bytes:
    return b"\x7e" + u32(section_id)


def configuration(*more: bytes, machine: bytes = MACHINE) -> bytes:
    return u32(len(machine)) + machine + b"".join(more)


def subsection(name: bytes, data: bytes, version: int = 1) -> bytes:
    return b"\x05" + text(name) + u32(version) + data


def capabilities(*names: bytes) -> bytes:
    data = u32(len(names)) + b"".join(map(text, names))
    return subsection(b"configuration/capabilities", data)


def command(number: int, data: bytes = b"") -> bytes:
    return u16(number) + u16(len(data)) + data


BLOCKS = ((b"pc.ram", 6 * 4096), (b"0000:00:02.0/vga.vram", 2 * 4096), (b"rom", 4096))
NR_PAGES = 9


def blocks(listed: Sequence[tuple[bytes, int]] = BLOCKS, *, footers: bool = True,
           total: int | None = None) -> bytes:  # fmt: skip
    """The first section of ram."""
    total = sum(size for _, size in listed) if total is None else total
    return b"".join((
        header(RAM_ID, b"ram", version=4, kind=START), u64(total | MEM_SIZE),
        *(text(name) + u64(size) for name, size in listed),
        u64(EOS), footer(RAM_ID) if footers else b"",
    ))  # fmt: skip


def zero(address: int, name: bytes | None = None, fill: int = 0) -> bytes:
    return _item(ZERO, address, name) + bytes([fill])


def page(address: int, contents: bytes, name: bytes | None = None) -> bytes:
    return _item(PAGE, address, name) + contents.ljust(4096, b"\0")


def _item(kind: int, address: int, name: bytes | None) -> bytes:
    return u64(address | kind | (CONTINUE if name is None else 0)) + (
        b"" if name is None else text(name)
    )


def section(kind: int, *items: bytes, footers: bool = True, section_id: int = RAM_ID) -> bytes:
    closing = footer(section_id) if footers else b""
    return bytes([kind]) + u32(section_id) + b"".join(items) + u64(EOS) + closing


@frozen
class Device:
    idstr: bytes
    version: int
    data: bytes
    fields: Sequence[dict[str, Any]]


TIMER = Device(b"timer", 2, bytes(range(24)), (
    {"name": "ticks", "type": "int64", "size": 8},
    {"name": "unused", "type": "unused_buffer", "size": 8},
    {"name": "clock", "type": "int64", "size": 8},
))  # fmt: skip
SERIAL = Device(b"0000:00:03.0/toy", 3, b"\1\xff\xff\0\7\0\1\2", (
    {"name": "on", "type": "bool", "size": 1},
    {"name": "level", "type": "int16", "size": 2},
    {"name": "inner", "type": "struct", "size": 1, "array_len": 2,
     "struct": {"fields": [{"name": "byte", "type": "uint8", "size": 1}]}},
    {"name": "rest", "type": "buffer", "size": 3},
))  # fmt: skip


def devices(*given: Device, footers: bool = True, described: bool = True) -> bytes:
    """Sections from number 3 on, the end mark, the description."""
    given = given or (TIMER, SERIAL)
    sections = b"".join(
        header(number, one.idstr, version=one.version) + one.data
        + (footer(number) if footers else b"")
        for number, one in enumerate(given, 3)
    )  # fmt: skip
    told = [
        {"name": one.idstr.decode(), "instance_id": 0, "version": one.version,
         "fields": list(one.fields)}
        for one in given
    ]  # fmt: skip
    return sections + b"\0" + (description(told) if described else b"")


def description(told: Sequence[dict[str, Any]]) -> bytes:
    packed = json.dumps({"page_size": 4096, "devices": told}).encode()
    return b"\x06" + u32(len(packed)) + packed


def stream(*, footers: bool = True, described: bool = True) -> bytes:
    """One with everything in it that QEMU's own have."""
    return b"".join((
        HEAD, b"\x07", configuration(), blocks(footers=footers),
        section(
            PART, zero(0, b"pc.ram"), zero(4096), page(8192, b"two"), page(0x3000, b"three"),
            zero(0x4000), page(0x5000, b"five"), page(0, b"video", b"0000:00:02.0/vga.vram"),
            zero(4096), page(0, b"a rom", b"rom"), footers=footers,
        ),
        section(PART, footers=footers),
        b"\x08", command(11),
        section(END, page(8192, b"two again", b"pc.ram"), footers=footers),
        devices(footers=footers, described=described),
    ))  # fmt: skip
