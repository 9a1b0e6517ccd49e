"""What a guest needs, what a host has, and whether that fits. Nothing is paused or changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve

from .. import __version__
from ..domain import Backend, Domain
from ..errors import FieldError, RecordError
from ..handler import Handler, MemoryHandler, RecordHandler
from ..hookspecs import CONTRACT_VERSION
from ..manager import HandlerTable, PluginManager
from ..negotiation import (
    BODIES_MAX,
    BODY_MAX,
    PROTOCOL,
    GuestOffer,
    HostDescription,
    Notice,
    OfferedRecord,
    Refusal,
)
from ..quantities import size
from ..record import GuestType, Phase, RecordType
from ..value_class import frozen
from .measure import count_contents

if TYPE_CHECKING:
    pass

EARLY = (Phase.STATIC_DATA, Phase.START_OF_STREAM)


@frozen
class Examination:
    """Whether a guest can go to a host.

    :ivar without: records that stay behind: name to keys, None in them for all.
    """

    refusals: tuple[Refusal, ...] = ()
    notices: tuple[Notice, ...] = ()

    @property
    def without(self) -> dict[str, frozenset[Any]]:
        found: dict[str, set[Any]] = {}
        for notice in self.notices:
            for name, key in notice.without:
                found.setdefault(name, set()).add(key)
        return {name: frozenset(keys) for name, keys in found.items()}

    def joined(self, other: Examination) -> Examination:
        """Both, each thing once: two ends find most of it both."""
        return Examination(
            _distinct((*self.refusals, *other.refusals)), _distinct((*self.notices, *other.notices))
        )


def stays_behind(without: Mapping[str, frozenset[Any]], name: str, key: Any) -> bool:
    keys = without.get(name, frozenset())
    return None in keys or key in keys


# -- a host -----------------------------------------------------------------------------


def describe_host(
    manager: PluginManager, handlers: HandlerTable, backend: Backend, address: str,
    guest_name: str = "",
) -> HostDescription:  # fmt: skip
    """What this end could take.

    :param address: where a guest would be made, without the scheme.
    :param guest_name: of the guest that wants to come, "" for none in particular.
    :raises UsageError: the address makes no sense.
    """
    host = backend.host_of(address)
    guest_types = sorted(kind.value for kind in host.guest_types) if host is not None else ()
    return HostDescription(
        xsave=__version__,
        protocol=PROTOCOL,
        contract=CONTRACT_VERSION,
        plugins={
            status.name: str(status.owner) for status in manager.plugins
            if status.name in handlers.plugins
        },
        records={
            entry.item.name: entry.item.version for entry in manager.handlers
            if entry.owner.plugin in handlers.plugins
        },
        codecs=tuple(manager.codecs.names()),
        formats=tuple(sorted(e.item.name for e in manager.formats if e.item.readable)),
        backend=backend.name,
        host=host.name if host is not None else "",
        guest_types=tuple(guest_types),
        memory_free_bytes=host.memory_free_bytes() if host is not None else None,
        name_taken=bool(guest_name) and host is not None and host.has_guest(guest_name),
        facts=manager.describe_host(host) if host is not None else {},
    )  # fmt: skip


# -- a guest ----------------------------------------------------------------------------


def offer_domain(
    domain: Domain,
    manager: PluginManager,
    handlers: HandlerTable,
    *,
    format_: str = "native",
    codec: str = "",
) -> GuestOffer:
    """A running guest, which is not paused; its memory is counted, and no page is read."""
    about = domain.info
    found = [
        handler for handler in _in_use(manager, handlers, about.guest_type)
        if _collects(handler) and (not handler.facet or domain.facet(handler.facet) is not None)
    ]  # fmt: skip
    records = {
        handler.name: OfferedRecord(
            handler.version, handler.mandatory, _owner(handlers, handler),
            sure=bool(handler.facet) or isinstance(handler, MemoryHandler),
        )
        for handler in found
    }  # fmt: skip
    early = [one for one in found if one.phase in EARLY and isinstance(one, RecordHandler)]
    collected = {handler.name: list(handler.collect(domain)) for handler in early}
    return GuestOffer(
        name=about.name,
        guest_type=about.guest_type.value,
        page_size=about.page_size,
        p2m_size=about.p2m_size,
        nr_vcpus=about.nr_vcpus,
        memory_bytes=count_contents(domain) * about.page_size,
        xen_version=about.xen_version,
        format=format_,
        codec=codec,
        records=records,
        bodies=small({
            handler.name: [b"".join(handler.encode(state)) for state in collected[handler.name]]
            for handler in early
        }),
        states={name: tuple(states) for name, states in collected.items() if states},
    )  # fmt: skip


def with_states(offer: GuestOffer, handlers: HandlerTable) -> GuestOffer:
    """An offer that came from elsewhere, its early records decoded by the handlers here.

    :raises RecordError: one of them is wrong.
    """
    states: dict[str, tuple[Any, ...]] = {}
    for name, bodies in offer.bodies.items():
        version = offer.records[name].version if name in offer.records else 1
        handler = handlers.get(RecordType(name, version))
        if not isinstance(handler, RecordHandler):
            continue
        try:
            states[name] = tuple(handler.decode(memoryview(body)) for body in bodies)
        except FieldError as error:
            raise RecordError(record=name, offset=0, reason=f"as offered: {error}") from error
    return evolve(offer, states=states)


def _in_use(
    manager: PluginManager, handlers: HandlerTable, guest_type: GuestType
) -> Iterator[Handler]:
    for name in manager.record_order():
        handler = handlers.get(RecordType(name))
        if handler is not None and guest_type in handler.guest_types:
            yield handler


def _collects(handler: Handler) -> bool:
    """Whether domains have such records at all: headers of containers they have not."""
    if isinstance(handler, MemoryHandler):
        return True
    kind = type(handler)
    return bool(handler.facet) or (
        kind.collect is not RecordHandler.collect  # type: ignore[attr-defined]
        or kind.stream is not RecordHandler.stream  # type: ignore[attr-defined]
    )


def _owner(handlers: HandlerTable, handler: Handler) -> str:
    owner = handlers.owner_of(RecordType(handler.name))
    return owner.plugin if owner is not None else ""


def small(bodies: Mapping[str, list[bytes]]) -> dict[str, tuple[bytes, ...]]:
    """Those that may travel in one message: p2m frames of a large guest are not among them."""
    kept: dict[str, tuple[bytes, ...]] = {}
    room = BODIES_MAX
    for name, several in bodies.items():
        total = sum(map(len, several))
        if several and max(map(len, several)) <= BODY_MAX and total <= room:
            kept[name] = tuple(several)
            room -= total
    return kept


# -- whether they fit ---------------------------------------------------------------------


def examine(
    offer: GuestOffer, host: HostDescription, manager: PluginManager, handlers: HandlerTable
) -> Examination:
    """All that speaks against it, and all that will be otherwise there."""
    refusals, notices = manager.examine(offer, host, handlers.plugins)
    own = Examination(tuple(_speaking(host)) + tuple(_fitting(offer, host)), tuple(_one_way(host)))
    said = Examination(tuple(refusals), tuple(notices))
    records = _records(offer, host, said.without)
    return own.joined(said).joined(records)


def _speaking(host: HostDescription) -> Iterator[Refusal]:
    if host.speaks == "xsave" and choose_protocol(host.protocol) is None:
        ours, theirs = (f"{low} to {high}" for low, high in (PROTOCOL, host.protocol))
        yield Refusal(
            "protocol", f"this end speaks versions {ours} of the protocol, the other one {theirs}",
            "install versions of xsave that are nearer to each other",
        )  # fmt: skip


def _one_way(host: HostDescription) -> Iterator[Notice]:
    if host.speaks == "xen":
        yield Notice(
            "one-way", f"{host.host or 'the destination'} reads a plain Xen stream and answers "
            "nothing: whether the guest runs there has to be looked at",
        )  # fmt: skip


def choose_protocol(theirs: tuple[int, int]) -> int | None:
    """The highest version that both speak; the newer end speaks the older one's."""
    chosen = min(PROTOCOL[1], theirs[1])
    return chosen if chosen >= max(PROTOCOL[0], theirs[0]) else None


