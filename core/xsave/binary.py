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

Each class becomes a frozen value class with one ``struct.Struct`` (2 us a record, where a
parser generator took 70 times that). Its methods are the ones below, not generated for
each class: generating them took 1 ms a class, and there are seventy. Little-endian,
packed: padding is a field like any other, so that ``encode(decode(body)) == body`` for
every body.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn, Self, TypeVar, dataclass_transform

from .errors import FieldError
from .record import Buffer

Bits = Mapping[str, tuple[int, int]]
Names = Mapping[int, str]


class Field(NamedTuple):
    """How one field is stored: a struct code, or a nested layout; once or several times.

    ``bits`` names parts of the value (lowest bit, width), ``names`` its values: both for
    people only, the stored number stays whole.
    """

    code: str = ""
    nested: type[Layout] | None = None
    repeat: int = 0  # 0: a single value, not a tuple of so many
    bits: Bits | None = None
    names: Names | None = None

    def full_code(self) -> str:
        one = self.nested.CODE if self.nested else self.code
        return one * (self.repeat or 1)


def _integer(code: str) -> Callable[..., Any]:
    def declare(count: int = 0, *, bits: Bits | None = None, names: Names | None = None) -> Any:
        return Field(code, repeat=count, bits=bits, names=names)

    return declare


u8, u16, u32, u64 = (_integer(code) for code in "BHIQ")
i8, i16, i32, i64 = (_integer(code) for code in "bhiq")


def raw(size_bytes: int) -> Any:
    """So many bytes without further structure: a ``bytes`` field."""
    return Field(f"{size_bytes}s")


def nested(kind: type[Layout], count: int = 0) -> Any:
    """Another layout in this place; with a count, a tuple of so many."""
    return Field(nested=kind, repeat=count)


class Layout:
    """Base of all layouts; see the module's text. Equal to another of the same class with
    the same values; takes its values in order or by name, all of them.

    :cvar SIZE: in bytes.
    :cvar FIELDS: by name, in order, those of a base class first.
    """

    SIZE: ClassVar[int] = 0
    CODE: ClassVar[str] = ""  # struct codes, without the byte-order sign
    FIELDS: ClassVar[Mapping[str, Field]] = {}
    _STRUCT: ClassVar[struct.Struct]

    def __init__(self, *values: Any, **by_name: Any) -> None:
        given = dict(zip(self.FIELDS, values, strict=False))
        given.update(by_name)
        if len(values) + len(by_name) != len(self.FIELDS) or given.keys() != self.FIELDS.keys():
            raise TypeError(f"{type(self).__name__} takes {', '.join(self.FIELDS)}, each once")
        self.__dict__.update(given)

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
        return self._STRUCT.pack(*self._stored())

    def replace(self, **changes: Any) -> Self:
        """The same with other values for some fields."""
        return type(self)(**{**self.__dict__, **changes})

    @classmethod
    def _assemble(cls, stored: Iterator[Any]) -> Self:
        made = cls.__new__(cls)  # the values are all there: nothing for __init__ to look at
        values = made.__dict__
        for name, one in cls.FIELDS.items():
            take = stored.__next__ if one.nested is None else _assembler(one.nested, stored)
            values[name] = tuple([take() for _ in range(one.repeat)]) if one.repeat else take()
        return made

    def _stored(self) -> Iterator[Any]:
        for name, one in self.FIELDS.items():
            value = getattr(self, name)
            items = value if one.repeat else (value,)
            if one.repeat and len(items) != one.repeat:
                raise FieldError(field=name, expected=f"{one.repeat} values", got=str(len(items)))
            if one.nested is None:
                yield from items
            else:
                for item in items:
                    yield from item._stored()

    def __setattr__(self, name: str, _value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self.FIELDS)))

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in self.FIELDS)
        return f"{type(self).__name__}({', '.join(values)})"


def _assembler(kind: type[Layout], stored: Iterator[Any]) -> Callable[[], Layout]:
    return lambda: kind._assemble(stored)


_L = TypeVar("_L", bound=type[Layout])


@dataclass_transform(
    frozen_default=True,
    field_specifiers=(u8, u16, u32, u64, i8, i16, i32, i64, raw, nested),
)
def layout(cls: _L) -> _L:
    """Collect the declared fields, and make their packed struct.

    :raises TypeError: a field is declared without saying how it is stored.
    """
    own = {name: one for name, one in vars(cls).items() if isinstance(one, Field)}
    for name, kind in cls.__annotations__.items():
        if name not in own and "ClassVar" not in str(kind):
            raise TypeError(f"{cls.__name__}.{name}: expected = u8(), raw(…), nested(…) or such")
    for name in own:
        delattr(cls, name)
    cls.FIELDS = {**cls.FIELDS, **own}
    cls.CODE = "".join(one.full_code() for one in cls.FIELDS.values())
    cls._STRUCT = struct.Struct("<" + cls.CODE)
    cls.SIZE = cls._STRUCT.size
    return cls
