"""One save record: a descriptor and a payload, and the rules for the payload's length.

Xen extends a save record by adding fields at its end. How a type is loaded decides what
happens to payloads of another release: see the three forms here. Source: Xen's
``asm/hvm/save.h`` and ``hvm/save.c``, from 4.17 to after 4.22.
"""

from __future__ import annotations

import abc
import enum
import struct
from typing import Any

from xsave import FieldError, Layout, frozen, to_json

DESCRIPTOR = struct.Struct("<HHI")  # typecode, instance, length of the payload

# Xen gives an HVM guest at most 128 vcpus and any guest at most 8192. The wider bound is
# taken, so that no Xen's image is refused and the work for a hostile one stays bounded.
MAX_VCPUS = 8192


def bits(**places: int | tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Named parts of a number: ``pe=0`` is one bit, ``vector=(0, 8)`` eight from bit 0."""
    return {
        name: place if isinstance(place, tuple) else (place, 1) for name, place in places.items()
    }


def wrong_length(expected: str, got: int) -> FieldError:
    return FieldError(field="length", expected=f"{expected} bytes", got=f"{got} bytes")


class Per(enum.Enum):
    """What ``instance`` numbers, with the first number that makes no sense."""

    DOMAIN = ("domain", 1)
    PIC = ("PIC, 0 master or 1 slave", 2)
    IOAPIC = ("IO-APIC", 1 << 16)
    VCPU = ("vcpu", MAX_VCPUS)

    @property
    def what(self) -> str:
        return self.value[0]

    @property
    def end(self) -> int:
        return self.value[1]


class Form(abc.ABC):
    """How a payload becomes fields, and fields a payload of the length it had."""

    @abc.abstractmethod
    def decode(self, payload: memoryview) -> Any:
        """:raises FieldError: of the payload; the caller says of which save record."""

    @abc.abstractmethod
    def encode(self, fields: Any, length: int) -> bytes:
        """:raises FieldError: the fields do not fit into a payload of that length."""


@frozen
class Exact(Form):
    """The payload has the size of the layout, in every release."""

    layout: type[Layout]

    def decode(self, payload: memoryview) -> Layout:
        if len(payload) != self.layout.SIZE:
            raise wrong_length(str(self.layout.SIZE), len(payload))
        return self.layout.decode(payload)

    def encode(self, fields: Any, length: int) -> bytes:
        whole: bytes = fields.encode()
        return whole


@frozen
class Extended(Form):
    """The payload may be shorter than the layout: what is missing is zero."""

    layout: type[Layout]

    def decode(self, payload: memoryview) -> Layout:
        missing = self.layout.SIZE - len(payload)
        if missing < 0:
            raise wrong_length(f"at most {self.layout.SIZE}", len(payload))
        return self.layout.decode(bytes(payload) + bytes(missing))

    def encode(self, fields: Any, length: int) -> bytes:
        return cut(fields.encode(), length)


def cut(whole: bytes, length: int) -> bytes:
    """The first ``length`` bytes, provided that the others are what a reader puts there."""
    if any(whole[length:]):
        raise FieldError(
            field=f"fields beyond the {length} bytes of this release",
            expected="zeroes",
            got=whole[length:].hex(),
        )
    return whole[:length]


@frozen
class SaveType:
    """One line of the table of types."""

    typecode: int
    name: str
    per: Per
    form: Form


@frozen
class SaveRecord:
    """:ivar instance: the vcpu, for types that each vcpu has.
    :ivar length: of the payload as stored, which tells the release that wrote it. Fields
        beyond it have the values that Xen gives them.
    """

    type: SaveType
    instance: int
    length: int
    fields: Any

    @property
    def name(self) -> str:
        return self.type.name

    def encode(self) -> bytes:
        """Descriptor and payload.

        :raises FieldError: the fields do not fit into ``length`` bytes.
        """
        payload = self.type.form.encode(self.fields, self.length)
        if len(payload) != self.length:
            raise FieldError(
                field=f"length of {self.name}, instance {self.instance}",
                expected=f"{len(payload)} bytes",
                got=f"{self.length} bytes",
            )
        return DESCRIPTOR.pack(self.type.typecode, self.instance, self.length) + payload


def fields_to_json(fields: Any) -> Any:
    """As JSON values; a layout that reads better another way says so by ``as_json``."""
    as_json = getattr(fields, "as_json", None)
    return to_json(fields) if as_json is None else as_json()