def _fitting(offer: GuestOffer, host: HostDescription) -> Iterator[Refusal]:
    where = host.host or "the destination"
    # One that reads a plain Xen stream is sent one, whatever others are sent.
    if host.speaks == "xsave" and offer.format not in host.formats:
        yield Refusal(
            "format", f"{where} does not read format {offer.format}",
            f"choose one that it reads with --to: {', '.join(host.formats) or 'none'}",
        )  # fmt: skip
    if offer.codec and offer.codec not in host.codecs:
        yield Refusal(
            "codec", f"{where} does not know codec {offer.codec}",
            f"choose one that it knows with --codec: {', '.join(host.codecs) or 'none'}",
        )  # fmt: skip
    if host.guest_types and offer.guest_type not in host.guest_types:
        yield Refusal(
            "guest-type", f"{where} does not run {offer.guest_type} guests",
            "choose another host",
        )  # fmt: skip
    if offer.page_size != host.page_size:
        yield Refusal(
            "page-size", f"the guest has pages of {offer.page_size} bytes, guests there "
            f"{host.page_size}", "choose another host",
        )  # fmt: skip
    if offer.p2m_size > host.p2m_size_max:
        yield Refusal(
            "guest-size", f"the guest has {offer.p2m_size:#x} pfns, {where} takes "
            f"{host.p2m_size_max:#x}", "choose another host",
        )  # fmt: skip
    if host.memory_free_bytes is not None and offer.memory_bytes > host.memory_free_bytes:
        yield Refusal(
            "memory", f"the guest has {size(offer.memory_bytes)} of memory, {where} has "
            f"{size(host.memory_free_bytes)} free",
            "free memory there, balloon the guest down, or choose another host",
        )  # fmt: skip
    if host.name_taken:
        yield Refusal(
            "name-taken", f"{where} has a guest {offer.name} already",
            "end or rename that one, or name the new one in the destination's address",
        )  # fmt: skip


def _records(
    offer: GuestOffer, host: HostDescription, without: Mapping[str, frozenset[Any]]
) -> Examination:
    """Record types that are not understood there, or only older versions of them."""
    refusals, notices = [], []
    where = host.host or "the destination"
    for name, one in offer.records.items():
        if None in without.get(name, ()):
            continue
        version = host.records.get(name)
        if version is not None and version >= one.version:
            continue
        plugin = one.plugin or "a plugin"
        if version is None:
            kind, reason = "record-missing", f"{where} does not understand {name} (plugin {plugin})"
            remedy = f"install plugin {plugin} there"
        else:
            kind = "record-version"
            reason = f"{where} understands {name} up to version {version}, not {one.version}"
            remedy = f"install a newer plugin {plugin} there"
        if one.mandatory and one.sure:
            refusals.append(Refusal(kind, reason, remedy))
        elif one.mandatory:
            notices.append(Notice(kind, f"{reason}: if the guest has such, it will not go"))
        else:
            notices.append(Notice(kind, f"{reason}: it is optional, and stays behind",
                                  ((name, None),)))  # fmt: skip
    return Examination(tuple(refusals), tuple(notices))


def _distinct(items: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(items))
