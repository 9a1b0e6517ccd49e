"""What of a PV guest's memory says how it is built, and nothing of what it works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xsave import L1TAB, L4TAB, PINNED

if TYPE_CHECKING:
    from xsave import Entries, Pages

TABLE_TYPES = frozenset(kind | pin for kind in range(L1TAB, L4TAB + 1) for pin in (0, PINNED))
STRUCTURE_FROM = frozenset({"xen.pv.info", "xen.pv.p2m_frames", "xen.pv.vcpu_basic"})
P2M, START_INFO, GDT = "p2m", "start_info", "descriptor tables"

# start_info up to its command line, by guest width (xen/include/public/xen.h); the rest of
# the page is the domain builder's or nobody's.
_START_INFO_BYTES = {8: 128, 4: 80}
_DESCRIPTORS_PER_FRAME = 512


def structure(states: Mapping[str, Sequence[Any]]) -> Mapping[str, Entries]:
    """pfns by what they hold; see MemoryHandler.structure."""
    import numpy as np

    p2m = [one.frames for one in states.get("xen.pv.p2m_frames", ())]
    found = {P2M: np.concatenate(p2m) if p2m else np.zeros(0, np.uint64)}
    vcpus = states.get("xen.pv.vcpu_basic", ())
    # of vcpu 0 in a checkpointed stream the last record counts
    first = [one.context for one in vcpus if one.vcpu_id == 0][-1:]
    found[START_INFO] = np.array([context.start_info_pfn for context in first], np.uint64)
    gdt = {
        frame
        for one in vcpus
        for frame in one.context.gdt_frames[: -(-one.context.gdt_ents // _DESCRIPTORS_PER_FRAME)]
    }
    found[GDT] = np.array(sorted(gdt), np.uint64)
    return found


def clean(kind: str, pages: Pages) -> None:
    """Entries of page tables that are not present may hold anything; so may the command line,
    and what follows the descriptors that are present."""
    import numpy as np

    words = pages.view(np.uint64)
    if kind == "":
        words[(words & np.uint64(1)) == 0] = 0
    elif kind == GDT:
        words[(words >> np.uint64(47) & np.uint64(1)) == 0] = 0  # the descriptor's present bit
    elif kind == START_INFO:
        # the narrower one ends first; what is cut of a 64-bit guest's is pt_base and sizes
        pages[:, min(_START_INFO_BYTES.values()) :] = 0
