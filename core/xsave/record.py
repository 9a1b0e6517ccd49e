"""What a stream is made of: records, and the facts in its headers.

A stream is a sequence of events: :class:`Record` for state, and
:class:`xsave.PageBatch` for memory. A source yields them, a destination takes them.
Records have names (``xen.hvm.params``); numbers exist only inside a format.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from attrs import field

from .value_class import frozen

Buffer = bytes | bytearray | memoryview


class GuestType(enum.Enum):
    """How the guest is virtualised. PVH is ``X86_HVM``, as in Xen's own streams."""

    X86_PV = "x86_pv"
    X86_HVM = "x86_hvm"
    UNKNOWN = "unknown"


class Phase(enum.IntEnum):
    """Where in a stream a record belongs; records of one phase are ordered by
    ``before`` and ``after``."""

    HEADER = 0  # container headers, before any state
    STATIC_DATA = 1  # what the destination needs to build an empty guest
    START_OF_STREAM = 2  # before the first page
    MEMORY = 3
    END_OF_CHECKPOINT = 4  # vcpus, devices: valid with the memory just before
    DEVICE_MODEL = 5  # what belongs to the device model, not to the hypervisor
    END = 6


class Closes(enum.Enum):
    """What is complete where a record stands: such a record is a mark."""

    CHECKPOINT = "checkpoint"  # a consistent point; the stream goes on
    STREAM = "stream"  # nothing more comes from this layer of the stream


@frozen
class Owner:
    """Who understands a record: the plugin and the distribution it came from."""

    plugin: str
    distribution: str  # "name version", for example "xsave 0.1.0"; "" if not known

    def __str__(self) -> str:
        return f"{self.plugin} ({self.distribution})" if self.distribution else self.plugin


@frozen
class RecordType:
    """What kind of record this is, by name: never by number.

    :ivar name: namespaced, dots between: ``xen.hvm.params``.
    :ivar version: of the body's layout, from 1.
    :ivar mandatory: whether an end that does not understand it must stop.
    :ivar owner: as far as the source knows; formats with bare numbers do not say.
    """

    name: str
    version: int = 1
    mandatory: bool = True
    owner: Owner | None = None


@frozen(eq=False)
class Record:
    """One record: its type and its body, exactly as it stands in the stream.

    :ivar body: in the layout that the handler of that name documents; the same in
        every container. Valid as long as the record is held.
    :ivar offset: of the record's header, bytes from the start of the input.
    :ivar padding: what stood after the body, only when it was not all zero, so that
        going back gives the original bytes.
    :ivar carried: what the format that was read wants to find again when the same format
        is written; only that format looks inside.
    """

    type: RecordType
    body: Buffer
    offset: int = 0
    padding: bytes = b""
    carried: Any = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.type.name


@frozen
class ImageInfo:
    """What a stream says about itself before its first record.

    :ivar format: name of the format it was read from, for example ``xl``.
    :ivar page_size: bytes.
    :ivar xen_version: of the saving hypervisor, "4.17"; "" if not known.
    :ivar word_size: of the saving toolstack, bytes; 0 if the format does not say.
    :ivar details: further facts of that format, for people: JSON-able.
    :ivar base: what the format calls the image without which this one's pages cannot be
        read (native: its seal, hexadecimal); "" for an image that stands alone.
    """

    format: str
    guest_type: GuestType = GuestType.UNKNOWN
    page_size: int = 4096
    xen_version: str = ""
    word_size: int = 0
    details: Mapping[str, object] = field(factory=dict)
    base: str = ""
