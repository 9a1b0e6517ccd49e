"""Fixed binary layouts, declared once as a class: what a table of a reference says.

    >>> @layout
    ... class TscInfo(Layout):
    ...     mode: int = u32(names={0: "default", 2: "native"})
    ...     khz: int = u32()
    ...     nsec: int = u64()
    ...     incarnation: int = u32()
    ...     reserved: int = u32()
    >>> TscInfo.SIZE
    24
    >>> TscInfo.decode(bytes(24)).mode
    0

Each class becomes a frozen attrs class with one precompiled ``struct.Struct`` (2 us a
record, where a parser generator took 70 times that). Little-endian, packed: padding is
a field like any other, so that ``encode(decode(body)) == body`` for every body.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import attrs

from .errors import FieldError
from .record import Buffer

_SPEC = "xsave.binary"
Bits = Mapping[str, tuple[int, int]]
Names = Mapping[int, str]


@attrs.frozen
class _Spec:
    """How one field is stored: a struct code, or a nested layout; once or ``count`` times.

    ``bits`` names parts of the value (lowest bit, width), ``names`` its values: both for
    people only, the stored number stays whole.
    """

    code: str = ""
    nested: type[Layout] | None = None
    count: int = 0  # 0: a single value, not a tuple
    bits: Bits | None = None
    names: Names | None = None

    def full_code(self) -> str:
        one = self.nested.CODE if self.nested else self.code
        return one * (self.count or 1)

    def nr_values(self) -> int:
        one = self.nested.NR_VALUES if self.nested else 1
        return one * (self.count or 1)


def _field(spec: _Spec) -> Any:
    return attrs.field(metadata={_SPEC: spec})


def _integer(code: str) -> Callable[..., Any]:
    def declare(count: int = 0, *, bits: Bits | None = None, names: Names | None = None) -> Any:
        return _field(_Spec(code, count=count, bits=bits, names=names))

    return declare


u8, u16, u32, u64 = (_integer(code) for code in "BHIQ")
i8, i16, i32, i64 = (_integer(code) for code in "bhiq")


def raw(size_bytes: int) -> Any:
    """So many bytes without further structure: a ``bytes`` field."""
    return _field(_Spec(f"{size_bytes}s"))


def nested(kind: type[Layout], count: int = 0) -> Any:
    """Another layout in this place; with a count, a tuple of so many."""
    return _field(_Spec(nested=kind, count=count))


class Layout:
    """Base of all layouts; see the module's text."""

    SIZE: ClassVar[int] = 0
    CODE: ClassVar[str] = ""  # struct codes, without the byte-order sign
    NR_VALUES: ClassVar[int] = 0
    _STRUCT: ClassVar[struct.Struct]
    _SPECS: ClassVar[tuple[_Spec, ...]]

    @classmethod
    def decode(cls, body: Buffer) -> Self:
        """The whole of ``body``; any other size than ``SIZE`` is a FieldError."""
        if len(body) != cls.SIZE:
            raise FieldError(
                field=cls.__name__, expected=f"{cls.SIZE} bytes", got=f"{len(body)} bytes"
            )
        return cls._assemble(iter(cls._STRUCT.unpack(body)))

    @classmethod
    def decode_at(cls, body: Buffer, offset: int) -> Self:
        """From ``offset`` on; a FieldError if fewer than ``SIZE`` bytes are there."""
        if len(body) - offset < cls.SIZE:
            raise FieldError(
                field=cls.__name__,
                expected=f"{cls.SIZE} bytes at offset {offset}",
                got=f"{max(len(body) - offset, 0)} bytes",
            )
        return cls._assemble(iter(cls._STRUCT.unpack_from(body, offset)))

    def encode(self) -> bytes:
        """Exactly the bytes it was decoded from."""
        return self._STRUCT.pack(*self._values())

    @classmethod
    def _assemble(cls, values: Iterator[Any]) -> Self:
        args: list[Any] = []
        for spec in cls._SPECS:
            kind = spec.nested
            if kind is not None:
                if spec.count:
                    args.append(tuple(kind._assemble(values) for _ in range(spec.count)))
                else:
                    args.append(kind._assemble(values))
            elif spec.count:
                args.append(tuple(next(values) for _ in range(spec.count)))
            else:
                args.append(next(values))
        return cls(*args)

    def _values(self) -> Iterator[Any]:
        for attribute, spec in zip(_attributes(self), self._SPECS, strict=True):
            value = getattr(self, attribute.name)
            items = value if spec.count else (value,)
            if spec.count and len(items) != spec.count:
                raise FieldError(
                    field=attribute.name, expected=f"{spec.count} values", got=str(len(items))
                )
            if spec.nested is None:
                yield from items
            else:
                for item in items:
                    yield from item._values()


def _attributes(value: Layout) -> tuple[attrs.Attribute[Any], ...]:
    kind: Any = type(value)  # `layout` has made an attrs class of it
    found: tuple[attrs.Attribute[Any], ...] = attrs.fields(kind)
    return found


_L = TypeVar("_L", bound=type[Layout])


@dataclass_transform(
    frozen_default=True,
    field_specifiers=(u8, u16, u32, u64, i8, i16, i32, i64, raw, nested),
)
def layout(cls: _L) -> _L:
    """Make a frozen attrs class and its packed struct from the declared fields."""
    made: Any = attrs.frozen(cls)
    specs = tuple(a.metadata[_SPEC] for a in attrs.fields(made))
    made._SPECS = specs
    made.CODE = "".join(spec.full_code() for spec in specs)
    made._STRUCT = struct.Struct("<" + made.CODE)
    made.SIZE = made._STRUCT.size
    made.NR_VALUES = sum(spec.nr_values() for spec in specs)
    return made  # type: ignore[no-any-return]  # attrs.frozen is typed for one class at a time


def spec_of(attribute: attrs.Attribute[Any]) -> _Spec | None:
    """How a field of a layout is stored; None for a field of an ordinary attrs class."""
    found: _Spec | None = attribute.metadata.get(_SPEC)
    return found
