from __future__ import annotations

import numpy as np
import pytest

from xsave import zero_rows
from xsave_plugins.sim_host import SimBackend
from xsave_plugins.sim_host.contents import Contents, numbers
from xsave_plugins.sim_host.domain import SimDomain
from xsave_plugins.sim_host.state_page import STATE_PFN, Word

from .conftest import Boot

WORKLOADS = ["idle", "sequential", "random", "hungry", "ballooning"]


def written(domain: SimDomain, seconds: float) -> np.ndarray:
    """pfns that are dirty after the guest ran for so long."""
    domain.start_dirty_log()
    domain.guest.step(seconds)
    found: np.ndarray = np.flatnonzero(domain.read_dirty_log(clean=True))
    return found


def memory(domain: SimDomain, size: int = 2048) -> np.ndarray:
    out = np.empty((size, 4096), np.uint8)
    domain.read_pages(np.arange(size, dtype=np.uint64), out)
    return out


def test_memory_looks_like_that_of_real_guests(boot: Boot) -> None:
    pages = memory(boot("pvh?memory=64M"), 16384)[0x100:]
    zero = zero_rows(pages)
    assert 0.38 < zero.mean() < 0.42
    distinct = len({row.tobytes() for row in pages[~zero]})
    assert 0.2 < 1 - distinct / int((~zero).sum()) < 0.27


def test_contents_follow_from_the_seed_and_not_from_the_host(backend: SimBackend) -> None:
    guests = [backend.open(f"pvh?memory=8M&seed={seed}&host={host}") for seed, host in
              ((1, "a"), (1, "b"), (2, "a"))]  # fmt: skip
    first, same, other = (memory(one)[0x100:] for one in guests if isinstance(one, SimDomain))
    assert (first == same).all()
    assert (first != other).any()


def test_the_same_contents_are_made_in_any_portions() -> None:
    contents = Contents.of(3)
    pfns = np.arange(1000, dtype=np.uint64)
    filled, keys = contents.keys(pfns)
    parts = [contents.keys(part) for part in np.split(pfns, [1, 400])]
    assert (np.concatenate([part[0] for part in parts]) == filled).all()
    assert (np.concatenate([part[1] for part in parts]) == keys).all()
    whole = numbers(5, 0, 100)
    assert (np.concatenate((numbers(5, 0, 30), numbers(5, 30, 70))) == whole).all()


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("kind", ["pv", "hvm"])
def test_the_same_steps_have_the_same_effect(kind: str, workload: str) -> None:
    prints = []
    for steps in ([1.0], [0.3, 0.7], [0.01] * 100):
        address = f"{kind}?memory=8M&workload={workload}&dirty=40M/s"
        domain = SimBackend(clock="manual").open(address)
        assert isinstance(domain, SimDomain)
        for step in steps:
            domain.guest.step(step)
        domain.pause()
        prints.append(domain.guest.fingerprint())
    assert prints[0].differences(prints[1]) == prints[0].differences(prints[2]) == []


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_page_that_changes_is_in_the_dirty_log(boot: Boot, workload: str) -> None:
    for kind in ("pv", "hvm"):
        domain = boot(f"{kind}?memory=8M&workload={workload}&dirty=20M/s")
        before = memory(domain)
        before_types = domain.page_types(np.arange(2048, dtype=np.uint64))
        dirty = written(domain, 0.2)
        changed = (memory(domain) != before).any(axis=1)
        changed |= domain.page_types(np.arange(2048, dtype=np.uint64)) != before_types
        present = domain.page_types(np.arange(2048, dtype=np.uint64)) >> np.uint64(60) != 15
        assert np.isin(np.flatnonzero(changed & present), dirty).all()
        assert np.isin(np.flatnonzero(~present[0x100:]) + 0x100, dirty).all() or kind == "pv"
        assert STATE_PFN in dirty


def test_an_idle_guest_only_counts(boot: Boot) -> None:
    for kind in ("pv", "pvh", "hvm"):
        assert written(boot(f"{kind}?memory=8M"), 1).tolist() == [STATE_PFN]


def test_a_rate_is_kept(boot: Boot) -> None:
    domain = boot("pvh?memory=64M&workload=sequential&dirty=4M/s")
    assert len(written(domain, 1.0)) == 1024 + 1
    assert len(written(domain, 0.0001)) <= 2  # what is less than a page is saved up


def test_a_sequential_writer_goes_from_page_to_page(boot: Boot) -> None:
    domain = boot("pvh?memory=64M&workload=sequential&dirty=4M/s")
    dirty = written(domain, 0.5)[1:]
    assert dirty.tolist() == list(range(0x100, 0x100 + 512))


def test_a_random_writer_has_hot_and_cold_pages(boot: Boot) -> None:
    domain = boot("pvh?memory=64M&workload=random&dirty=40M/s")
    dirty = written(domain, 1.0)[1:] - 0x100
    nr_hot = (16384 - 0x100) // 10
    assert (dirty < nr_hot).sum() > 0.95 * nr_hot
    assert 800 < (dirty >= nr_hot).sum() < 1100


def test_a_hungry_guest_touches_ever_more_pages(boot: Boot) -> None:
    domain = boot("pvh?memory=64M&resident=16M&workload=hungry&dirty=8M/s")
    touched = []
    for _ in range(6):
        dirty = written(domain, 1.0)
        touched.append(int(dirty.max()))
    assert touched == sorted(touched)
    assert touched[0] < touched[3] < touched[-1] == 16383


def test_a_moved_guest_goes_on_where_it_was(boot: Boot) -> None:
    """All that a workload remembers stands in memory, which alone is copied here."""
    address = "pvh?memory=8M&workload=random&dirty=40M/s&seed={}"
    source, target = boot(address.format(1)), boot(address.format(2) + "&host=b")
    source.guest.step(0.5)
    pfns = np.arange(2048, dtype=np.uint64)
    target.write_pages(pfns, memory(source))
    for one in (source, target):
        one.guest.step(0.5)
    assert (memory(source) == memory(target)).all()
    assert target.guest.state is not None
    assert target.guest.state[Word.SEED] == 1
