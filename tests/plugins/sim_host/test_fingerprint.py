"""That a fingerprint sees every difference, and none where there is none."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

import xsave
from xsave import PluginManager
from xsave_plugins.sim_host import SimBackend
from xsave_plugins.sim_host.domain import SimDomain

from .conftest import Boot

ADDRESS = "memory=8M&vcpus=2&workload=random&dirty=40M/s"


def paused(backend: SimBackend, address: str) -> SimDomain:
    domain = backend.open(address)
    assert isinstance(domain, SimDomain)
    domain.guest.step(0.1)
    domain.pause()
    return domain


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_equal_guests_on_different_hosts_are_equal(backend: SimBackend, kind: str) -> None:
    one, two = (paused(backend, f"{kind}?{ADDRESS}&host={host}") for host in "ab")
    prints = one.guest.fingerprint(), two.guest.fingerprint()
    assert prints[0].differences(prints[1]) == []
    assert prints[0] == prints[1]
    assert hash(prints[0]) == hash(prints[1])
    other = paused(backend, f"{kind}?{ADDRESS}&seed=2").guest.fingerprint()
    assert other != prints[0]
    assert any("contents of" in text for text in other.differences(prints[0]))


def write_byte(pfn: int, offset: int) -> Callable[[SimDomain], None]:
    def change(domain: SimDomain) -> None:
        pfns, page = np.array([pfn], np.uint64), np.empty((1, 4096), np.uint8)
        domain.read_pages(pfns, page)
        page[0, offset] ^= 2
        domain.write_pages(pfns, page)

    return change


def clear_online(domain: SimDomain) -> None:
    pv = domain.facet("pv")
    state = bytearray(pv.vcpu_state(1, "basic"))
    state[512] &= ~(1 << 5)
    pv.set_vcpu_state(1, "basic", bytes(state))


def change_shared_info(domain: SimDomain) -> None:
    page = bytearray(domain.facet("pv").shared_info())
    struct.pack_into("<Q", page, 16, 0xDEAD)  # cr2 of vcpu 0
    domain.facet("pv").set_shared_info(bytes(page))


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("pvh", write_byte(0x200, 99), "contents of 1 pages: pfns 0x200"),
        ("pv", write_byte(1500, 99), "contents of 1 pages: pfns 0x5dc"),
        ("pv", write_byte(2, 32), "contents of 1 pages: pfns 0x2"),  # nr_pages in start_info
        ("pvh", lambda one: one.depopulate(np.array([0x300], np.uint64)), "contents of 1 pages"),
        ("pvh", lambda one: one.facet("hvm").set_param(9, 1), "hvm params"),
        ("hvm", lambda one: one.facet("device_model").load(2, b"QEVM"), "device model"),
        ("pv", lambda one: one.facet("x86").set_tsc_info(1, 2, 3, 4), "tsc"),
        ("pv", lambda one: one.facet("x86").set_cpuid_policy(bytes(24)), "cpuid policy"),
        ("pv", lambda one: one.facet("pv").set_vcpu_state(1, "msrs", b""), "vcpu 1 msrs"),
        ("pv", clear_online, "vcpu 1 basic"),
        ("pv", change_shared_info, "shared info"),
    ],
)
def test_every_change_is_seen_and_named(
    backend: SimBackend, kind: str, change: Callable[[SimDomain], None], says: str
) -> None:
    domain = paused(backend, f"{kind}?{ADDRESS}")
    before = domain.guest.fingerprint()
    change(domain)
    assert any(says in text for text in domain.guest.fingerprint().differences(before))


def test_a_page_table_that_maps_another_page_is_seen(backend: SimBackend) -> None:
    domain = paused(backend, f"pv?{ADDRESS}")
    before = domain.guest.fingerprint()
    table = int(np.flatnonzero(domain.guest.levels() == 1)[0])
    words = domain.guest.row(table)
    words[[5, 6]] = words[[6, 5]]
    assert domain.guest.fingerprint().differences(before) == [
        f"contents of 1 pages: pfns {table:#x}"
    ]


@pytest.mark.parametrize("workload", ["idle", "sequential", "random", "hungry"])
@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_moved_while_it_runs_arrives_as_it_left(
    manager: PluginManager, kind: str, workload: str
) -> None:
    backend = manager.backends.find("sim")
    assert isinstance(backend, SimBackend)
    name = f"moved-{kind}-{workload}"
    xsave.run(
        f"sim:{kind}?memory=8M&vcpus=3&online=2&workload={workload}&dirty=400M/s&clock=reads"
        f"&name={name}&prove=yes",
        f"sim:?name={name}&prove=yes&clock=manual",
        manager=manager,
    )
    assert name not in backend.host("a").guests
    left, arrived = backend.host("a").left[name], backend.host("b").arrived[name]
    assert arrived.differences(left) == []
    guest = backend.host("b").guests[name]
    assert guest.is_running
    assert guest.state is not None
    before = guest.state[5]
    guest.step(0.1)
    assert guest.state[5] == before + 10
    guest.destroy()


def test_a_pv_guest_whose_p2m_was_not_rewritten_crashes(boot: Boot) -> None:
    domain = boot("pv?memory=8M")
    domain.pause()
    guest = domain.guest
    store, console = domain.facet("pv").store_and_console()
    row = guest.row(2)
    row[7], row[9] = store, console
    guest.has_arrived = False  # as if it had just been restored
    p2m = int(domain.facet("pv").p2m_frame_pfns()[0])
    guest.row(p2m)[9] ^= np.uint64(1)
    with pytest.raises(xsave.XsaveError, match="crashed when it was to run on: its p2m has mfn"):
        domain.resume()
    guest.row(p2m)[9] ^= np.uint64(1)
    guest.row(2)[7] += np.uint64(1)
    with pytest.raises(xsave.XsaveError, match="its store page is mfn"):
        domain.resume()
    assert not guest.is_running
