"""What a paused guest is, in a form that is the same on every host, to prove that a guest
arrived as it left.

Nothing here uses what saves and restores guests: the p2m of a PV guest is found as its own
kernel would find it, by walking the page tables from CR3, and page tables are made
comparable by that.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from xsave import frozen

from .pv_state import CONTEXT_BYTES, CR1, CR3, GDT_ENTS, GDT_FRAMES, ONLINE, RDX
from .pv_tables import FRAME_MASK, PRESENT, XEN_SLOTS, walk
from .state_page import Word

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries

    from .guest import Guest
    from .pv_state import PvState

_NOTHING, _ZEROES, _DIFFERS = 0, 1, 2  # pages with a digest that says little
_CHUNK = 1024
_SHOWN = 8


@frozen(eq=False)
class Fingerprint:
    """:ivar pages: (p2m_size,) u64, a digest of each page; 0 where there is none.
    :ivar types: (p2m_size,) u8, type nibbles.
    :ivar parts: digests of everything else, by what it is.
    """

    pages: Entries
    types: NDArray[np.uint8]
    parts: Mapping[str, str]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and not self.differences(other)

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """Of all of it, hex."""
        return hashlib.sha256(repr(sorted(self.as_digests().items())).encode()).hexdigest()

    def as_digests(self) -> dict[str, bytes]:
        """A digest of each part, memory among them."""
        found = {part: bytes.fromhex(digest) for part, digest in self.parts.items()}
        for part, values in (("contents of pages", self.pages), ("types of pages", self.types)):
            kept = np.flatnonzero(values)  # the same whether a guest ends in holes or not
            found[part] = hashlib.sha256(kept.tobytes() + values[kept].tobytes()).digest()
        return found

    def differences(self, other: Fingerprint) -> list[str]:
        """In words; empty if there are none."""
        found = []
        for what, one, two in (
            ("contents", self.pages, other.pages), ("types", self.types, other.types),
        ):  # fmt: skip
            size = max(len(one), len(two))
            unlike = np.flatnonzero(_padded(one, size) != _padded(two, size))
            if len(unlike):
                shown = ", ".join(f"{pfn:#x}" for pfn in unlike[:_SHOWN])
                found.append(f"{what} of {len(unlike)} pages: pfns {shown}")
        for part in sorted(self.parts.keys() | other.parts.keys()):
            if self.parts.get(part) != other.parts.get(part):
                found.append(part)
        return found


def _padded(values: NDArray[Any], size: int) -> NDArray[Any]:
    padded = np.zeros(size, values.dtype)
    padded[: len(values)] = values
    return padded


def take_fingerprint(guest: Guest) -> Fingerprint:
    """Called with the guest's lock held."""
    found = dict(_shared_parts(guest))
    frames = guest.frames(np.arange(guest.p2m_size, dtype=np.uint64))
    if guest.kind == "pv":
        view = _PvView(guest, frames)
        found.update(view.parts())
        return Fingerprint(view.digests(), guest.types.copy(), found)
    hvm = guest.facets["hvm"]
    found["hvm params"] = _digest(repr(sorted(hvm.params().items())).encode())
    found["hvm context"] = _digest(hvm.context())
    digests = np.zeros(guest.p2m_size, np.uint64)
    pfns = np.flatnonzero(frames >= 0)
    digests[pfns] = _digest_pages(guest.host.memory.words, guest.host.memory.touched, frames[pfns])
    return Fingerprint(digests, guest.types.copy(), found)


def _shared_parts(guest: Guest) -> Iterator[tuple[str, str]]:
    x86 = guest.facets["x86"]
    yield "tsc", _digest(repr(x86.tsc_info()).encode())
    yield "cpuid policy", _digest(x86.cpuid_policy())
    yield "msr policy", _digest(x86.msr_policy())
    model = None if guest.is_running else guest.facets.get("device_model")
    # a guest without a device model may have a place for one until it runs
    if model is not None and (state := model.state()):
        yield "device model", _digest(state + model.xenstore_data())
    for name, facet in guest.facets.items():
        # a facet that came later says itself what of it is the guest's
        told = getattr(facet, "fingerprint", None)
        # one that is empty is as good as none, which it becomes when the guest runs
        if told is not None and (state := told()):
            yield name, _digest(state)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_pages(
    words: NDArray[np.uint64], touched: NDArray[np.bool_], frames: NDArray[np.int64]
) -> Entries:
    digests = np.full(len(frames), _ZEROES, np.uint64)
    written = np.flatnonzero(touched[frames])
    for at in written:
        row = words[frames[at]]
        if row.any():
            digests[at] = xxhash.xxh3_64_intdigest(row.data)
    return digests


