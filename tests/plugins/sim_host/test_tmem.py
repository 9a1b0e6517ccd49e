"""Simulated tmem does what Xen's did, and its guests use it repeatably."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from xsave import DomainInfo, GuestType, UsageError, XsaveError
from xsave_plugins.sim_host.address import parse_address
from xsave_plugins.sim_host.backend import SimBackend
from xsave_plugins.sim_host.tmem import COMPRESS, FROZEN, PERSISTENT, SHARED, Tmem
from xsave_plugins.sim_host.tmem_workload import NR_WRONG, POSITION

from .conftest import Boot

OID = (1, 2, 3)
ONES = (1 << 64) - 1
ONE, TWO = bytes([1]) * 4096, bytes([2]) * 4096
UUID = (5, 6)


@pytest.fixture
def backend() -> Iterator[SimBackend]:
    backend = SimBackend("manual")
    yield backend
    for guest in list(backend.host("a").guests.values()):
        guest.destroy()


def guest(backend: SimBackend, options: str = "tmem=1", kind: str = "pvh") -> Any:
    domain: Any = backend.open(f"{kind}?memory=4M&{options}")
    return domain.guest


@pytest.fixture
def tmem(backend: SimBackend) -> Tmem:
    """With an empty persistent pool 0, and an empty ephemeral pool 1."""
    made: Tmem = guest(backend, "tmem=1&tmem_pools=persistent,ephemeral").facets["tmem"]
    made.flush_object(0, (0, ONES, 0))
    return made


@pytest.fixture
def nobody(backend: SimBackend) -> Tmem:
    """Of a guest that is being restored, and no client so far."""
    about = DomainInfo("new", GuestType.X86_HVM, 1024, nr_vcpus=1)
    domain: Any = backend.create("?host=a", about)
    made: Tmem = domain.guest.facets["tmem"]
    return made


# -- pools and pages -------------------------------------------------------------------


def test_a_page_comes_back_until_it_is_flushed(tmem: Tmem) -> None:
    assert tmem.put(0, OID, 7, ONE)
    assert tmem.put(0, OID, 7, TWO)
    assert [tmem.get(0, OID, 7), tmem.get(0, OID, 7)] == [TWO, TWO]
    assert tmem.get(0, OID, 8) is tmem.get(0, (1, 2, 4), 7) is None
    assert (tmem.flush(0, OID, 7), tmem.flush(0, OID, 7)) == (True, False)
    assert tmem.get(0, OID, 7) is None


def test_flushing_an_object_takes_all_its_pages_and_no_others(tmem: Tmem) -> None:
    for index in range(3):
        tmem.put(0, OID, index, ONE)
    tmem.put(0, (1, 2, 4), 0, TWO)
    assert (tmem.flush_object(0, OID), tmem.flush_object(0, OID)) == (True, False)
    assert tmem.handles(0) == [((1, 2, 4), 0)]
    assert tmem.pools()[0][2] == 1


def test_an_ephemeral_page_comes_back_once(tmem: Tmem) -> None:
    tmem.put(1, OID, 0, ONE)
    assert [tmem.get(1, OID, 0), tmem.get(1, OID, 0)] == [ONE, None]


def test_pools_take_the_lowest_free_number_and_at_most_16(tmem: Tmem) -> None:
    tmem.destroy_pool(0)
    assert tmem.new_pool(PERSISTENT) == 0
    assert [tmem.new_pool(0) for _ in range(14)] == list(range(2, 16))
    with pytest.raises(XsaveError, match="has 16 pools already"):
        tmem.new_pool(0)


@pytest.mark.parametrize("flags", [PERSISTENT | SHARED, 1 << 2, 1 << 4, 1 << 24])
def test_pools_that_xen_refuses_are_refused(tmem: Tmem, flags: int) -> None:
    with pytest.raises(XsaveError, match="no pool has flags"):
        tmem.new_pool(flags)


@pytest.mark.parametrize("oid", [(1,), (1, 2), (ONES, ONES, ONES)])
def test_object_ids_have_the_clients_width_and_are_not_all_ones(
    tmem: Tmem, oid: tuple[int, ...]
) -> None:
    with pytest.raises(XsaveError, match="expected 3 words"):
        tmem.put(0, oid, 0, ONE)


def test_what_is_not_there_is_an_error(tmem: Tmem, nobody: Tmem) -> None:
    with pytest.raises(XsaveError, match="no pool 9"):
        tmem.get(9, OID, 0)
    with pytest.raises(XsaveError, match="a page of 4096 bytes, got 1"):
        tmem.put(0, OID, 0, b"x")
    with pytest.raises(XsaveError, match="no client"):
        nobody.new_pool(0)


def test_guests_of_a_host_share_a_pool_by_uuid_until_the_last_leaves(backend: SimBackend) -> None:
    one, two, three = (guest(backend).facets["tmem"] for _ in range(3))
    pool = one.new_pool(SHARED, UUID)
    assert one.put(pool, OID, 0, ONE)
    assert two.get(two.new_pool(SHARED, UUID), OID, 0) == ONE
    assert two.get(1, OID, 0) == ONE  # a shared page stays
    assert three.get(three.new_pool(SHARED, (6, 5)), OID, 0) is None
    assert three.get(three.new_pool(SHARED, (ONES, ONES)), OID, 0) is None
    one.destroy_pool(1)
    two.destroy_pool(1)
    gc.collect()
    assert three.get(three.new_pool(SHARED, UUID), OID, 0) is None


def test_below_a_cap_ephemeral_pages_give_way_to_others(tmem: Tmem) -> None:
    tmem.set_cap(2)
    assert tmem.put(1, OID, 0, ONE)
    assert all(tmem.put(0, OID, index, ONE) for index in (0, 1))
    assert tmem.get(1, OID, 0) is None
    assert not tmem.put(0, OID, 2, ONE)
    assert tmem.put(0, OID, 1, TWO)  # no more than before


def test_a_frozen_client_keeps_what_it_has(tmem: Tmem) -> None:
    tmem.put(0, OID, 0, ONE)
    tmem.freeze(True)
    assert not any((tmem.put(0, OID, 0, TWO), tmem.put(0, OID, 1, TWO)))
    assert not any((tmem.flush(0, OID, 0), tmem.flush_object(0, OID)))
    assert tmem.get(0, OID, 0) == ONE
    tmem.freeze(False)
    assert tmem.put(0, OID, 0, TWO)


# -- while it is being saved -----------------------------------------------------------


def test_while_being_saved_nothing_is_added_and_what_goes_is_told_once(tmem: Tmem) -> None:
    for index in range(4):
        tmem.put(0, OID, index, ONE)
    tmem.put(1, OID, 0, ONE)
    assert tmem.begin(live=True)
    assert not tmem.put(0, OID, 9, ONE)  # a new handle
    assert not tmem.put(0, OID, 0, TWO)  # fails and flushes, not to leave the old page
    assert tmem.get(0, OID, 0) is None
    tmem.flush(0, OID, 1)
    tmem.flush(0, OID, 1)  # not there any more
    tmem.flush(1, OID, 0)  # ephemeral: nobody was told of it
    assert tmem.voids() == [(0, OID, 0), (0, OID, 1)]
    tmem.flush_object(0, OID)
    assert (tmem.voids(), tmem.voids()) == ([(0, OID, None)], [])
    assert tmem.read_pages(0, [(OID, 3)]) == [None]
    tmem.end()
    assert tmem.put(0, OID, 9, ONE)


def test_pools_stay_while_being_saved(tmem: Tmem) -> None:
    tmem.begin(live=True)
    with pytest.raises(XsaveError, match="no pool can go"):
        tmem.destroy_pool(0)


def test_a_save_whose_client_was_killed_is_begun_anew(tmem: Tmem) -> None:
    tmem.put(0, OID, 0, ONE)
    tmem.begin(live=True)
    tmem.flush(0, OID, 0)
    assert tmem.begin(live=True)
    assert tmem.voids() == []  # of the save before
    tmem.end()
    assert tmem.put(0, OID, 0, TWO)


def test_a_shared_pool_ends_with_the_last_guest_that_joined_it(boot: Boot) -> None:
    first, second, third = (
        boot(f"pvh?memory=8M&tmem_pools=shared&name=g{nr_pages}&tmem={nr_pages}").facet("tmem")
        for nr_pages in (30, 20, 1)
    )
    assert len(first.handles(0)) == len(third.handles(0)) == 30
    boot("pvh?name=g30").destroy()
    assert len(third.handles(0)) == 30
    for name in ("g20", "g1"):
        boot(f"pvh?name={name}").destroy()
    again = boot("pvh?memory=8M&tmem_pools=shared&name=again&tmem=1").facet("tmem")
    assert len(again.handles(0)) == 1
    assert second.pools() == []


@pytest.mark.parametrize("frozen", [False, True])
def test_after_a_save_the_client_is_as_before(tmem: Tmem, frozen: bool) -> None:
    tmem.put(0, OID, 0, ONE)
    tmem.freeze(frozen)
    tmem.begin(live=True)
    assert (tmem.client() or (0, 0, 0))[2] == frozen * FROZEN
    assert tmem.put(0, OID, 0, TWO) is False
    assert tmem.get(0, OID, 0) == (ONE if frozen else None)
    tmem.end()
    assert tmem.put(0, OID, 0, TWO) is not frozen


def test_a_client_without_pools_has_nothing_to_save(tmem: Tmem) -> None:
    tmem.destroy_pool(0)
    tmem.destroy_pool(1)
    assert not tmem.begin(live=True)
    assert tmem.new_pool(0) == 0


def test_a_guest_has_tmem_if_it_asked_for_it_or_may_yet_get_it(
    backend: SimBackend, nobody: Tmem
) -> None:
    assert "tmem" not in guest(backend, "").facets
    assert nobody.client() is None
    assert (nobody.begin(live=True), nobody.fingerprint()) == (False, b"")


# -- compressed by the host ------------------------------------------------------------


def test_a_host_with_a_codec_holds_pages_compressed_if_that_helps(backend: SimBackend) -> None:
    tmem = guest(backend, "tmem=100&tmem_codec=zlib").facets["tmem"]
    assert (tmem.client()[2], tmem.held_with()) == (COMPRESS, "zlib")
    held = tmem.read_pages(0, tmem.handles(0))
    assert len(held) == 100
    assert sum(map(len, held)) < 100 * 4096 * 3 // 4
    tmem.put(0, OID, 0, ONE)
    assert len(tmem.read_pages(0, [(OID, 0)])[0]) < 100
    assert tmem.get(0, OID, 0) == ONE


def test_a_client_can_be_created_once(tmem: Tmem) -> None:
    with pytest.raises(XsaveError, match="a client already"):
        tmem.create_client(1, 16, 0, 0, 0)


def test_pages_of_another_codec_are_not_taken(tmem: Tmem) -> None:
    assert not tmem.accepts("zlib")
    assert not tmem.accepts("")
    with pytest.raises(XsaveError, match="held with 'zlib' are not taken here"):
        tmem.restore_pages(0, [(OID, 0)], [b"x"], "zlib")


# -- what guests do with it ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_uses_its_tmem_and_gets_what_it_put(kind: str, backend: SimBackend) -> None:
    made = guest(backend, "tmem=200&tmem_rate=2000&tmem_pools=persistent,ephemeral", kind)
    tmem = made.facets["tmem"]
    assert len(tmem.handles(0)) == len(tmem.handles(1)) == 100
    before = tmem.fingerprint()
    made.step(2)
    words = made.peek(1)
    assert (int(words[POSITION]), int(words[NR_WRONG])) == (200 + 4000, 0)
    assert tmem.fingerprint() != before
    assert 0 < len(tmem.handles(0)) <= 200


def test_a_guest_notices_another_page_in_place_of_its_own(backend: SimBackend) -> None:
    made = guest(backend, "tmem=20&tmem_rate=2000")
    for oid, index in made.facets["tmem"].handles(0):
        made.facets["tmem"].put(0, oid, index, ONE)
    made.step(0.1)
    assert made.peek(1)[NR_WRONG] > 0


def test_the_same_seed_gives_the_same_tmem(backend: SimBackend) -> None:
    found = []
    for seed in (4, 4, 5):
        made = guest(backend, f"tmem=50&tmem_rate=1000&seed={seed}")
        made.step(1)
        found.append(made.facets["tmem"].fingerprint())
    assert found[0] == found[1] != found[2]


def test_an_idle_guest_leaves_its_tmem_alone(backend: SimBackend) -> None:
    made = guest(backend, "tmem=20")
    before = made.facets["tmem"].fingerprint()
    made.step(1)
    assert made.facets["tmem"].fingerprint() == before


# -- addresses -------------------------------------------------------------------------


def test_addresses_say_what_a_guest_has_there(backend: SimBackend) -> None:
    options = "tmem=30&tmem_pools=ephemeral,persistent,shared&tmem_ids=64&seed=9"
    tmem = guest(backend, options).facets["tmem"]
    assert tmem.client() == (0, 16, 0, 0, 0)
    assert [flags for _, flags, *_ in tmem.pools()] == [0, PERSISTENT, SHARED]
    assert [len(oid) for oid, _ in tmem.handles(1)] == [1] * 10
    assert guest(backend).facets["tmem"].client()[0] == 1
    assert parse_address("pv?tmem=5&dirty=1M").tmem_rate == 500
    assert parse_address("pv?tmem=5").tmem_rate == 0


@pytest.mark.parametrize(
    "option",
    ["tmem=0", "tmem=x", "tmem_pools=", "tmem_pools=private", "tmem_codec=zstd", "tmem_ids=128"],
)
def test_wrong_options_are_named(option: str) -> None:
    with pytest.raises(UsageError, match=f"sim: {option.partition('=')[0]}: expected"):
        parse_address(f"pv?{option}")
