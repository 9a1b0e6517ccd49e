"""New guests: what a domain builder and a boot leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xsave import UsageError

from .address import WORKLOADS, SimAddress
from .contents import Contents
from .device_model import DeviceModel
from .guest import Guest
from .hvm_state import HvmState, ordinary_runs, ram_pfns
from .kernel import Kernel
from .pv_kernel import Layout, PvKernel
from .pv_state import PvState
from .state_page import MAGIC, STATE_PFN, VERSION, StatePage, Word
from .tmem import Tmem
from .x86_state import X86State

if TYPE_CHECKING:
    from xsave import Entries

    from .host import Host

_FILL_PAGES = 4096  # generated together: 16 MiB
_BALLOON_SHARE = 4  # of the ordinary memory, what a balloon grows to


def make_facets(guest: Guest, tmem_codec: str = "") -> None:
    """Empty ones, for a guest to be restored into or booted."""
    guest.facets["x86"] = X86State(guest)
    if guest.host.lacks.tmem != "no":
        guest.facets["tmem"] = Tmem(guest, tmem_codec)
    if guest.kind == "pv":
        guest.facets["pv"] = PvState(guest)
        return
    guest.facets["hvm"] = HvmState(guest)
    if guest.kind == "hvm":
        guest.facets["device_model"] = DeviceModel(guest)


def boot(host: Host, name: str, kind: str, wanted: SimAddress, clock: str) -> Guest:
    """A running guest.

    :raises UsageError: it is to have tmem, and the host has none.
    :raises XsaveError: the host has not enough memory; nothing is left of the guest.
    """
    if wanted.tmem and host.lacks.tmem == "no":
        raise UsageError(f"sim: host {host.name} has no tmem")
    nr_pages = wanted.memory // 4096
    if kind == "pv":
        pfns = np.arange(nr_pages, dtype=np.uint64)
        layout = Layout.of(nr_pages)
        first, end, last = layout.end, nr_pages, nr_pages
    else:
        pfns = ram_pfns(wanted.memory, kind)
        first, end, last = ordinary_runs(wanted.memory)
    guest = Guest(host, name, kind, int(pfns.max()) + 1, wanted.vcpus or 1, clock=clock)
    make_facets(guest, wanted.tmem_codec)
    try:
        guest.populate(pfns)
        nr_resident = max(1, min(end - first, wanted.resident // 4096))
        _write_state(guest, wanted, first, nr_resident, end - first)
        above = np.arange(0x100000, max(last, 0x100000), dtype=np.uint64)
        rest = max(0, wanted.resident // 4096 - (end - first)) if last > end else 0
        _fill(guest, wanted.seed, first, nr_resident, above[:rest])
        _boot_kernel(guest, wanted, layout if kind == "pv" else None)
        if "tmem" in guest.facets:
            guest.facets["tmem"].boot(wanted)
        guest.resume()
    except BaseException:
        guest.destroy()
        raise
    guest.prove = wanted.prove  # of one that failed to boot there is nothing to keep
    guest.tell("runs")
    return guest


def _boot_kernel(guest: Guest, wanted: SimAddress, layout: Layout | None) -> None:
    online = wanted.online or guest.nr_vcpus
    if layout is None:
        guest.kernel = Kernel(guest)
        guest.facets["hvm"].boot(wanted.seed, online)
        if guest.kind == "hvm":
            guest.facets["device_model"].boot()
        return
    state = guest.state
    assert state is not None
    for word, value in (
        (Word.START_INFO_PFN, layout.start_info), (Word.STORE_PFN, layout.store),
        (Word.CONSOLE_PFN, layout.console), (Word.GDT_PFN, layout.gdt),
        (Word.LIST_LIST_PFN, layout.list_list), (Word.LIST_PFN, layout.lists),
        (Word.NR_LISTS, layout.nr_lists), (Word.P2M_PFN, layout.p2m),
        (Word.NR_P2M, layout.nr_p2m), (Word.P2M_SIZE, layout.nr_pages),
        (Word.KERNEL_L4_PFN, layout.kernel_l4), (Word.USER_L4_PFN, layout.user_l4),
        (Word.DIRECT_L1_PFN, layout.direct_l1), (Word.USER_L2_PFN, layout.user_l2),
        (Word.USER_L1_PFN, layout.user_l1), (Word.NR_USER_L1, layout.nr_user_l1),
    ):  # fmt: skip
        state[word] = value
    kernel = PvKernel(guest)
    kernel.boot(layout, wanted.seed)
    guest.kernel = kernel
    guest.facets["pv"].boot(wanted.seed, online)


def _write_state(
    guest: Guest, wanted: SimAddress, first: int, nr_resident: int, nr_ordinary: int
) -> None:
    balloon = nr_ordinary // _BALLOON_SHARE if wanted.workload == "ballooning" else 0
    state = StatePage(guest.row(STATE_PFN))
    for word, value in (
        (Word.MAGIC, MAGIC), (Word.VERSION, VERSION),
        (Word.WORKLOAD, WORKLOADS.index(wanted.workload)), (Word.RATE, wanted.dirty),
        (Word.SEED, wanted.seed), (Word.FIRST_PFN, first),
        (Word.NR_PFNS, min(nr_resident, nr_ordinary - balloon)),
        (Word.NR_ORDINARY, nr_ordinary), (Word.BALLOON_PFN, first + nr_ordinary - balloon),
        (Word.BALLOON_SIZE, balloon), (Word.BALLOON_GROWS, 1),
    ):  # fmt: skip
        state[word] = value


def _fill(guest: Guest, seed: int, first: int, count: int, above: Entries) -> None:
    """Contents for ordinary memory. Straight into the frames: nobody looks yet."""
    contents, memory = Contents.of(seed), guest.host.memory
    pfns = np.concatenate((np.arange(first, first + count, dtype=np.uint64), above))
    made = np.empty((_FILL_PAGES, 512), np.uint64)
    for start in range(0, len(pfns), _FILL_PAGES):
        part = pfns[start : start + _FILL_PAGES]
        filled, keys = contents.keys(part)
        frames = guest.frames(part[filled])
        pages = made[: len(keys)]
        contents.make(keys, pages)
        memory.touch(frames)
        memory.words[frames] = pages
