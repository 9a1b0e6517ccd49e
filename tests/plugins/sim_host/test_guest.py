from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import XTAB, GuestType, UsageError, XsaveError
from xsave_plugins.sim_host.guest import Guest
from xsave_plugins.sim_host.host import Host
from xsave_plugins.sim_host.state_page import STATE_PFN, Word

from .conftest import Boot

NR_PFNS = 64


def u64(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


@pytest.fixture(scope="module")
def host() -> Host:
    return Host("a", 64 << 20)


# One action on memory: what, on which pfns.
actions = st.lists(
    st.tuples(
        st.sampled_from(["write", "peek", "clean", "give up", "populate", "start", "stop"]),
        st.lists(st.integers(0, NR_PFNS - 1), max_size=6),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(actions)
def test_the_dirty_log_and_memory_behave_like_a_naive_model(host: Host, actions: list) -> None:
    guest = Guest(host, "g", "hvm", NR_PFNS, 1)
    contents: dict[int, int] = {}  # pfn to the byte that fills its page
    log: set[int] | None = None
    value = 0
    for what, numbers in actions:
        wanted = u64(*numbers)
        if what == "write":
            held = [pfn for pfn in numbers if pfn in contents]
            value = value % 255 + 1
            guest.write(u64(*held), np.full((len(held), 4096), value, np.uint8))
            contents.update(dict.fromkeys(held, value))
            changed = set(held)
        elif what == "populate":
            changed = set(numbers) - contents.keys()
            guest.populate(wanted)
            contents.update(dict.fromkeys(changed, 0))
        elif what == "give up":
            changed = set(numbers) & contents.keys()
            guest.depopulate(wanted)
            for pfn in changed:
                del contents[pfn]
        else:
            changed = set()
            if what == "start":
                guest.start_dirty_log()
                log = set()
            elif what == "stop":
                guest.stop_dirty_log()
                log = None
            elif log is None:
                with pytest.raises(XsaveError, match="dirty log was not started"):
                    guest.read_dirty_log(clean=what == "clean")
            else:
                read = guest.read_dirty_log(clean=what == "clean")
                assert set(np.flatnonzero(read)) == log
                if what == "clean":
                    log = set()
        if log is not None:
            log |= changed
    every = np.arange(NR_PFNS, dtype=np.uint64)
    out = np.full((NR_PFNS, 4096), 0xEE, np.uint8)
    good = guest.read(every, out)
    assert set(np.flatnonzero(good)) == contents.keys()
    assert {pfn: (int(out[pfn].min()), int(out[pfn].max())) for pfn in contents} == {
        pfn: (held, held) for pfn, held in contents.items()
    }
    types = guest.page_types(every) >> np.uint64(60)
    assert [int(one) == XTAB for one in types] == [pfn not in contents for pfn in every.tolist()]
    guest.destroy()
    assert host.nr_free == host.nr_frames


def test_writing_to_a_pfn_without_memory_names_it(host: Host) -> None:
    guest = Guest(host, "g", "hvm", NR_PFNS, 1)
    with pytest.raises(XsaveError, match="pfn 0x5 has no memory"):
        guest.write(u64(5), np.zeros((1, 4096), np.uint8))
    guest.destroy()


def test_a_guest_grows_when_pfns_beyond_its_end_get_memory(host: Host) -> None:
    guest = Guest(host, "g", "hvm", 1, 1)
    guest.start_dirty_log()
    guest.populate(u64(0x1000))
    assert guest.p2m_size == 0x1001
    assert np.flatnonzero(guest.read_dirty_log(clean=True)).tolist() == [0x1000]
    with pytest.raises(XsaveError, match="at most"):
        guest.populate(u64(1 << 51))
    guest.destroy()


def test_a_paused_guest_stands_still_and_a_resumed_one_runs_on(boot: Boot) -> None:
    domain = boot("pvh?memory=8M&workload=random")
    guest = domain.guest
    guest.step(0.1)
    domain.pause()
    stopped = guest.fingerprint()
    guest.step(0.1)
    assert guest.fingerprint() == stopped
    domain.resume()
    domain.resume()  # harmless
    guest.step(0.1)
    assert guest.state is not None
    assert guest.state[Word.COUNTER] == 20
    domain.pause()
    assert guest.fingerprint() != stopped


def test_a_guest_runs_by_itself_while_nobody_looks(boot: Boot) -> None:
    domain = boot("hvm?memory=8M&workload=sequential&dirty=40M/s&clock=real")
    domain.start_dirty_log()
    deadline = time.monotonic() + 20
    while domain.read_dirty_log(clean=False).sum() < 100 and time.monotonic() < deadline:
        time.sleep(0.01)
    domain.pause()
    written = domain.read_dirty_log(clean=True)
    assert written.sum() >= 100
    assert written[STATE_PFN]
    time.sleep(0.03)
    assert not domain.read_dirty_log(clean=False).any()
    domain.destroy()


def test_with_clock_reads_a_guest_runs_while_its_memory_is_read(boot: Boot) -> None:
    domain = boot("pvh?memory=8M&clock=reads")
    out = np.empty((1, 4096), np.uint8)
    for _ in range(3):
        domain.read_pages(u64(STATE_PFN), out)
    assert int(out.view(np.uint64)[0, Word.COUNTER]) == 3


def test_throttle_leaves_a_guest_its_share(boot: Boot) -> None:
    positions = []
    for share in (1.0, 0.25):
        domain = boot("pvh?memory=8M&workload=sequential&dirty=40M/s")
        assert domain.throttle(share)
        domain.guest.step(1.0)
        assert domain.guest.state is not None
        positions.append(domain.guest.state[Word.POSITION])
        domain.destroy()
    assert positions == [10240, 2560]
    with pytest.raises(UsageError):
        domain.throttle(0)


def test_destroying_a_guest_gives_all_memory_back(boot: Boot) -> None:
    domain = boot("pv?memory=8M&name=x")
    host = domain.guest.host
    assert host.nr_free == host.nr_frames - 2048
    domain.destroy()
    domain.destroy()  # harmless
    assert host.nr_free == host.nr_frames
    assert not host.guests
    domain.close()
    assert not host.memory.touched.any()
    with pytest.raises(XsaveError, match="is no more"):
        domain.resume()


def test_what_a_domain_says_of_itself(boot: Boot) -> None:
    info = boot("pv?memory=8M&vcpus=3&name=web").info
    assert (info.name, info.guest_type, info.p2m_size) == ("web", GuestType.X86_PV, 2048)
    assert (info.nr_vcpus, info.details["type"], info.details["host"]) == (3, "pv", "a")
    info = boot("pvh?memory=8M").info
    assert (info.guest_type, info.p2m_size) == (GuestType.X86_HVM, 0xFF000)
    assert boot("hvm?memory=4G&resident=4M").info.p2m_size == 0x110000