class _PvView:
    """A PV guest seen from inside.

    :param frames: (p2m_size,) i64, used where the guest has no linear p2m of its own.
    """

    def __init__(self, guest: Guest, frames: NDArray[np.int64]) -> None:
        self._guest = guest
        self._pv: PvState = guest.facets["pv"]
        self._frames = frames
        self._p2m_frames: list[int] = []
        mfns = self._walk_p2m()
        if mfns is not None:
            self._frames = guest.host.frames(mfns)
        present = np.flatnonzero(self._frames >= 0)
        self._pfn_of = dict(
            zip(guest.host.mfns(self._frames[present]).tolist(), present.tolist(), strict=True)
        )
        # for whole tables: by frame
        self._pfns = np.full(guest.host.nr_frames if len(present) == 0 else
                             int(self._frames.max()) + 1, -1, np.int64)  # fmt: skip
        self._pfns[self._frames[present]] = present

    def _walk_p2m(self) -> Entries | None:
        """The guest's own p2m, (p2m_size,) u64 mfns: at its virtual address, from CR3 on."""
        guest, shared = self._guest, self._pv.shared_words
        address, size = int(shared[3120 // 8]), int(shared[3088 // 8])
        if not address or guest.state is None:
            return None
        top = np.array([self._pv.top_table_mfn()], np.uint64)
        l4_frame = int(guest.host.frames(top)[0])
        mfns = np.full(guest.p2m_size, (1 << 64) - 1, np.uint64)
        for start in range(0, min(size, guest.p2m_size), 512):
            way = walk(guest, l4_frame, address + 8 * start)
            if len(way) != 5:
                return None
            self._p2m_frames.append(int(way[-1]))
            part = guest.host.memory.words[way[-1]][: min(size, guest.p2m_size) - start]
            mfns[start : start + len(part)] = part
        return mfns

    def digests(self) -> Entries:
        """Pages as they are, page tables with pfns; what a guest rebuilds on each host says
        only that it is there."""
        guest = self._guest
        memory, host = guest.host.memory, guest.host
        digests = np.zeros(guest.p2m_size, np.uint64)
        pfns = np.flatnonzero(self._frames >= 0)
        digests[pfns] = _digest_pages(memory.words, memory.touched, self._frames[pfns])
        levels = guest.types & 7
        tables = np.flatnonzero(levels > 0)
        for start in range(0, len(tables), _CHUNK):
            part = tables[start : start + _CHUNK]
            words = memory.words[self._frames[part]]
            words[np.ix_(levels[part] == 4, np.arange(512)[XEN_SLOTS])] = 0
            present = words & np.uint64(PRESENT) != 0
            frames = host.frames((words[present] & FRAME_MASK) >> np.uint64(12))
            known = (frames >= 0) & (frames < len(self._pfns))
            targets = np.where(known, self._pfns[np.where(known, frames, 0)], -1)
            named = (targets.astype(np.uint64) << np.uint64(12)) & FRAME_MASK
            words[present] = words[present] & ~FRAME_MASK | named
            digests[part] = [xxhash.xxh3_64_intdigest(row.data) for row in words]
        own = host.pfns_of(guest.domid, np.array(self._p2m_frames, np.int64))
        digests[own[own >= 0]] = _DIFFERS
        if guest.state is None:  # not made here: where its p2m is, it told its host
            digests[self._pv.p2m_frame_pfns().astype(np.intp)] = _DIFFERS
        else:
            lists = guest.state[Word.LIST_PFN]
            digests[guest.state[Word.LIST_LIST_PFN]] = _DIFFERS
            digests[lists : lists + guest.state[Word.NR_LISTS]] = _DIFFERS
        start_info = self._pfn_of.get(self._pv.start_info_mfn())
        if start_info is not None:
            digests[start_info] = self._digest_start_info(start_info)
        return digests

    def _digest_start_info(self, pfn: int) -> int:
        """With pfns for the store and the console, without the address of shared_info."""
        row = self._guest.peek(pfn)
        row[40 // 8] = 0
        for word in (56 // 8, 72 // 8):  # pfns when it is suspended, mfns when it runs
            row[word] = self._pfn_of.get(int(row[word]), int(row[word]))
        return xxhash.xxh3_64_intdigest(row.data)

    def parts(self) -> Iterator[tuple[str, str]]:
        pv = self._pv
        for vcpu in pv.online_vcpus():
            yield f"vcpu {vcpu} basic", _digest(self._context(pv.vcpu_state(vcpu, "basic"), vcpu))
            for kind in ("extended", "xsave", "msrs"):
                yield f"vcpu {vcpu} {kind}", _digest(pv.vcpu_state(vcpu, kind))
        # of shared_info, what a restored guest is given of it
        page = pv.shared_words.copy()
        page[1:256:8] = 0  # selectors of pending events
        page[256:386] = 0  # events, and the host's clock
        page[387] = page[389] = 0  # frame list list, p2m_cr3
        yield "shared info", _digest(page.tobytes())

    def _context(self, state: bytes, vcpu: int) -> bytes:
        """With pfns for mfns."""
        if len(state) != CONTEXT_BYTES:
            return state
        changed = bytearray(state)

        def replace(offset: int, shift: int) -> None:
            value = int.from_bytes(state[offset : offset + 8], "little")
            if value:
                pfn = self._pfn_of.get(value >> shift, -1)
                struct.pack_into("<q", changed, offset, pfn)

        if vcpu == 0:
            replace(RDX, 0)
        replace(CR1, 12)
        replace(CR3, 12)
        nr_entries = int.from_bytes(state[GDT_ENTS : GDT_ENTS + 8], "little")
        for number in range(-(-nr_entries // 512)):
            replace(GDT_FRAMES + 8 * number, 0)
        changed[512] |= ONLINE
        return bytes(changed)
