"""Whether a guest could go to a destination, without moving it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import FieldError, StreamError, UnknownNameError
from ..format import PageMode
from ..handler import MemoryHandler
from ..io.source import open_source
from ..manager import HandlerTable, PluginManager, build_manager
from ..negotiation import (
    GuestOffer,
    HostDescription,
    Notice,
    OfferedRecord,
    Refusal,
    host_from_data,
)
from ..record import ImageInfo, Record
from ..value_class import frozen
from ..workers import Workers
from .ends import domain_address
from .migrate import ANSWER_S, FORMAT, connector
from .negotiate import (
    EARLY,
    Examination,
    describe_host,
    examine,
    offer_domain,
    small,
    with_states,
)
from .restore import SeenPages
from .stream import open_stream
from .talk import ID_BYTES, Talk, check_fields, read_answer, say_hello

if TYPE_CHECKING:
    from ..link.options import LinkOptions
    from .migrate import Connect

DESCRIPTION_BYTES_MAX = 4 << 20


@frozen
class Preflight:
    """:ivar guest: its name, or the image's."""

    guest: str
    host: HostDescription
    refusals: tuple[Refusal, ...]
    notices: tuple[Notice, ...]


def preflight(
    source: Any,
    dest: str | Connect,
    *,
    codec: str | None = None,
    plugins: Iterable[str] | None = None,
    answer_s: float = ANSWER_S,
    link_options: LinkOptions | None = None,
    manager: PluginManager | None = None,
) -> Preflight:
    """:param source: address of a domain, or an image as for :func:`xsave.run`.
    :param dest: address of a transport at which somebody receives, or a function that makes a
        link with it; address of a backend; or path of a description.
    :raises XsaveError: one of them cannot be looked at.
    """
    manager = manager or build_manager()
    handlers = manager.handler_table(plugins)
    name = manager.choose_codec(codec).codec.name if codec is not None else ""
    offer = _offer(source, manager, handlers, name)
    host, theirs = _ask(dest, offer, manager, handlers, answer_s, link_options)
    found = examine(offer, host, manager, handlers).joined(theirs)
    return Preflight(offer.name, host, found.refusals, found.notices)


def _offer(source: Any, manager: PluginManager, handlers: HandlerTable, codec: str) -> GuestOffer:
    origin = domain_address(source, manager)
    if origin is None:
        return offer_image(source, manager, handlers, codec)
    domain = origin.backend.open(origin.rest)
    try:
        return offer_domain(domain, manager, handlers, format_=FORMAT, codec=codec)
    finally:
        domain.close()


def _ask(
    dest: str | Connect, offer: GuestOffer, manager: PluginManager, handlers: HandlerTable,
    answer_s: float, options: LinkOptions | None,
) -> tuple[HostDescription, Examination]:  # fmt: skip
    if not isinstance(dest, str):
        return _ask_live(dest, offer, answer_s)
    scheme = dest.partition(":")[0]
    if manager.transports.get(scheme) is not None and ":" in dest:
        return _ask_live(connector(dest, manager, options), offer, answer_s)
    try:
        where = domain_address(dest, manager)
    except UnknownNameError as error:
        known = [*manager.transports.names(), *manager.backends.names()]
        raise UnknownNameError(
            kind="transport or domain backend", name=error.name, known=known
        ) from error
    if where is None:
        return read_description(dest), Examination()
    host = describe_host(manager, handlers, where.backend, where.rest, offer.name)
    return host, Examination()


def _ask_live(
    connect: Connect, offer: GuestOffer, answer_s: float
) -> tuple[HostDescription, Examination]:
    link = connect()
    try:
        talk = Talk(link, answer_s)
        say_hello(talk, "preflight", secrets.token_bytes(ID_BYTES), offer)
        _, fields = talk.hear("hello")
        with check_fields(talk):
            _, host, found = read_answer(fields)
    finally:
        link.close()
    return host, found


def read_description(path: str) -> HostDescription:
    """What ``xsave describe-host`` wrote; hostile perhaps.

    :raises SourceError: it cannot be read. :raises StreamError: it is no description.
    """
    with open_source(path) as source:
        if source.size_bytes is not None and source.size_bytes > DESCRIPTION_BYTES_MAX:
            raise StreamError(f"{path} is no description of a host: {source.size_bytes} bytes")
        text = bytearray()
        while piece := source.peek(4096):
            text += source.take(len(piece), "description")
            if len(text) > DESCRIPTION_BYTES_MAX:
                raise StreamError(f"{path} is no description of a host: it is too long")
    try:
        return host_from_data(json.loads(text))
    except FieldError as error:
        raise StreamError(f"{path} is no description of a host: {error}") from error
    except (ValueError, RecursionError) as error:
        raise StreamError(f"{path} is no description of a host: no JSON: {error}") from error


def offer_image(
    source: Any, manager: PluginManager, handlers: HandlerTable, codec: str
) -> GuestOffer:
    """A guest as it lies in an image. Structure is read to the end, and no page.

    :raises StreamError: the image is wrong.
    """
    records: dict[str, OfferedRecord] = {}
    bodies: dict[str, list[bytes]] = {}
    seen = SeenPages()
    with Workers() as pool:
        opened = open_stream(source, manager, pool, pages=lambda _format: PageMode.SKIP)
        with opened.source:
            info = opened.reader.info
            for event in opened.reader:
                handler = handlers.get(event.type)
                if not isinstance(event, Record):
                    _see(seen, event)
                elif handler is not None and handler.phase in EARLY:
                    bodies.setdefault(event.name, []).append(bytes(event.body))
                if event.name not in records and not _is_header(manager, event.name):
                    owner = handlers.owner_of(event.type)
                    records[event.name] = OfferedRecord(
                        event.type.version,
                        event.type.mandatory or isinstance(handler, MemoryHandler),
                        owner.plugin if owner is not None else "", sure=True,
                    )  # fmt: skip
    offer = GuestOffer(
        name=_name(info, source),
        guest_type=info.guest_type.value,
        page_size=info.page_size,
        p2m_size=seen.p2m_size,
        memory_bytes=seen.nr_populated * info.page_size,
        xen_version=info.xen_version,
        format=FORMAT,
        codec=codec,
        records=records,
        bodies=small(bodies),
    )
    return with_states(offer, handlers)


def _is_header(manager: PluginManager, name: str) -> bool:
    """Of the image's container: no part of the guest."""
    from ..record import Phase

    entry = manager.handlers.get(name)
    return entry is not None and entry.item.phase in (Phase.HEADER, Phase.END)


def _see(seen: SeenPages, event: Any) -> None:
    import numpy as np

    from ..batch import XALLOC
    from ..pages import PFN_MASK, carries_page

    types = event.types.astype(np.uint8)
    populated = carries_page(event.entries) | (types == XALLOC)
    seen.remember(event.entries & PFN_MASK, types, populated)


def _name(info: ImageInfo, source: Any) -> str:
    kept = info.details.get("source")
    details = kept if isinstance(kept, dict) else info.details
    name = details.get("name")
    return name if isinstance(name, str) and name else str(source)
