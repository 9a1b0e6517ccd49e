"""What two ends tell each other before a guest is touched, and what comes of it.

A source offers a guest (:class:`GuestOffer`), a destination is a host
(:class:`HostDescription`). Both are plain data that travels, and a description can be kept in
a file. Whether they fit is said by refusals and notices: the core's own, and those of plugins
through the hook ``xsave_examine``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import field

from .errors import FieldError
from .value_class import frozen

HOST_SCHEMA = "xsave/host/1"
PROTOCOL = (1, 1)  # lowest and highest version of the conversation spoken here

TEXT_MAX = 4096  # characters
ITEMS_MAX = 4096  # of a list or a map
DEPTH_MAX = 8
BODY_MAX = 64 << 10  # of an early record that is offered whole
BODIES_MAX = 512 << 10  # of all of them: a message holds 1 MiB


@frozen
class Refusal:
    """Why a guest cannot go there.

    :ivar name: what kind of reason: ``memory``, ``cpu-features``; see docs/migration.md.
    :ivar remedy: what somebody can do about it.
    """

    name: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason} ({self.remedy})"


@frozen
class Notice:
    """What will be otherwise than at the source, and is no reason not to go.

    :ivar without: records that stay behind: name, and which one (:meth:`Handler.key`), or
        None for all of that name.
    """

    name: str
    text: str
    without: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


Refuse = Callable[[str, str, str], None]
"""Takes name, reason and remedy of a refusal."""

Stay = Callable[[str, str, Sequence[tuple[str, Any]]], None]
"""Takes name and text of a notice, and the records that stay behind."""


@frozen
class OfferedRecord:
    """:ivar sure: whether the guest is known to have such records."""

    version: int = 1
    mandatory: bool = True
    plugin: str = ""
    sure: bool = False


@frozen(kw_only=True)
class GuestOffer:
    """A guest, as far as a destination has to know it.

    :ivar memory_bytes: of the pages that have contents now.
    :ivar records: that may come, by name.
    :ivar bodies: of the records that stand before the first page, by name; those of more than
        64 KiB are left out.
    :ivar codec: that the stream is compressed with, "" for none; :ivar format: its format.
    :ivar states: what the handlers here make of ``bodies``; filled in where it is examined.
    """

    name: str
    guest_type: str
    page_size: int = 4096
    p2m_size: int = 0
    nr_vcpus: int = 0
    memory_bytes: int = 0
    xen_version: str = ""
    format: str = "native"
    codec: str = ""
    records: Mapping[str, OfferedRecord] = field(factory=dict)
    bodies: Mapping[str, tuple[bytes, ...]] = field(factory=dict, repr=False)
    states: Mapping[str, tuple[Any, ...]] = field(factory=dict, repr=False, eq=False)

    def states_of(self, record: str) -> tuple[Any, ...]:
        """Decoded, all early records of that name; () if it has none."""
        return self.states.get(record, ())


@frozen(kw_only=True)
class HostDescription:
    """An end that could take guests.

    :ivar speaks: ``xsave``, or ``xen`` for one that reads a plain Xen stream and says nothing.
    :ivar xsave: its version; :ivar protocol: lowest and highest that it speaks.
    :ivar plugins: name to distribution and version.
    :ivar records: name to the highest version that is understood.
    :ivar codecs, formats: that can be read.
    :ivar backend: its scheme; :ivar host: its own name for where the guest would be.
    :ivar guest_types: that it can run; empty where it does not say.
    :ivar memory_free_bytes: None where it does not say.
    :ivar page_size: of its guests. :ivar p2m_size_max: pfns that a guest may have.
    :ivar name_taken: whether a guest of the offered name is there already.
    :ivar facts: what its plugins say of it, by plugin: plain values.
    """

    speaks: str = "xsave"
    xsave: str = ""
    protocol: tuple[int, int] = PROTOCOL
    contract: int = 1
    plugins: Mapping[str, str] = field(factory=dict)
    records: Mapping[str, int] = field(factory=dict)
    codecs: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    backend: str = ""
    host: str = ""
    guest_types: tuple[str, ...] = ()
    memory_free_bytes: int | None = None
    page_size: int = 4096
    p2m_size_max: int = 1 << 32
    name_taken: bool = False
    facts: Mapping[str, Mapping[str, Any]] = field(factory=dict)

    def facts_of(self, plugin: str) -> Mapping[str, Any]:
        """What that plugin said there; empty if it is not there."""
        return self.facts.get(plugin, {})


# -- as plain data ---------------------------------------------------------------------


def host_as_data(host: HostDescription) -> dict[str, Any]:
    """What docs/schemas/host.json describes."""
    return {
        "schema": HOST_SCHEMA,
        "speaks": host.speaks,
        "xsave": host.xsave,
        "protocol": list(host.protocol),
        "contract": host.contract,
        "plugins": dict(host.plugins),
        "records": dict(host.records),
        "codecs": list(host.codecs),
        "formats": list(host.formats),
        "backend": host.backend,
        "host": host.host,
        "guest_types": list(host.guest_types),
        "memory_free_bytes": host.memory_free_bytes,
        "page_size": host.page_size,
        "p2m_size_max": host.p2m_size_max,
        "name_taken": host.name_taken,
        "facts": {plugin: dict(facts) for plugin, facts in host.facts.items()},
    }


def host_from_data(data: Any) -> HostDescription:
    """:param data: from a peer or a file, hostile perhaps.
    :raises FieldError: it is no description of a host; names the field.
    """
    fields = Fields(data, "host")
    schema = fields.text("schema")
    if schema != HOST_SCHEMA:
        raise FieldError(field="host.schema", expected=HOST_SCHEMA, got=repr(schema))
    speaks = fields.text("speaks")
    if speaks not in ("xsave", "xen"):
        raise FieldError(field="host.speaks", expected="xsave or xen", got=repr(speaks))
    return HostDescription(
        speaks=speaks,
        xsave=fields.text("xsave"),
        protocol=fields.range("protocol"),
        contract=fields.number("contract"),
        plugins=fields.map("plugins", str),
        records=fields.map("records", int),
        codecs=fields.list("codecs"),
        formats=fields.list("formats"),
        backend=fields.text("backend"),
        host=fields.text("host"),
        guest_types=fields.list("guest_types"),
        memory_free_bytes=fields.number_or_none("memory_free_bytes"),
        page_size=fields.number("page_size"),
        p2m_size_max=fields.number("p2m_size_max"),
        name_taken=fields.flag("name_taken"),
        facts=fields.facts("facts"),
    )


def offer_as_data(offer: GuestOffer) -> dict[str, Any]:
    return {
        "name": offer.name,
        "guest_type": offer.guest_type,
        "page_size": offer.page_size,
        "p2m_size": offer.p2m_size,
        "nr_vcpus": offer.nr_vcpus,
        "memory_bytes": offer.memory_bytes,
        "xen_version": offer.xen_version,
        "format": offer.format,
        "codec": offer.codec,
        "records": {
            name: [one.version, one.mandatory, one.plugin, one.sure]
            for name, one in offer.records.items()
        },
        "bodies": {name: list(bodies) for name, bodies in offer.bodies.items()},
    }


def offer_from_data(data: Any) -> GuestOffer:
    """:raises FieldError: it is no offer."""
    fields = Fields(data, "guest")
    return GuestOffer(
        name=fields.text("name"),
        guest_type=fields.text("guest_type"),
        page_size=fields.number("page_size"),
        p2m_size=fields.number("p2m_size"),
        nr_vcpus=fields.number("nr_vcpus"),
        memory_bytes=fields.number("memory_bytes"),
        xen_version=fields.text("xen_version"),
        format=fields.text("format"),
        codec=fields.text("codec"),
        records={
            name: _offered_record(one, name) for name, one in fields.map("records", list).items()
        },
        bodies={
            name: _offered_bodies(bodies, name)
            for name, bodies in fields.map("bodies", list).items()
        },
    )


def _offered_record(data: list[Any], name: str) -> OfferedRecord:
    kinds = (int, bool, str, bool)
    if len(data) != 4 or not all(
        type(value) is kind for value, kind in zip(data, kinds, strict=True)
    ):
        raise FieldError(
            field=f"guest.records.{name}", expected="version, mandatory, plugin, sure",
            got=repr(data)[:200],
        )  # fmt: skip
    return OfferedRecord(*data)


def _offered_bodies(data: list[Any], name: str) -> tuple[bytes, ...]:
    for body in data:
        if not isinstance(body, bytes) or len(body) > BODY_MAX:
            raise FieldError(
                field=f"guest.bodies.{name}", expected=f"bytes, at most {BODY_MAX}",
                got=type(body).__name__,
            )  # fmt: skip
    return tuple(data)


class Fields:
    """A map from elsewhere, looked at field by field.

    :raises FieldError: what is not a map, and by each method, what is not what it should be.
    """

    def __init__(self, data: Any, where: str) -> None:
        self._where = where
        if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
            raise FieldError(field=where, expected="a map with text keys", got=_kind(data))
        if len(data) > ITEMS_MAX:
            raise FieldError(field=where, expected=f"at most {ITEMS_MAX} items", got=str(len(data)))
        self._data: Mapping[str, Any] = data

    def has(self, name: str) -> bool:
        return name in self._data

    def text(self, name: str, default: str | None = None) -> str:
        value = self._data.get(name, default)
        if not isinstance(value, str) or len(value) > TEXT_MAX:
            raise self._wrong(name, f"text of at most {TEXT_MAX} characters")
        return value

    def number(self, name: str, default: int | None = None) -> int:
        value = self._data.get(name, default)
        if type(value) is not int or not 0 <= value < 1 << 64:
            raise self._wrong(name, "a number from 0 to 2^64 - 1")
        return value

    def number_or_none(self, name: str) -> int | None:
        return None if self._data.get(name) is None else self.number(name)

    def seconds(self, name: str) -> float:
        value = self._data.get(name, 0.0)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
            raise self._wrong(name, "seconds")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._data.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def octets(self, name: str, size_bytes: int) -> bytes:
        value = self._data.get(name)
        if not isinstance(value, bytes) or len(value) != size_bytes:
            raise self._wrong(name, f"{size_bytes} bytes")
        return value

    def range(self, name: str) -> tuple[int, int]:
        value = self._data.get(name)
        if (
            not isinstance(value, list) or len(value) != 2
            or not all(type(one) is int and 0 < one < 1 << 32 for one in value)
            or value[0] > value[1]
        ):  # fmt: skip
            raise self._wrong(name, "the lowest and the highest version")
        return value[0], value[1]

    def list(self, name: str) -> tuple[str, ...]:
        """Of text."""
        value = self._data.get(name)
        if not isinstance(value, list) or len(value) > ITEMS_MAX:
            raise self._wrong(name, f"a list of at most {ITEMS_MAX}")
        for one in value:
            if not isinstance(one, str) or len(one) > TEXT_MAX:
                raise self._wrong(name, "a list of text")
        return tuple(value)

    def maps(self, name: str) -> Sequence[Fields]:
        """A list of maps."""
        value = self._data.get(name)
        if not isinstance(value, list) or len(value) > ITEMS_MAX:
            raise self._wrong(name, f"a list of at most {ITEMS_MAX}")
        return [Fields(one, f"{self._where}.{name}") for one in value]

    def map(self, name: str, kind: type) -> dict[str, Any]:
        """Of values of one type."""
        within = Fields(self._data.get(name), f"{self._where}.{name}")
        for key, value in within._data.items():
            if type(value) is not kind or (isinstance(value, str) and len(value) > TEXT_MAX):
                raise within._wrong(key, f"of type {kind.__name__}")
        return dict(within._data)

    def facts(self, name: str) -> dict[str, dict[str, Any]]:
        """By plugin, plain values."""
        found = self.map(name, dict)
        for plugin, facts in found.items():
            check_plain(facts, f"{self._where}.{name}.{plugin}")
        return found

    def as_map(self) -> dict[str, Any]:
        """All of it."""
        return dict(self._data)

    def raw(self, name: str) -> Any:
        """As it came; the caller looks at it."""
        return self._data.get(name)

    def _wrong(self, name: str, expected: str) -> FieldError:
        got = repr(self._data[name])[:80] if name in self._data else "nothing"
        return FieldError(field=f"{self._where}.{name}", expected=expected, got=got)


def check_plain(value: Any, where: str, depth: int = DEPTH_MAX) -> None:
    """:raises FieldError: it is not of text, numbers, truths, lists and maps only, or of too
    many."""
    if value is None or isinstance(value, bool | int | str):
        if isinstance(value, str) and len(value) > BODY_MAX * 2:
            raise FieldError(field=where, expected="shorter text", got=f"{len(value)} characters")
        return
    if not isinstance(value, dict | list | tuple) or not depth or len(value) > ITEMS_MAX:
        raise FieldError(field=where, expected="plain values, few and flat", got=_kind(value))
    if isinstance(value, dict):
        for key, one in value.items():
            if not isinstance(key, str):
                raise FieldError(field=where, expected="text keys", got=_kind(key))
            check_plain(one, f"{where}.{key}", depth - 1)
        return
    for one in value:
        check_plain(one, where, depth - 1)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
