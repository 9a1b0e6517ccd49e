"""The grammar that QEMU's migration streams and saved devices share: numbers and headers.

    "QEVM", version u32, [configuration], {section}, end mark, [description]

Source: QEMU migration/savevm.c and savevm.h, its migration documentation, and streams that
QEMU 5.2, 7.2 and 10.0 wrote. All integers are big-endian.
"""

from __future__ import annotations

import re
from typing import Final

from xsave import frozen

MAGIC = b"QEVM"
VERSIONS = (2, 3)  # 2 is an older layout that no QEMU loads any more
HEAD_BYTES = 8  # magic and version
HEAD = MAGIC + (3).to_bytes(4, "big")
MIN_BYTES = HEAD_BYTES + 1  # and the end mark

EOF, START, PART, END, FULL = range(5)
SUBSECTION, DESCRIPTION, CONFIGURATION, COMMAND = range(5, 9)
FOOTER = 0x7E
FOOTER_BYTES = 5  # and the section's number
KINDS: Final = {START: "start", PART: "part", END: "end", FULL: "full"}

# Before a record that was cut out of a legacy image: with a length behind it, or to the end.
SIGNATURE_BYTES = 21
TO_THE_END: Final = b"QemuDeviceModelRecord"
WITH_LENGTH: Final = (b"DeviceModelRecord0002", b"RemusDeviceModelState")

_NAME = re.compile(rb"[0-9A-Za-z][\x20-\x7e]+")
_PCI_PATH = re.compile(r"((?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7](?:[:/].*)?)/([^/]+)")


@frozen
class Header:
    """Of one section, as it stands in a blob.

    :ivar idstr: name of the device, of a PCI device behind its path.
    :ivar offset: of its first byte; :ivar data_offset: of what follows it.
    """

    kind: int
    section_id: int
    idstr: bytes
    instance_id: int
    version_id: int
    offset: int
    data_offset: int

    @property
    def is_plausible(self) -> bool:
        """As far as a guess may believe it."""
        return (
            self.instance_id < 1 << 16
            and self.version_id < 1 << 16
            and _NAME.fullmatch(self.idstr) is not None
        )

    @property
    def footer(self) -> bytes:
        return footer(self.section_id)


def footer(section_id: int) -> bytes:
    return bytes([FOOTER]) + section_id.to_bytes(4, "big")


def number_at(blob: bytes, offset: int) -> int:
    """A u32."""
    return int.from_bytes(blob[offset : offset + 4], "big")


def read_header(blob: bytes, offset: int, end: int) -> Header | None:
    """The header of a full or a starting section at ``offset``; None if it does not fit."""
    name_offset = offset + 6
    if name_offset > end:
        return None
    after = name_offset + blob[offset + 5]
    if after + 8 > end:
        return None
    return Header(
        blob[offset], number_at(blob, offset + 1), blob[name_offset:after],
        number_at(blob, after), number_at(blob, after + 4), offset, after + 8,
    )  # fmt: skip


def split_idstr(idstr: str) -> tuple[str, str]:
    """Path ("" without one) and name of a device: ``0000:00:01.3`` and ``piix4_pm``."""
    found = _PCI_PATH.fullmatch(idstr)
    return (found[1], found[2]) if found else ("", idstr)
