"""Decoded states as plain JSON values, for people and for ``--json``.

Bytes become hex text, tuples lists, layouts and attrs classes objects with their field
names in order. A field with named bits or named values shows those beside the number, which
stays whole: ``{"value": 9, "bits": {"mask": 1, ...}}``, ``{"value": 2, "name": "native"}``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import Any

import attrs

from .binary import Bits, Field, Layout, Names

Json = Any


def to_json(value: object) -> Json:  # noqa: PLR0911  # one return for each kind of value
    """A decoded state, or any part of one, as JSON values."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no nan and no infinity
    if value is None or isinstance(value, bool | int | str | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Layout):
        return {name: _field(getattr(value, name), one) for name, one in value.FIELDS.items()}
    if attrs.has(type(value)):
        kind: Any = type(value)
        return {one.name: to_json(getattr(value, one.name)) for one in attrs.fields(kind)}
    if isinstance(value, Mapping):
        return {_key(key): to_json(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # a numpy array or scalar
        return value.tolist()
    if isinstance(value, tuple | list | set | frozenset):
        return [to_json(item) for item in value]
    # cbor2 tags, dates and whatever else a foreign body may hold
    return str(value)


def _key(key: object) -> str:
    return bytes(key).hex() if isinstance(key, bytes) else str(key)


def _field(value: Any, declared: Field) -> Json:
    bits, names = declared.bits, declared.names
    if bits is None and names is None:
        return to_json(value)
    if declared.repeat:
        return [_number(one, bits, names) for one in value]
    return _number(value, bits, names)


def _number(value: int, bits: Bits | None, names: Names | None) -> Json:
    shown: dict[str, Any] = {"value": value}
    if names is not None:
        shown["name"] = names.get(value, "unknown")
    if bits is not None:
        shown["bits"] = {
            name: value >> low & ((1 << width) - 1) for name, (low, width) in bits.items()
        }
    return shown
