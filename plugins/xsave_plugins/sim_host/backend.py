"""The ``sim`` backend: addresses to guests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xsave import Backend, DomainInfo, GuestType, UsageError

from .address import CLOCKS, MAX_VCPUS, TYPES, SimAddress, parse_address

if TYPE_CHECKING:
    from xsave import Domain

    from .guest import Guest
    from .host import Host

SOURCE_HOST, DESTINATION_HOST = "a", "b"


class SimBackend(Backend):
    """:param clock: how time passes for guests whose address does not say: ``real``, in a
        thread; ``manual``, by ``guest.step``; ``reads``, a millisecond at each read of pages.

    Hosts live as long as this object.
    """

    name = "sim"
    summary = "simulated hosts with guests that keep changing their memory"

    def __init__(self, clock: str = "real") -> None:
        if clock not in CLOCKS:
            raise UsageError(f"sim: no clock {clock!r}; known: {', '.join(CLOCKS)}")
        self._clock = clock
        self._hosts: dict[str, Host] = {}

    def host(self, name: str, memory: int | None = None) -> Host:
        """The host of that name, made when it is first named, with so many bytes."""
        from .host import DEFAULT_MEMORY, Host

        if name not in self._hosts:
            self._hosts[name] = Host(name, memory or DEFAULT_MEMORY)
        return self._hosts[name]

    def open(self, address: str) -> Domain:
        """A running guest: the one of that ``name``, or a new one."""
        from .domain import SimDomain

        wanted = parse_address(address)
        if wanted.type is None:
            raise UsageError("sim: say which type of guest: pv, pvh or hvm")
        host = self.host(wanted.host or SOURCE_HOST, wanted.host_memory)
        guest = host.guests.get(wanted.name or "")
        if guest is None:
            guest = self._boot(host, wanted, wanted.type)
        elif guest.kind != wanted.type:
            raise UsageError(f"sim: {guest.name} is a {guest.kind} guest, not {wanted.type}")
        return SimDomain(guest)

    def create(self, address: str, info: DomainInfo) -> Domain:
        """On the host that the address names, ``b`` if it names none."""
        from .build import make_facets
        from .domain import SimDomain
        from .guest import Guest

        wanted = parse_address(address)
        kind = _kind_for(wanted, info)
        host = self.host(wanted.host or DESTINATION_HOST, wanted.host_memory)
        if wanted.name in host.guests:
            raise UsageError(f"sim: host {host.name} has a guest {wanted.name} already")
        name = wanted.name or _free_name(host, info.name or kind)
        nr_vcpus = wanted.vcpus or info.nr_vcpus or MAX_VCPUS
        if nr_vcpus > MAX_VCPUS:
            raise UsageError(f"sim: at most {MAX_VCPUS} vcpus, {nr_vcpus} are wanted")
        guest = Guest(
            host, name, kind, max(1, info.p2m_size), nr_vcpus,
            clock=wanted.clock or self._clock, prove=wanted.prove,
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

    def _boot(self, host: Host, wanted: SimAddress, kind: str) -> Guest:
        from .build import boot

        name = wanted.name or _free_name(host, kind)
        guest = boot(host, name, kind, wanted, wanted.clock or self._clock)
        host.guests[name] = guest
        return guest


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
