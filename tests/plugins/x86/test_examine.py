"""A guest whose processor a host cannot give it is refused, feature by feature."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import evolve

from xsave import GuestOffer, HostDescription, PluginManager, Refusal, build_manager
from xsave.pipeline.negotiate import describe_host, offer_domain
from xsave_plugins.x86.cpuid_policy import CpuidLeaf, CpuidPolicyHandler
from xsave_plugins.x86.msr_policy import MsrPolicyHandler

Change = Callable[[int, int, tuple[int, int, int, int]], tuple[int, int, int, int]]


@pytest.fixture(scope="module")
def manager() -> PluginManager:
    return build_manager()


@pytest.fixture(scope="module")
def offer(manager: PluginManager) -> GuestOffer:
    domain = manager.backends.find("sim").open("hvm?memory=4M")
    try:
        return offer_domain(domain, manager, manager.handler_table())
    finally:
        domain.destroy()


@pytest.fixture(scope="module")
def host(manager: PluginManager) -> HostDescription:
    sim = manager.backends.find("sim")
    return describe_host(manager, manager.handler_table(), sim, "?host=x")


def with_leaves(host: HostDescription, change: Change) -> HostDescription:
    """The same host with another CPUID policy for HVM guests."""
    facts = host.facts_of("x86")["x86_hvm"]
    policy = CpuidPolicyHandler().decode(memoryview(bytes.fromhex(facts["cpuid"])))
    leaves = b"".join(
        CpuidLeaf(
            leaf.leaf, leaf.subleaf,
            *change(leaf.leaf, leaf.subleaf, (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx)),
        ).encode()
        for leaf in policy.leaves
    )  # fmt: skip
    return evolve(host, facts={"x86": {"x86_hvm": {**facts, "cpuid": leaves.hex()}}})


def examined(manager: PluginManager, offer: GuestOffer, host: HostDescription) -> list[Refusal]:
    return manager.examine(offer, host, frozenset({"x86"}))[0]


def test_a_host_like_its_own_takes_it(
    manager: PluginManager, offer: GuestOffer, host: HostDescription
) -> None:
    assert examined(manager, offer, host) == []


@pytest.mark.parametrize(
    ("leaf", "register", "cleared", "name", "told"),
    [
        (7, 1, 1 << 5, "cpu-features", "avx2"),
        (1, 2, 1 << 28 | 1 << 12, "cpu-features", "fma, avx"),
        (0x80000001, 3, 1 << 29, "cpu-features", "lm"),
        (0, 2, 0xFF, "cpu-vendor", "AuthenticAMD"),
        (0, 0, 0xF, "cpu-leaves", "basic CPUID leaves to 0xd, the host to 0x0"),
        (0x80000000, 0, 0xFF, "cpu-leaves", "extended"),
        (0xD, 0, 1 << 2, "cpu-state", "XCR0"),
    ],
)
def test_what_the_guest_knows_and_the_host_lacks_is_refused(
    manager: PluginManager, offer: GuestOffer, host: HostDescription, leaf: int, register: int,
    cleared: int, name: str, told: str,
) -> None:  # fmt: skip
    def change(
        number: int, subleaf: int, values: tuple[int, int, int, int]
    ) -> tuple[int, int, int, int]:
        words = list(values)
        if number == leaf and subleaf in (0, 0xFFFFFFFF):
            words[register] &= ~cleared
        return words[0], words[1], words[2], words[3]

    refusals = examined(manager, offer, with_leaves(host, change))
    assert [refusal.name for refusal in refusals] == [name]
    assert told in refusals[0].reason
    assert refusals[0].remedy


def test_more_than_the_guest_knows_is_no_reason(
    manager: PluginManager, offer: GuestOffer, host: HostDescription
) -> None:
    more = with_leaves(host, lambda leaf, _sub, values: (
        values[0], values[1] | (1 << 16 if leaf == 7 else 0), values[2], values[3]
    ))  # fmt: skip
    assert examined(manager, offer, more) == []


def test_registers_that_the_host_lacks_are_refused(
    manager: PluginManager, offer: GuestOffer, host: HostDescription
) -> None:
    msrs = MsrPolicyHandler().decode(memoryview(bytes.fromhex("ce000000") + bytes(12)))
    body = b"".join(MsrPolicyHandler().encode(msrs))
    facts = {**host.facts_of("x86")["x86_hvm"], "msrs": body.hex()}
    refusals = examined(manager, offer, evolve(host, facts={"x86": {"x86_hvm": facts}}))
    assert [refusal.name for refusal in refusals] == ["msr-policy"]
    assert "lacks bits 0x80000000 of register PLATFORM_INFO" in refusals[0].reason


@pytest.mark.parametrize("facts", [{}, {"x86": {}}, {"x86": {"x86_pv": {}}}])
def test_a_host_that_does_not_say_leaves_it_to_its_hypervisor(
    manager: PluginManager, offer: GuestOffer, host: HostDescription, facts: dict[str, object]
) -> None:
    assert examined(manager, offer, evolve(host, facts=facts)) == []


@pytest.mark.parametrize("cpuid", ["zz", 7, "00"])
def test_facts_that_make_no_sense_are_a_refusal_and_no_crash(
    manager: PluginManager, offer: GuestOffer, host: HostDescription, cpuid: object
) -> None:
    wrong = evolve(host, facts={"x86": {"x86_hvm": {"cpuid": cpuid}}})
    assert [refusal.name for refusal in examined(manager, offer, wrong)] == ["plugin-failed"]
