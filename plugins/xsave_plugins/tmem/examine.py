"""Whether a host can take a guest's transcendent memory, pool by pool.

What is in a persistent pool must arrive, or the guest loses data: a host that cannot take it
is refused before anything is touched. An ephemeral pool is a cache, and may stay behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .client import TmemClient
from .options import SHARED
from .pool import TmemPool

if TYPE_CHECKING:
    from xsave import GuestOffer, Host, HostDescription, Refuse, Stay

CLIENT, POOL = "xen.tmem.client", "xen.tmem.pool"
OF_A_POOL = (POOL, "xen.tmem.pages", "xen.tmem.invalidate", "xen.tmem.settled")
ALL = tuple((name, None) for name in (CLIENT, *OF_A_POOL))


class TmemHost(Protocol):
    """``tmem`` of a host; a host without it has no such facet."""

    @property
    def enabled(self) -> bool: ...

    @property
    def abi_version(self) -> int:
        """The highest that its guests may speak."""

    @property
    def max_pools(self) -> int:
        """Of a guest."""

    @property
    def codecs(self) -> tuple[str, ...]:
        """With which pages may arrive compressed and be held so."""


def describe_host(host: Host) -> dict[str, Any]:
    tmem: TmemHost | None = host.facet("tmem")
    if tmem is None:
        return {"supported": False}
    return {
        "supported": True,
        "enabled": bool(tmem.enabled),
        "abi_version": int(tmem.abi_version),
        "max_pools": int(tmem.max_pools),
        "codecs": list(tmem.codecs),
    }


def examine(guest: GuestOffer, host: HostDescription, refuse: Refuse, stay: Stay) -> None:
    clients = [one for one in guest.states_of(CLIENT) if isinstance(one, TmemClient)]
    pools = [one for one in guest.states_of(POOL) if isinstance(one, TmemPool)]
    if not clients:
        return
    client, facts, where = clients[0], host.facts_of("tmem"), host.host or "the destination"
    persistent = [pool for pool in pools if pool.is_persistent]
    if reason := _why_none(client, facts, where):
        if persistent:
            refuse("tmem", f"{reason}, and {_count(persistent)} persistent",
                   "choose another host, or let the guest flush and destroy its pools")  # fmt: skip
        else:
            stay("tmem", f"{reason}: what is in ephemeral pools stays behind", ALL)
        return
    _examine_pools(pools, persistent, facts, where, refuse, stay)
    held = client.flags & 1 and facts.get("codecs") == []
    if held and persistent:
        stay("tmem-codec", f"{where} holds no pages compressed: they are recoded", ())


def _why_none(client: TmemClient, facts: Any, where: str) -> str:
    """:returns: why nothing of it can be taken, "" if it can."""
    if not facts.get("supported"):
        return f"{where} has no tmem"
    if not facts.get("enabled"):
        return f"{where} has tmem switched off"
    version = facts.get("abi_version", 0)
    if not isinstance(version, int) or client.abi_version > version:
        return f"the guest speaks version {client.abi_version} of tmem, {where} {version}"
    return ""


def _examine_pools(
    pools: list[TmemPool], persistent: list[TmemPool], facts: Any, where: str, refuse: Refuse,
    stay: Stay,
) -> None:  # fmt: skip
    room = facts.get("max_pools", 0)
    if not isinstance(room, int) or len(persistent) > room:
        refuse("tmem-pools", f"{where} gives a guest {room} pools, and {_count(persistent)} "
               "persistent", "choose another host, or let the guest destroy some")  # fmt: skip
        return
    ephemeral = [pool for pool in pools if not pool.is_persistent]
    for pool in ephemeral[room - len(persistent) :]:
        kind = "a shared ephemeral pool" if pool.flags & SHARED else "an ephemeral pool"
        stay("tmem-pools", f"{where} gives a guest {room} pools: {kind}, number {pool.pool_id}, "
             "stays behind", [(name, pool.pool_id) for name in OF_A_POOL])  # fmt: skip


def _count(pools: list[TmemPool]) -> str:
    return "1 pool is" if len(pools) == 1 else f"{len(pools)} pools are"
