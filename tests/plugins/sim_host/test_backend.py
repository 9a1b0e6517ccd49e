from __future__ import annotations

import re
import subprocess
import sys

import pytest

from xsave import DomainInfo, GuestType, PluginManager, UsageError, XsaveError
from xsave_plugins.sim_host import SimBackend
from xsave_plugins.sim_host.domain import SimDomain

from .conftest import Boot


def info(guest_type: GuestType, **more: object) -> DomainInfo:
    return DomainInfo(name="g", guest_type=guest_type, p2m_size=1024, nr_vcpus=1, details=more)


def test_the_plugin_offers_the_backend(manager: PluginManager) -> None:
    assert manager.backends.find("sim").name == "sim"


def test_a_name_finds_the_guest_again(backend: SimBackend, boot: Boot) -> None:
    first = boot("pv?memory=8M&name=web")
    assert boot("pv?name=web").guest is first.guest
    assert backend.host("a").guests["web"] is first.guest
    assert boot("pv?memory=8M&name=web&host=c").guest is not first.guest
    with pytest.raises(UsageError, match="web is a pv guest, not hvm"):
        boot("hvm?name=web")


def test_guests_without_a_name_get_different_ones(backend: SimBackend, boot: Boot) -> None:
    for _ in range(3):
        boot("pvh?memory=4M")
    assert sorted(backend.host("a").guests) == ["pvh", "pvh-2", "pvh-3"]


def test_an_address_to_open_says_which_type(backend: SimBackend) -> None:
    with pytest.raises(UsageError, match="say which type"):
        backend.open("?memory=8M")


def test_a_created_guest_is_empty_paused_and_on_another_host(backend: SimBackend) -> None:
    domain = backend.create("", info(GuestType.X86_PV))
    assert isinstance(domain, SimDomain)
    assert domain.guest.host.name == "b"
    assert domain.guest.nr_populated == 0
    assert not domain.guest.is_running
    with pytest.raises(XsaveError, match="vcpu 0 has no state yet"):
        domain.resume()
    with pytest.raises(XsaveError, match="no context was loaded"):
        backend.create("", info(GuestType.X86_HVM)).resume()


@pytest.mark.parametrize(
    ("address", "guest_type", "told", "kind"),
    [
        ("", GuestType.X86_PV, {}, "pv"),
        ("", GuestType.X86_HVM, {}, "hvm"),
        ("", GuestType.X86_HVM, {"type": "pvh"}, "pvh"),
        ("pvh", GuestType.X86_HVM, {"type": "hvm"}, "pvh"),
    ],
)
def test_a_created_guest_has_the_type_of_its_source(
    backend: SimBackend, address: str, guest_type: GuestType, told: dict, kind: str
) -> None:
    domain = backend.create(address, info(guest_type, **told))
    assert isinstance(domain, SimDomain)
    assert domain.guest.kind == kind


def test_what_cannot_be_created_is_a_usage_error(backend: SimBackend) -> None:
    with pytest.raises(UsageError, match="cannot become hvm"):
        backend.create("hvm", info(GuestType.X86_PV))
    backend.create("?name=x", info(GuestType.X86_PV))
    with pytest.raises(UsageError, match="host b has a guest x already"):
        backend.create("?name=x", info(GuestType.X86_PV))
    many = DomainInfo(name="g", guest_type=GuestType.X86_PV, p2m_size=1, nr_vcpus=99)
    with pytest.raises(UsageError, match="at most 32 vcpus, 99 are wanted"):
        backend.create("", many)
    with pytest.raises(UsageError, match="no clock 'moon'"):
        SimBackend(clock="moon")


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_that_does_not_fit_leaves_nothing_behind(backend: SimBackend, kind: str) -> None:
    host = backend.host("small", 8 << 20)
    with pytest.raises(XsaveError, match="host small has not enough memory"):
        backend.open(f"{kind}?memory=16M&host=small")
    assert host.nr_free == host.nr_frames
    assert not host.guests


HIGH_WATER = """
import numpy as np
from xsave_plugins.sim_host import SimBackend
domain = SimBackend(clock="manual").open("{address}")
out = np.empty((1024, 4096), np.uint8)
for start in range(0, 1 << 22, 1 << 14):
    pfns = np.arange(start, start + 1024, dtype=np.uint64)
    domain.read_pages(pfns, out)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("kind", ["pv", "hvm"])
def test_a_sparse_guest_of_16_gib_costs_little_memory(kind: str) -> None:
    code = HIGH_WATER.format(address=f"{kind}?memory=16G&resident=64M")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+) kB", done.stdout)
    assert found is not None
    assert int(found[1]) < 400 << 10  # 2.5 % of it, tables of a PV guest included
