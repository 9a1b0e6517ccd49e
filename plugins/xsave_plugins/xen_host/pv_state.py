"""What Xen and a PV guest keep of it beside its memory: the ``pv`` facet."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from xsave import PFN_MASK, PINNED, TYPE_SHIFT, SourceError, XsaveError

from . import abi
from .control import NO_FRAME, Control, Machine
from .frame_maps import GuestP2m, M2p, find_p2m, p2m_generation
from .memory import ForeignMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries, Pages

    Flags = NDArray[np.bool_]

_NO_PAGES = np.zeros((0, abi.PAGE_BYTES), np.uint8)


class PvState:
    """A :class:`xsave.PvFacet`: of a guest that runs, or of a domain being built.

    Of a guest that runs, the p2m is the guest's own, looked at in place: what it changes
    shows at once. Of a domain being built, it is what was given to it.

    :param ports: event channels for store and console; None for a guest that runs.
    """

    def __init__(
        self, control: Control, machine: Machine, memory: ForeignMemory,
        ports: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        self._control = control
        self._memory = memory
        self._ports = ports
        self.guest_width = control.guest_width()
        self._m2p = M2p(machine, memory)
        self._guest_p2m: GuestP2m | None = None
        self._leaf_pages: Pages = _NO_PAGES
        self._frames: Entries = np.zeros(0, np.uint64)  # of a domain being built, by pfn
        self._p2m_frame_pfns: Entries = np.zeros(0, np.uint64)
        if ports is None:
            self._look_at_guest()

    def close(self) -> None:
        self._frames = np.zeros(0, np.uint64)
        if len(self._leaf_pages):
            pages, self._leaf_pages = self._leaf_pages, _NO_PAGES
            self._memory.unmap(pages)
        self._m2p.close()

    # -- frames ------------------------------------------------------------------------

    def _look_at_guest(self) -> None:
        found = find_p2m(
            self._memory, self._control.domid, self.guest_width, self.shared_info(),
            self._m2p.max_mfn,
        )  # fmt: skip
        self._guest_p2m = found
        self._leaf_pages = self._memory.map_for_good(self._control.domid, found.leaf_mfns)
        entries = self._leaf_pages.reshape(-1).view(f"<u{found.width}")
        self._frames = entries[: found.max_pfn + 1]
        self._p2m_frame_pfns = self.m2p(found.leaf_mfns)
        if (bad := self._p2m_frame_pfns == NO_FRAME).any():
            mfn = int(found.leaf_mfns[np.flatnonzero(bad)[0]])
            raise SourceError(f"the guest's p2m: mfn {mfn:#x} is not the guest's")

    @property
    def p2m_size(self) -> int:
        return len(self._frames)

    def check_unmoved(self) -> None:
        """:raises SourceError: the guest has put its p2m elsewhere since it was looked at."""
        if self._guest_p2m is None or not self._guest_p2m.generation:
            return
        now = p2m_generation(self.shared_info(), self.guest_width)
        if now != self._guest_p2m.generation:
            raise SourceError(
                "the guest has moved its p2m while it was being saved (it was given memory, or "
                "gave it back); save it again"
            )

    def set_guest_width(self, width: int) -> None:
        if width != self.guest_width:
            self._control.set_guest_width(width)
            self.guest_width = width

    def p2m(self, pfns: Entries) -> Entries:
        found = np.full(len(pfns), NO_FRAME)
        known = pfns < len(self._frames)
        mfns = self._frames[pfns[known].astype(np.intp)].astype(np.uint64)
        mfns[mfns > self._m2p.max_mfn] = NO_FRAME  # none, or marked by the guest as not its own
        found[known] = mfns
        return found

    def m2p(self, mfns: Entries) -> Entries:
        """Only where both maps agree: what is in Xen's alone is somebody else's."""
        pfns = self._m2p.pfns(mfns)
        pfns[self.p2m(pfns) != mfns] = NO_FRAME
        return pfns

    def p2m_frame_pfns(self) -> Entries:
        return self._p2m_frame_pfns

    def set_p2m_frame_pfns(self, pfns: Entries, p2m_size: int) -> None:
        self._p2m_frame_pfns = pfns.astype(np.uint64)
        more = p2m_size - len(self._frames)
        if more > 0:
            self._frames = np.concatenate((self._frames, np.full(more, NO_FRAME)))

    def given(self, pfns: Entries, mfns: Entries) -> None:
        """A domain being built has this memory from now on; all ones for none.

        :raises XsaveError: a pfn is above the highest.
        """
        if len(beyond := pfns[pfns >= len(self._frames)]):
            raise XsaveError(
                f"pfn {int(beyond[0]):#x}: this guest has pfns below {len(self._frames):#x}"
            )
        self._frames[pfns.astype(np.intp)] = mfns

    def set_page_types(self, entries: Entries) -> None:
        """Pins what is to be pinned; Xen gives tables that those refer to their types."""
        types = entries >> TYPE_SHIFT
        pinned = entries[types & np.uint64(PINNED) != 0]
        levels = pinned >> TYPE_SHIFT & np.uint64(7)
        mfns = self.p2m(pinned & PFN_MASK)
        for start in range(0, len(pinned), abi.MAX_BATCH):
            part = slice(start, start + abi.MAX_BATCH)
            self._control.pin(levels[part], mfns[part])

    # -- vcpus -------------------------------------------------------------------------

    def online_vcpus(self) -> Sequence[int]:
        count = self._control.state().nr_vcpus
        return [vcpu for vcpu in range(count) if self._control.vcpu_is_online(vcpu)]

    def vcpu_state(self, vcpu: int, kind: str) -> bytes:
        if kind == "basic":
            return self._control.vcpu_context(vcpu, self.guest_width)
        if kind == "extended":
            return self._control.vcpu_extended(vcpu)
        return self._control.vcpu_xsave(vcpu) if kind == "xsave" else self._control.vcpu_msrs(vcpu)

    def set_vcpu_state(self, vcpu: int, kind: str, state: bytes) -> None:
        if kind == "basic":
            self._control.set_vcpu_context(vcpu, state)
        elif kind == "extended":
            self._control.set_vcpu_extended(vcpu, state)
        elif kind == "xsave":
            self._control.set_vcpu_xsave(vcpu, state)
        else:
            self._control.set_vcpu_msrs(vcpu, state)

    # -- pages shared with the host ------------------------------------------------------

    def shared_info_mfn(self) -> int:
        return self._control.state().shared_info_mfn

    def shared_info(self) -> bytes:
        with self._shared_page(write=False) as (pages, _):
            return pages.tobytes()

    def set_shared_info(self, page: bytes) -> None:
        with self._shared_page(write=True) as (pages, _):
            pages[0] = np.frombuffer(page, np.uint8)

    def _shared_page(
        self, *, write: bool
    ) -> AbstractContextManager[tuple[Pages, NDArray[np.int32]]]:
        mfns = np.array([self.shared_info_mfn()], np.uint64)
        return self._memory.mapped(self._control.domid, mfns, write=write)

    def store_and_console(self) -> tuple[int, int]:
        """The guest wrote their pfns into start_info before it suspended."""
        if self._rings is None:
            store, _, console, _ = self._start_info()
            pfns = np.array([store, console], np.uint64)
            mfns = self.p2m(pfns)
            if (mfns == NO_FRAME).any():
                raise XsaveError("start_info: the guest's store or console is at no pfn of it")
            self._rings = int(mfns[0]), int(mfns[1])
        return self._rings

    def event_channels(self) -> tuple[int, int]:
        """Ports of store and console of a domain being built; 0 where nobody said."""
        return self._ports or (0, 0)

    _rings: tuple[int, int] | None = None

    def _start_info(self) -> tuple[int, int, int, int]:
        """Store's frame and port, console's frame and port."""
        width = self.guest_width
        word = struct.Struct("<Q" if width == 8 else "<I")
        mfn = word.unpack_from(self.vcpu_state(0, "basic"), abi.CONTEXT_RDX[width])[0]
        with self._memory.mapped(self._control.domid, np.array([mfn], np.uint64)) as (pages, bad):
            if bad.any():
                raise XsaveError(f"start_info: mfn {mfn:#x} is not the guest's")
            page = pages.tobytes()
        at = abi.START_INFO[width]
        store, console = word.unpack_from(page, at[0])[0], word.unpack_from(page, at[2])[0]
        ports = struct.unpack_from("<I", page, at[1])[0], struct.unpack_from("<I", page, at[3])[0]
        return store, ports[0], console, ports[1]
