"""What a simulated host has for guests: enough to see, before anything is moved, whether one can
come. A host may lack things, so that refusals can be tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xsave import GuestType, frozen

if TYPE_CHECKING:
    from .host import Host

TMEM = ("yes", "off", "no")  # has it, has it switched off, has none
CPUS = ("same", "older")
MAX_TMEM_POOLS = 16  # of a client, as Xen


@frozen
class Lacks:
    """:ivar tmem: one of :data:`TMEM`.
    :ivar tmem_pools: that a client may have.
    :ivar cpu: ``older`` for processors without AVX2, FMA and a few more.
    """

    tmem: str = "yes"
    tmem_pools: int = MAX_TMEM_POOLS
    cpu: str = "same"


NOTHING = Lacks()


@frozen
class TmemAbilities:
    """``tmem`` of a host.

    :ivar enabled: False where it is there, and switched off.
    :ivar abi_version: the highest one.
    :ivar max_pools: of a client.
    :ivar codecs: with which it would hold the guest's pages.
    """

    enabled: bool
    abi_version: int
    max_pools: int
    codecs: tuple[str, ...]


@frozen
class X86Abilities:
    """``x86`` of a host. :ivar policies: CPUID and MSR policy by the value of a guest type."""

    policies: Mapping[str, tuple[bytes, bytes]]

    def cpuid_policy(self, guest_type: GuestType) -> bytes:
        return self.policies.get(guest_type.value, (b"", b""))[0]

    def msr_policy(self, guest_type: GuestType) -> bytes:
        return self.policies.get(guest_type.value, (b"", b""))[1]


@frozen
class Abilities:
    """A :class:`xsave.Host`: a host as it was when it was asked.

    :ivar in_the_way: whether a guest has the name that the address asks for.
    """

    name: str
    free_bytes: int
    in_the_way: bool
    x86: X86Abilities
    tmem: TmemAbilities | None
    guest_types: frozenset[GuestType] = frozenset({GuestType.X86_PV, GuestType.X86_HVM})

    def memory_free_bytes(self) -> int:
        return self.free_bytes

    def has_guest(self, _name: str) -> bool:
        """Only where the address names it: otherwise a free name is found."""
        return self.in_the_way

    def facet(self, name: str) -> Any:
        return {"x86": self.x86, "tmem": self.tmem}.get(name)

    def as_map(self) -> dict[str, Any]:
        """Plain values, for :func:`from_map`."""
        tmem = self.tmem
        return {
            "name": self.name, "free_bytes": self.free_bytes, "in_the_way": self.in_the_way,
            "policies": dict(self.x86.policies),
            "tmem": None if tmem is None else
                    [tmem.enabled, tmem.abi_version, tmem.max_pools, list(tmem.codecs)],
        }  # fmt: skip


def from_map(told: Mapping[str, Any]) -> Abilities:
    tmem = None
    if told["tmem"] is not None:
        enabled, abi_version, max_pools, codecs = told["tmem"]
        tmem = TmemAbilities(enabled, abi_version, max_pools, tuple(codecs))
    return Abilities(
        told["name"], told["free_bytes"], told["in_the_way"], X86Abilities(told["policies"]), tmem
    )


def abilities_of(host: Host, name: str | None, tmem_codec: str) -> Abilities:
    """:param name: that a new guest is to have; None for one that is free.
    :param tmem_codec: with which its pages of tmem are to be held.
    """
    from .x86_state import policies

    lacks = host.lacks
    tmem = TmemAbilities(
        enabled=lacks.tmem == "yes", abi_version=1, max_pools=lacks.tmem_pools,
        codecs=(tmem_codec,) if tmem_codec else (),
    )  # fmt: skip
    x86 = X86Abilities({
        GuestType.X86_PV.value: policies("pv", lacks.cpu),
        GuestType.X86_HVM.value: policies("hvm", lacks.cpu),
    })  # fmt: skip
    return Abilities(
        host.name, host.nr_free * 4096, name is not None and name in host.guests, x86,
        None if lacks.tmem == "no" else tmem,
    )  # fmt: skip
