"""A persistent pool goes along or the guest does not; an ephemeral one may stay behind."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from xsave import HostDescription, Notice, PluginManager, Refusal, build_manager
from xsave.pipeline.negotiate import describe_host, offer_domain


@pytest.fixture(scope="module")
def manager() -> PluginManager:
    return build_manager()


def host(manager: PluginManager, options: str = "") -> HostDescription:
    """A new one, of which nobody knows yet."""
    sim = manager.backends.find("sim")
    name = f"h{abs(hash(options)) % 10**9}"
    return describe_host(manager, manager.handler_table(), sim, f"?host={name}{options}")


def examined(
    manager: PluginManager, pools: str, there: HostDescription
) -> tuple[list[Refusal], list[Notice]]:
    tmem = f"&tmem=8&tmem_pools={pools}" if pools else ""
    domain = manager.backends.find("sim").open(f"pv?memory=4M{tmem}")
    try:
        offer = offer_domain(domain, manager, manager.handler_table())
        return manager.examine(offer, there, frozenset({"tmem"}))
    finally:
        domain.destroy()


@pytest.mark.parametrize(
    ("pools", "options", "refused"),
    [
        ("", "&host_tmem=no", []),
        ("persistent,ephemeral,shared", "", []),
        ("persistent", "&host_tmem=no", ["tmem"]),
        ("persistent,ephemeral", "&host_tmem=off", ["tmem"]),
        ("persistent,persistent,persistent", "&host_tmem_pools=2", ["tmem-pools"]),
    ],
)
def test_a_persistent_pool_that_cannot_be_taken_refuses(
    manager: PluginManager, pools: str, options: str, refused: list[str]
) -> None:
    refusals, notices = examined(manager, pools, host(manager, options))
    assert [refusal.name for refusal in refusals] == refused
    assert all(refusal.remedy for refusal in refusals)
    assert notices == []


def test_ephemeral_pools_stay_behind_where_there_is_no_tmem(manager: PluginManager) -> None:
    refusals, [notice] = examined(manager, "ephemeral,shared", host(manager, "&host_tmem=no"))
    assert refusals == []
    assert {name for name, key in notice.without if key is None} == {
        "xen.tmem.client", "xen.tmem.pool", "xen.tmem.pages", "xen.tmem.invalidate",
        "xen.tmem.settled",
    }  # fmt: skip


def test_ephemeral_pools_for_which_there_is_no_room_stay_behind(manager: PluginManager) -> None:
    there = host(manager, "&host_tmem_pools=2")
    refusals, notices = examined(manager, "ephemeral,persistent,shared,ephemeral", there)
    assert refusals == []
    assert [dict(notice.without)["xen.tmem.pool"] for notice in notices] == [2, 3]
    assert "shared" in notices[0].text


@pytest.mark.parametrize(
    "facts",
    [
        {"supported": True, "enabled": True, "abi_version": 0, "max_pools": 16},
        {"supported": True, "enabled": True, "abi_version": "1", "max_pools": 16},
        {"supported": True, "enabled": True, "abi_version": 1, "max_pools": None},
        {},
    ],
)
def test_an_older_tmem_or_one_that_says_nonsense_refuses(
    manager: PluginManager, facts: dict[str, Any]
) -> None:
    there = evolve(host(manager), facts={"tmem": facts})
    refusals, _ = examined(manager, "persistent", there)
    assert len(refusals) == 1


def test_a_host_without_the_plugin_is_one_without_tmem(manager: PluginManager) -> None:
    refusals, _ = examined(manager, "persistent", evolve(host(manager), facts={}))
    assert [refusal.name for refusal in refusals] == ["tmem"]
