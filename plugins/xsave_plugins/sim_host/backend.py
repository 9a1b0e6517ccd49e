"""The ``sim`` backend: addresses to guests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from xsave import Backend, DomainInfo, GuestType, UsageError

from .abilities import NOTHING, Abilities, Lacks, abilities_of
from .address import (
    CLOCKS,
    MAX_VCPUS,
    TYPES,
    SimAddress,
    is_name,
    locator,
    new_id,
    parse_address,
    split_socket,
)
from .clock import Lock

if TYPE_CHECKING:
    from xsave import Domain

    from .domain import SimDomain
    from .guest import Guest
    from .host import Host
    from .remote import Hosts

SOURCE_HOST, DESTINATION_HOST = "a", "b"


class SimBackend(Backend):
    """:param clock: how time passes for guests whose address does not say: ``real``, in a
        thread; ``manual``, by ``guest.step``; ``reads``, a millisecond at each read of pages.
    :param own_host: name of the host where an address names none; by default there is one for
        sources and another one for destinations.

    Hosts live as long as this object; those of an address with ``at`` as long as the process
    that serves them. May be used by several threads.
    """

    name = "sim"
    summary = "simulated hosts with guests that keep changing their memory"

    def __init__(self, clock: str = "real", own_host: str | None = None) -> None:
        if clock not in CLOCKS:
            raise UsageError(f"sim: no clock {clock!r}; known: {', '.join(CLOCKS)}")
        self._clock = clock
        self._source_host = own_host or SOURCE_HOST
        self._destination_host = own_host or DESTINATION_HOST
        self._hosts: dict[str, Host] = {}
        self._lock = Lock()

    def host(self, name: str, memory: int | None = None, lacks: Lacks = NOTHING) -> Host:
        """The host of that name, made when it is first named, with so many bytes."""
        from .host import DEFAULT_MEMORY, Host

        with self._lock:
            if name not in self._hosts:
                self._hosts[name] = Host(name, memory or DEFAULT_MEMORY, lacks)
            return self._hosts[name]

    def scrub(self) -> None:
        """Give back the memory of guests that are no more, on all hosts."""
        with self._lock:
            hosts = list(self._hosts.values())
        for host in hosts:
            host.scrub()

    def open(self, address: str) -> Domain:
        """The guest of that ``name``, or a new, running one. An address without a type of
        guest never makes one."""
        from .domain import SimDomain

        wanted = parse_address(address)
        if wanted.at is not None:
            return _elsewhere(wanted.at).open(split_socket(address)[0])
        with self._lock:
            host = self._host_for(wanted, self._source_host)
            guest = host.guests.get(wanted.name or "")
            if guest is None:
                return SimDomain(self._boot(host, wanted))
        if wanted.type not in (None, guest.kind):
            raise UsageError(f"sim: {guest.name} is a {guest.kind} guest, not {wanted.type}")
        return SimDomain(guest)

    def create(self, address: str, info: DomainInfo) -> Domain:
        """On the host that the address names, ``b`` if it names none."""
        wanted = parse_address(address)
        if wanted.at is not None:
            return _elsewhere(wanted.at).create(split_socket(address)[0], info)
        with self._lock:
            return self._create(wanted, info)

    def reserve(self, address: str) -> tuple[str, str]:
        """By an id; of a guest of this process there is nothing to be found later."""
        wanted = parse_address(address)
        if wanted.at is None or wanted.id is not None:
            return address, ""
        guest_id = new_id()
        mark = "&" if "?" in address else "?"
        return f"{address}{mark}id={guest_id}", locator(guest_id, wanted.at)

    def host_of(self, address: str) -> Abilities:
        """As it is now; an address that names a host for the first time makes it."""
        wanted = parse_address(address)
        if wanted.at is not None:
            return _elsewhere(wanted.at).host_of(split_socket(address)[0])
        host = self._host_for(wanted, self._destination_host)
        return abilities_of(host, wanted.name, wanted.tmem_codec)

    def find(self, locator: str) -> Domain | None:
        wanted = parse_address(locator)
        if wanted.id is None:
            raise UsageError("sim: a locator has the id of a guest")
        if wanted.at is not None:
            return _elsewhere(wanted.at).find(wanted.id)
        return self.find_id(wanted.id)

    def find_id(self, guest_id: str) -> SimDomain | None:
        """The guest of that id, on any host of this process."""
        from .domain import SimDomain

        found = [guest for guest in self.guests() if guest.id == guest_id]
        return SimDomain(found[0]) if found else None

    def guests(self) -> Sequence[Guest]:
        """Of all hosts of this process."""
        with self._lock:
            hosts = list(self._hosts.values())
        return [guest for host in hosts for guest in list(host.guests.values())]

    def proofs(self) -> Mapping[str, Mapping[str, Mapping[str, bytes]]]:
        """What all hosts of this process kept of guests with ``prove=yes``: ``left`` and
        ``arrived``, by name, digests by what they are of."""
        with self._lock:
            hosts = list(self._hosts.values())
        found: dict[str, dict[str, Mapping[str, bytes]]] = {"left": {}, "arrived": {}}
        for host in hosts:
            for kept, prints in (("left", host.left), ("arrived", host.arrived)):
                found[kept] |= {name: one.as_digests() for name, one in list(prints.items())}
        return found

    def history(self, name: str) -> Sequence[tuple[int, str, str, str]]:
        """What happened on all hosts of this process to guests of that name: see
        ``Host.history``."""
        with self._lock:
            hosts = list(self._hosts.values())
        return sorted(one for host in hosts for one in list(host.history) if one[2] == name)

    def _host_for(self, wanted: SimAddress, otherwise: str) -> Host:
        return self.host(wanted.host or otherwise, wanted.host_memory, wanted.lacks)

    def _create(self, wanted: SimAddress, info: DomainInfo) -> Domain:
        from .build import make_facets
        from .domain import SimDomain
        from .guest import Guest

        kind = _kind_for(wanted, info)
        host = self._host_for(wanted, self._destination_host)
        if wanted.name in host.guests:
            raise UsageError(f"sim: host {host.name} has a guest {wanted.name} already")
        name = wanted.name or _free_name(host, info.name if is_name(info.name) else kind)
        nr_vcpus = wanted.vcpus or info.nr_vcpus or MAX_VCPUS
        if nr_vcpus > MAX_VCPUS:
            raise UsageError(f"sim: at most {MAX_VCPUS} vcpus, {nr_vcpus} are wanted")
        if wanted.id is not None and self.find_id(wanted.id) is not None:
            raise UsageError("sim: a guest of this id is there already")
        guest = Guest(
            host, name, kind, max(1, info.p2m_size), nr_vcpus,
            clock=wanted.clock or self._clock, prove=wanted.prove,
            guest_id=wanted.id,
        )  # fmt: skip
        guest.has_arrived = False
        make_facets(guest, wanted.tmem_codec)
        host.guests[name] = guest
        return SimDomain(guest)

    def demo_addresses(self) -> Sequence[tuple[str, str]]:
        return [
            (
                f"{kind}?name=demo-{kind}&memory=64M&workload=random&dirty=40M/s&tmem=500",
                f"{kind}?name=demo-{kind}&host={DESTINATION_HOST}",
            )
            for kind in TYPES
        ]

    def _boot(self, host: Host, wanted: SimAddress) -> Guest:
        from .build import boot

        if wanted.type is None:
            known = ", ".join(host.guests) or "none"
            raise UsageError(
                f"sim: host {host.name} has no guest {wanted.name or ''!r} (it has: {known}); "
                "for a new one, say which type of guest: pv, pvh or hvm"
            )
        name = wanted.name or _free_name(host, wanted.type)
        guest = boot(host, name, wanted.type, wanted, wanted.clock or self._clock)
        host.guests[name] = guest
        return guest


def _elsewhere(path: str) -> Hosts:
    from .remote import Hosts

    return Hosts(path)


def _free_name(host: Host, wanted: str) -> str:
    """That name, or with a number behind it."""
    name, number = wanted, 1
    while name in host.guests:
        number += 1
        name = f"{wanted}-{number}"
    return name


def _kind_for(wanted: SimAddress, info: DomainInfo) -> str:
    """As the address says, as the source said, or else what the guest type allows."""
    told = wanted.type or info.details.get("type")
    is_pv = info.guest_type is GuestType.X86_PV
    kind = str(told) if told in ("pv", "pvh", "hvm") else ("pv" if is_pv else "hvm")
    if (kind == "pv") != is_pv:
        raise UsageError(f"sim: a guest of type {info.guest_type.value} cannot become {kind}")
    return kind
