from __future__ import annotations

import numpy as np
import pytest

from xsave import XsaveError
from xsave_plugins.sim_host.host import NO_FRAME, Host
from xsave_plugins.sim_host.machine_memory import MachineMemory


def pfns(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64)


def test_what_was_never_written_reads_as_zeroes_and_is_not_touched() -> None:
    memory = MachineMemory(64)
    out = np.full((3, 4096), 7, np.uint8)
    memory.read(np.array([1, 5, 60]), out)
    assert not out.any()
    assert not memory.touched.any()


def test_zero_pages_cost_nothing_and_the_last_page_for_a_frame_wins() -> None:
    memory = MachineMemory(8)
    pages = np.zeros((4, 4096), np.uint8)
    pages[1] = 9
    memory.write(np.array([2, 3, 3, 4]), pages)  # frame 3 is written, then zeroed
    assert memory.touched.tolist() == [False, False, False, True, False, False, False, False]
    out = np.ones((1, 4096), np.uint8)
    memory.read(np.array([3]), out)
    assert not out.any()


def test_forgotten_frames_read_as_zeroes_again() -> None:
    memory = MachineMemory(8)
    frames = np.array([6, 1, 2])
    memory.write(frames, np.full((3, 4096), 5, np.uint8))
    memory.forget(frames[:2])
    out = np.empty((3, 4096), np.uint8)
    memory.read(frames, out)
    assert [int(row.max()) for row in out] == [0, 0, 5]
    assert not memory.bytes[[1, 6]].any()


def test_mfns_are_shuffled_and_differ_from_host_to_host() -> None:
    first, second = Host("a", 64 << 20), Host("b", 64 << 20)
    mfns = [host.mfns(host.allocate(1, pfns(1000))) for host in (first, second)]
    assert not np.isin(mfns[0], mfns[1]).any()
    assert (np.diff(mfns[0].astype(np.int64)) != 1).mean() > 0.9
    assert mfns[0].min() > 1 << 24  # no pfn of any guest is that large


def test_the_same_host_hands_out_the_same_frames_again() -> None:
    taken = [Host("a", 64 << 20).allocate(1, pfns(500)).tolist() for _ in range(2)]
    assert taken[0] == taken[1]


def test_a_frame_belongs_to_one_guest() -> None:
    host = Host("a", 1 << 20)
    frames = host.allocate(3, pfns(100))
    assert host.pfns_of(3, frames).tolist() == list(range(100))
    assert (host.pfns_of(4, frames) == -1).all()
    strange = np.array([0, 1, host.base_mfn + host.nr_frames, NO_FRAME], np.uint64)
    assert host.frames(strange).tolist() == [-1] * 4


def test_a_host_says_when_it_has_not_enough_memory() -> None:
    host = Host("a", 1 << 20)
    frames = host.allocate(1, pfns(200))
    with pytest.raises(XsaveError, match="100 pages are wanted, 56 of 256 are free"):
        host.allocate(2, pfns(100))
    host.free(frames)
    again = host.allocate(2, pfns(256))
    assert sorted(again.tolist()) == list(range(256))
    assert host.nr_free == 0


def test_freed_memory_is_zero_before_anybody_has_it_again() -> None:
    host = Host("small", 8 << 20)
    pfns = np.arange(host.nr_frames, dtype=np.uint64)
    frames = host.allocate(1, pfns)
    host.memory.write(frames, np.ones((len(frames), 4096), np.uint8))
    host.free(frames)
    assert host.memory.touched.all()
    assert (host.pfns_of(1, frames) == -1).all()
    again = host.allocate(2, pfns)
    pages = np.ones((len(again), 4096), np.uint8)
    host.memory.read(again, pages)
    assert not pages.any()
    assert not host.memory.touched.any()
