"""What the data of a section consists of: fields in order, then sub-sections that may be there.

A *shape* is what a description says of a device, without its values. It measures and decodes
data at once, as QEMU itself would: fields one behind the other, each of a known size, and after
the fields of a structure those of its sub-sections that are there, which say so by their name.

Source: QEMU migration/vmstate.c and scripts/analyze-migration.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve

from xsave import define, frozen

from .grammar import SUBSECTION

# What one section may decode into; the largest of QEMU's have a few thousand values.
MAX_VALUES = 1 << 16
MAX_DEPTH = 32
_INTEGER_BYTES = (1, 2, 4, 8)
VARIES = -1


@frozen
class Field:
    """:ivar type: as QEMU calls it: ``uint32``, ``timer``, ``buffer``, ``struct``.
    :ivar size_bytes: of one; 0 for a structure, whose size is that of what is in it.
    :ivar count: how many stand one behind the other; None for one that is no array.
    :ivar counted_by: names of fields before it in the structure whose value is that count. Where
        it is known to differ from guest to guest, ``count`` is ``VARIES`` and the first counts.
    """

    name: str
    type: str
    size_bytes: int
    count: int | None = None
    inner: Shape | None = None
    counted_by: tuple[str, ...] = ()


@frozen
class Subsection:
    name: str
    version: int
    shape: Shape


@frozen
class Shape:
    fields: tuple[Field, ...] = ()
    subsections: tuple[Subsection, ...] = ()


class MisfitError(Exception):
    """The data is not of this shape."""


@define
class Fitting:
    """Reads data of a shape.

    :ivar end: of what there is; :ivar at: where the next field is.
    :ivar nr_values: read so far.
    """

    data: bytes
    end: int
    at: int
    nr_values: int = 0

    def structure(self, shape: Shape) -> dict[str, Any]:
        """The values by field, and sub-sections by their names.

        :raises MisfitError: they would go beyond the end, or are more than anybody looks at.
        """
        values: dict[str, Any] = {}
        counts: dict[str, int] = {}  # unions and renamed fields come twice under one name
        for one in shape.fields:
            number = counts[one.name] = counts.get(one.name, 0) + 1
            values[one.name if number == 1 else f"{one.name} ({number})"] = self.field(one, values)
        for subsection in self.subsections_ahead(shape):
            values[subsection.name] = self.structure(subsection.shape)
        return values

    def field(self, one: Field, before: Mapping[str, Any]) -> Any:
        count = one.count
        if count is None:
            return self.value(one)
        if count == VARIES:
            count = before.get(one.counted_by[0])
            if not isinstance(count, int) or count < 0:
                raise MisfitError
        if one.inner is None and one.type.startswith("uint8") and one.size_bytes == 1:
            self.nr_values += 1
            return self.take(count).hex()
        start = self.at
        values = [self.value(one) for _ in range(min(count, 1))]
        if count > MAX_VALUES or (count > 1 and self.at == start):
            raise MisfitError  # elements without bytes are no array that QEMU writes
        return values + [self.value(one) for _ in range(count - 1)]

    def value(self, one: Field) -> Any:
        self.nr_values += 1
        if self.nr_values > MAX_VALUES:
            raise MisfitError
        if one.inner is not None:
            return self.structure(one.inner)
        piece = self.take(one.size_bytes)
        if one.type == "bool" and len(piece) == 1:
            return bool(piece[0])
        if one.type.startswith(("int", "uint", "timer")) and len(piece) in _INTEGER_BYTES:
            return int.from_bytes(piece, "big", signed=one.type.startswith("int"))
        return piece.hex()

    def take(self, size_bytes: int) -> bytes:
        if size_bytes > self.end - self.at:
            raise MisfitError
        piece = self.data[self.at : self.at + size_bytes]
        self.at += size_bytes
        return piece

    def subsections_ahead(self, shape: Shape) -> Iterable[Subsection]:
        """Those that stand here: each at most once, as QEMU writes them."""
        waiting = {one.name.encode("latin-1", "replace"): one for one in shape.subsections}
        while waiting and self.at + 2 <= self.end and self.data[self.at] == SUBSECTION:
            name_at = self.at + 2
            name_end = name_at + self.data[self.at + 1]
            found = waiting.pop(self.data[name_at:name_end], None)
            if found is None:
                return
            self.at = name_at
            self.take(name_end - name_at)
            if int.from_bytes(self.take(4), "big") != found.version:
                raise MisfitError
            yield found


# From a description that QEMU wrote.


def from_description(described: Mapping[str, Any], depth: int = 0) -> Shape:
    """:raises ValueError, TypeError, LookupError, AttributeError, ArithmeticError: it is none."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    return Shape(
        tuple(_described_field(one, depth) for one in described.get("fields", ())),
        tuple(
            Subsection(
                str(one["vmsd_name"]), int(one.get("version", 0)), from_description(one, depth + 1)
            )
            for one in described.get("subsections", ())
        ),
    )


