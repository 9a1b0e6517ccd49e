from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import UsageError
from xsave_plugins.sim_host.address import parse_address, parse_size


def test_everything_an_address_says_is_understood() -> None:
    found = parse_address(
        "pv?memory=256M&resident=64M&vcpus=4&online=3&workload=hungry&dirty=20M/s&seed=7"
        "&host=x&host_memory=1G&name=web-1&clock=manual&prove=yes"
    )
    assert (found.type, found.memory, found.resident) == ("pv", 256 << 20, 64 << 20)
    assert (found.vcpus, found.online, found.workload, found.dirty) == (4, 3, "hungry", 20 << 20)
    assert (found.seed, found.host, found.host_memory, found.name) == (7, "x", 1 << 30, "web-1")
    assert (found.clock, found.prove) == ("manual", True)


def test_what_is_not_said_makes_a_small_idle_guest() -> None:
    found = parse_address("hvm")
    assert (found.memory, found.resident, found.workload) == (64 << 20, 64 << 20, "idle")


def test_a_dirty_rate_alone_means_random_writes() -> None:
    assert parse_address("pv?dirty=40M/s").workload == "random"
    assert parse_address("pv?dirty=0").workload == "idle"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("vax", "no guest type 'vax'; known: pv, pvh, hvm"),
        ("pv?colour=red", "no option 'colour'; known: memory, resident, vcpus"),
        ("pv?memory=1M", "memory: expected 4M to 256G"),
        ("pv?memory=6001K", "memory: expected"),
        ("pv?memory=lots", "memory: expected a size such as 64M"),
        ("pv?memory=8M&resident=9M", "resident: expected at most memory"),
        ("pv?vcpus=33", "vcpus: expected a number from 1 to 32, got '33'"),
        ("pv?vcpus=2&online=3", "online: expected at most vcpus"),
        ("pv?workload=lazy", "workload: expected idle or sequential or random or hungry"),
        ("pv?dirty=fast", "dirty: expected"),
        ("pv?seed=-1", "seed: expected"),
        ("pv?name=a/b", "name: expected"),
        ("pv?clock=wall", "clock: expected real or manual or reads"),
        ("pv?seed=1&seed=2", "seed is given twice"),
    ],
)
def test_a_wrong_address_is_refused_with_what_there_is(address: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(address)
    assert says in str(caught.value)


@settings(max_examples=200)
@given(st.text(alphabet="pvhm?&=64MGsedimory/-\0", max_size=40))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_address(text)


def test_sizes_are_powers_of_two() -> None:
    sizes = ("4096", "4K", "3M", "2GiB")
    assert [parse_size(size) for size in sizes] == [4096, 4096, 3 << 20, 2 << 30]
