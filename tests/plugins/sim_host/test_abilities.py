"""What a host has and lacks is told before anything is moved, and held to when it is."""

from __future__ import annotations

import struct

import pytest

from xsave import DomainInfo, GuestType, UsageError, XsaveError
from xsave_plugins.sim_host import SimBackend
from xsave_plugins.sim_host.abilities import from_map

from .conftest import Boot, Served

PV, HVM = GuestType.X86_PV, GuestType.X86_HVM
INFO = DomainInfo(name="g", guest_type=HVM, p2m_size=1024, nr_vcpus=1)
LEAF = struct.Struct("<6I")
AVX2 = 1 << 5  # of ebx of leaf 7


def leaf_7(policy: bytes) -> int:
    """ebx"""
    found: int = next(leaf[3] for leaf in LEAF.iter_unpack(policy) if leaf[:2] == (7, 0))
    return found


def test_a_host_tells_what_it_has(backend: SimBackend, boot: Boot) -> None:
    host = backend.host_of("?host_memory=64M&tmem_codec=zlib")
    assert (host.name, host.memory_free_bytes()) == ("b", 64 << 20)
    assert host.guest_types == {PV, HVM}
    assert not host.has_guest("web")
    tmem = host.facet("tmem")
    assert (tmem.enabled, tmem.abi_version, tmem.max_pools) == (True, 1, 16)
    assert tmem.codecs == ("zlib",)
    assert backend.host_of("").facet("tmem").codecs == ()
    assert host.facet("hvm") is None
    for kind, guest_type in (("pv", PV), ("hvm", HVM)):
        guest = boot(f"{kind}?memory=8M")
        assert host.facet("x86").cpuid_policy(guest_type) == guest.facet("x86").cpuid_policy()
        assert host.facet("x86").msr_policy(guest_type) == guest.facet("x86").msr_policy()
    assert host.facet("x86").cpuid_policy(GuestType.UNKNOWN) == b""


def test_a_guest_in_the_way_and_memory_in_use_are_told(backend: SimBackend) -> None:
    backend.open("pvh?memory=8M&name=web&host=b")
    host = backend.host_of("?name=web")
    assert host.has_guest("web")
    assert host.memory_free_bytes() == (64 << 30) - (8 << 20) - (8 << 12)
    assert not backend.host_of("").has_guest("web")  # it would be called web-2


@pytest.mark.parametrize(
    ("lacks", "told", "says"),
    [
        ("host_tmem=no", None, "has no 'tmem' state here"),
        ("host_tmem=off", (False, 16), "host b has it switched off"),
        ("host_tmem_pools=2", (True, 2), "host b gives a guest 2 pools at most"),
    ],
)
def test_a_host_may_lack_tmem(
    backend: SimBackend, lacks: str, told: tuple[bool, int] | None, says: str
) -> None:
    tmem = backend.host_of(f"?{lacks}").facet("tmem")
    assert (tmem and (tmem.enabled, tmem.max_pools)) == told
    domain = backend.create(f"?{lacks}", INFO)

    def take() -> None:
        facet = domain.need_facet("tmem")
        facet.create_client(1, 16, 0, 0, 0)
        for number in range(3):
            facet.create_pool(number, 1, (0, 0))

    with pytest.raises(XsaveError, match=says):
        take()
    if "pools" not in lacks:
        with pytest.raises(XsaveError, match="tmem"):
            backend.open(f"pv?memory=8M&tmem=9&host=b&{lacks}")
        assert len(backend.guests()) == 1


def test_older_processors_take_no_guest_that_has_more(backend: SimBackend, boot: Boot) -> None:
    old = backend.host_of("?host_cpu=older").facet("x86")
    for kind, guest_type in (("pv", PV), ("hvm", HVM)):
        policy = boot(f"{kind}?memory=8M").facet("x86").cpuid_policy()
        assert leaf_7(policy) & AVX2
        assert not leaf_7(old.cpuid_policy(guest_type)) & AVX2
        x86 = backend.create("", DomainInfo("g", guest_type, 1024, 1)).facet("x86")
        with pytest.raises(
            XsaveError, match=r"host b do not have bits 0x20001000 of ecx of leaf 0x1\.0"
        ):
            x86.set_cpuid_policy(policy)
        x86.set_cpuid_policy(old.cpuid_policy(guest_type))
    there = boot("hvm?memory=8M&host=b").facet("x86").cpuid_policy()
    boot("hvm?memory=8M").facet("x86").set_cpuid_policy(there)


def test_a_served_host_tells_the_same(served: Served) -> None:
    lacks = "?host=old&host_cpu=older&host_tmem_pools=3&tmem_codec=zlib&host_memory=8M"
    there = SimBackend().host_of(f"{lacks}&at={served.path}")
    here = served.backend.host_of(lacks)
    assert there == here
    assert from_map(here.as_map()) == here
    with pytest.raises(UsageError, match="no option"):
        SimBackend().host_of(f"?colour=red&at={served.path}")