def _described_field(described: Mapping[str, Any], depth: int) -> Field:
    size = int(described["size"])
    count = int(described["array_len"]) if "array_len" in described else None
    if size < 0 or (count is not None and count < 0):
        raise ValueError(size)
    name = str(described.get("name", ""))
    if "index" in described:  # of an array whose elements differ: each is told of by itself
        name += f"[{int(described['index'])}]"
    kind = str(described.get("type", ""))
    # "tmp" has what is in it in its own object
    holds = described if kind == "tmp" else described.get("struct")
    if holds is None or not holds.get("fields"):
        return Field(name, kind, size, count)
    return Field(name, kind, 0, count, from_description(holds, depth + 1))


def described_size(described: Mapping[str, Any]) -> int:
    """Bytes of a device's data as a description has it: fields, a structure's size including
    what it holds, then sub-sections.

    :raises ValueError, TypeError, LookupError, AttributeError, ArithmeticError: it is none.
    """
    size = sum(
        int(one["size"]) * int(one.get("array_len", 1)) for one in described.get("fields", ())
    )
    for subsection in described.get("subsections", ()):
        # 0x05, length of the name, name, version
        size += 6 + len(subsection["vmsd_name"].encode()) + described_size(subsection)
    if size < 0:
        raise ValueError(size)
    return size


# Kept in a file, and put together from several streams.


def to_data(shape: Shape) -> list[Any]:
    """As JSON: fields, then sub-sections. A field is name, type, what it holds (a size or a
    shape), and where it is an array a count or the name of the field that has it."""
    return [
        [_field_to_data(one) for one in shape.fields],
        [[one.name, one.version, to_data(one.shape)] for one in shape.subsections],
    ]


def _field_to_data(one: Field) -> list[Any]:
    holds = one.size_bytes if one.inner is None else to_data(one.inner)
    count = one.counted_by[0] if one.count == VARIES else one.count
    return [one.name, one.type, holds, *([] if count is None else [count])]


def from_data(data: list[Any]) -> Shape:
    fields, subsections = data
    return Shape(
        tuple(_field_from_data(*one) for one in fields),
        tuple(Subsection(name, version, from_data(inner)) for name, version, inner in subsections),
    )


def _field_from_data(name: str, kind: str, holds: Any, count: int | str | None = None) -> Field:
    size, inner = (0, from_data(holds)) if isinstance(holds, list) else (holds, None)
    if isinstance(count, str):
        return Field(name, kind, size, VARIES, inner, (count,))
    return Field(name, kind, size, count, inner)


def with_counters(shape: Shape, values: Mapping[str, Any]) -> Shape:
    """For each array the fields before it that could be its count, as they have its value.

    :param values: of data of that shape.
    """
    fields: list[Field] = []
    for one in shape.fields:
        found, value = one, values.get(one.name)
        if isinstance(one.count, int):
            found = evolve(found, counted_by=tuple(_equal(fields, values, one.count)))
            value = value[0] if isinstance(value, list) and value else None
        if one.inner is not None and isinstance(value, dict):
            found = evolve(found, inner=with_counters(one.inner, value))
        fields.append(found)
    return evolve(shape, fields=tuple(fields))


def _equal(fields: Iterable[Field], values: Mapping[str, Any], count: int) -> Iterable[str]:
    for one in fields:
        value = values.get(one.name)
        if one.count is None and not isinstance(value, bool) and value == count:
            yield one.name


def merge(one: Shape, other: Shape) -> Shape | None:
    """A shape with the sub-sections of both, which are there or not, and with counts that vary
    where a field before tells them; None if their fields differ otherwise."""
    if len(one.fields) != len(other.fields):
        return None
    pairs = zip(one.fields, other.fields, strict=True)
    fields = [_merge_fields(mine, yours) for mine, yours in pairs]
    subsections = _merge_subsections(one.subsections, other.subsections)
    if None in fields or subsections is None:
        return None
    return Shape(tuple(field for field in fields if field is not None), subsections)


def _merge_fields(one: Field, other: Field) -> Field | None:
    inner, count = one.inner, one.count
    counted_by = tuple(name for name in one.counted_by if name in other.counted_by)
    if one.count != other.count:
        if one.count is None or other.count is None or not counted_by:
            return None
        count = VARIES
    if inner is not None and other.inner is not None:
        inner = merge(inner, other.inner)
        if inner is None:
            return None
    merged = evolve(one, inner=inner, count=count, counted_by=counted_by)
    same = evolve(other, inner=inner, count=count, counted_by=counted_by)
    return merged if merged == same and (one.inner is None) == (other.inner is None) else None


def _merge_subsections(
    some: Iterable[Subsection], others: Iterable[Subsection]
) -> tuple[Subsection, ...] | None:
    found = {one.name: one for one in some}
    for one in others:
        known = found.setdefault(one.name, one)
        merged = merge(known.shape, one.shape)
        if merged is None or known.version != one.version:
            return None
        found[one.name] = evolve(known, shape=merged)
    return tuple(found.values())
