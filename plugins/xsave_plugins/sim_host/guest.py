"""One simulated guest: its memory, its dirty log, and whether it runs.

What the hypervisor does is here. What the guest itself does, its kernel and its programs,
is in :mod:`.kernel`, :mod:`.pv_kernel` and :mod:`.workload`, which work on guest memory
through the same few methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from xsave import PINNED, TYPE_SHIFT, XTAB, GuestType, XsaveError

from .address import new_id
from .clock import Lock, Runner, now_ns
from .state_page import STATE_PFN, StatePage, Word
from .workload import Workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries, Pages

    from .fingerprint import Fingerprint
    from .host import Host
    from .kernel import Kernel
    from .machine_memory import Frames

    Flags = NDArray[np.bool_]

PAGE_BYTES = 4096
MAX_PFNS = 1 << 27  # 512 GiB
SLICE_NS = 10_000_000  # a guest runs in slices of so many nanoseconds
READ_S = 0.001  # with clock=reads: for how long it runs at each read of its memory


class Guest:
    """:ivar id: 32 hexadecimal digits that no other guest ever has, on whatever host.
    :ivar lock: held while memory or anything about it changes; a guest that runs takes it
        for each slice.
    :ivar types: (p2m_size,) u8, type nibbles; 0 for all pages of HVM guests.
    :ivar facets: by name; a plugin's file that adds one adds a line here.
    :ivar share: of its processor time that the guest has.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        kind: str,
        p2m_size: int,
        nr_vcpus: int,
        *,
        clock: str = "real",
        prove: bool = False,
        guest_id: str | None = None,
    ) -> None:
        _check_size(name, p2m_size)
        self.id = guest_id or new_id()
        self.host = host
        self.name = name
        self.kind = kind
        self.nr_vcpus = nr_vcpus
        self.clock = clock
        self.prove = prove
        self.domid = host.next_domid()
        self.lock = Lock()
        # Pausing, resuming and destroying, by whichever client, come one after another. Taken
        # before the other lock, which a thread that is being stopped may want.
        self._control = Lock()
        self.types = np.zeros(p2m_size, np.uint8)
        self.facets: dict[str, Any] = {}
        self.kernel: Kernel | None = None  # of one that is being restored, until it runs
        self.share = 1.0
        self.is_running = False
        self.is_alive = True
        self.has_arrived = True  # False until a guest that is being restored first runs
        self.nr_populated = 0
        # frame + 1, 0 for none, so that holes cost nothing
        self._p2m = np.zeros(p2m_size, np.uint32)
        self._dirty: Flags | None = None
        self._runner: Runner | None = None
        self._workload = Workload(self)

    @property
    def guest_type(self) -> GuestType:
        return GuestType.X86_PV if self.kind == "pv" else GuestType.X86_HVM

    @property
    def p2m_size(self) -> int:
        return len(self._p2m)

    @property
    def details(self) -> Mapping[str, object]:
        return {"host": self.host.name, "type": self.kind, "simulated": True}

    @property
    def status(self) -> Mapping[str, object]:
        """What a list of guests says of it: ``state`` is ``being built``, ``running`` or
        ``paused``, ``nr_ticks`` how often it ran, None for one that was not made here."""
        with self.lock:
            own = self.state
            return {
                "name": self.name, "host": self.host.name, "type": self.kind, "id": self.id,
                "state": "running" if self.is_running else
                         "paused" if self.has_arrived else "being built",
                "nr_pages": self.nr_populated,
                "nr_ticks": None if own is None else own[Word.COUNTER],
                "is_logged": self._dirty is not None, "share": self.share,
            }  # fmt: skip

    @property
    def state(self) -> StatePage | None:
        """What the guest keeps of itself; None for a guest that was not made here."""
        frame = int(self.frames(np.array([STATE_PFN], np.uint64))[0])
        if frame < 0 or not self.host.memory.touched[frame]:
            return None
        state = StatePage(self.host.memory.words[frame])
        return state if state.is_valid else None

    # -- memory ----------------------------------------------------------------------

    def frames(self, pfns: Entries) -> Frames:
        """(n,) i64, -1 for a pfn without memory."""
        if len(pfns) and int(pfns.max()) >= len(self._p2m):
            within = np.minimum(pfns, len(self._p2m) - 1).astype(np.intp)
            return np.where(pfns < len(self._p2m), self._p2m[within].astype(np.int64), 0) - 1
        return self._p2m[pfns.astype(np.intp)].astype(np.int64) - 1

    def backed(self, pfns: Entries) -> Frames:
        """As :meth:`frames`, of pfns that must have memory.

        :raises XsaveError: the first that has none.
        """
        frames = self.frames(pfns)
        if len(frames) and int(frames.min()) < 0:
            raise XsaveError(
                f"{self.name}: pfn {int(pfns[int((frames < 0).argmax())]):#x} has no memory"
            )
        return frames

    def populate(self, pfns: Entries) -> None:
        with self.lock:
            self._check_alive()
            if len(pfns):
                self.grow(int(pfns.max()) + 1)
            missing = pfns[self.frames(pfns) < 0]
            if not len(missing):
                return
            missing = _distinct(missing)
            frames = self.host.allocate(self.domid, missing)
            self._p2m[missing.astype(np.intp)] = frames + 1
            self.nr_populated += len(missing)
            self.mark_dirty(missing)

    def depopulate(self, pfns: Entries) -> None:
        """Give up the memory of these pfns, of those that have any. Counts as writing to
        them, so that whoever follows the dirty log hears of it."""
        with self.lock:
            pfns = _distinct(pfns)
            frames = self.frames(pfns)
            pfns, frames = pfns[frames >= 0], frames[frames >= 0]
            self._p2m[pfns.astype(np.intp)] = 0
            self.types[pfns.astype(np.intp)] = 0
            self.host.free(frames)
            self.host.scrub()
            self.nr_populated -= len(pfns)
            self.mark_dirty(pfns)

    def page_types(self, pfns: Entries) -> Entries:
        """The pfns given, with their types in bits 63-60."""
        with self.lock:
            within = np.minimum(pfns, len(self._p2m) - 1).astype(np.intp)
            nibbles = np.where(self.frames(pfns) < 0, XTAB, self.types[within])
        return pfns | nibbles.astype(np.uint64) << TYPE_SHIFT

    def read(self, pfns: Entries, out: Pages) -> Flags:
        """:returns: (n,) bool, which pages could be read."""
        with self.lock:
            frames = self.frames(pfns)
            good = frames >= 0
            if good.all():
                self.host.memory.read(frames, out)
            else:
                part = np.empty((int(good.sum()), PAGE_BYTES), np.uint8)
                self.host.memory.read(frames[good], part)
                out[good] = part
        return good

    def write(self, pfns: Entries, pages: Pages) -> None:
        with self.lock:
            self.host.memory.write(self.backed(pfns), pages)
            self.mark_dirty(pfns)

    def rows(self, pfns: Entries) -> Frames:
        """Frames of pfns whose words the caller, holding the lock, is about to change."""
        frames = self.backed(pfns)
        self.host.memory.touch(frames)
        self.mark_dirty(pfns)
        return frames

    def row(self, pfn: int) -> NDArray[np.uint64]:
        """(512,) u64, the page itself, about to be changed."""
        frame = int(self.rows(np.array([pfn], np.uint64))[0])
        words: NDArray[np.uint64] = self.host.memory.words[frame]
        return words

    def peek(self, pfn: int) -> NDArray[np.uint64]:
        """(512,) u64, a copy."""
        page = np.empty((1, PAGE_BYTES), np.uint8)
        self.host.memory.read(self.backed(np.array([pfn], np.uint64)), page)
        words: NDArray[np.uint64] = page.view(np.uint64)[0]
        return words

    def mfn(self, pfn: int) -> int:
        return int(self.host.mfns(self.backed(np.array([pfn], np.uint64)))[0])

    def pfns_of(self, mfns: Entries) -> NDArray[np.int64]:
        """(n,) i64, -1 for an mfn that is not this guest's."""
        return self.host.pfns_of(self.domid, self.host.frames(mfns))

    def set_type(self, pfn: int, nibble: int) -> None:
        """A page becomes a page table, or stops being one; counts as writing to it."""
        self.types[pfn] = nibble
        self.mark_dirty(np.array([pfn], np.uint64))

    def levels(self) -> NDArray[np.uint8]:
        """(p2m_size,) u8: 0, or the level of the page table that a pfn is."""
        return self.types & np.uint8(PINNED - 1)

    # -- dirty log ---------------------------------------------------------------------

    def mark_dirty(self, pfns: Entries) -> None:
        if self._dirty is not None:
            self._dirty[pfns.astype(np.intp)] = True

    def start_dirty_log(self) -> None:
        with self.lock:
            self._check_alive()
            self._dirty = np.zeros(len(self._p2m), np.bool_)

    def read_dirty_log(self, *, clean: bool) -> Flags:
        with self.lock:
            if self._dirty is None:
                raise XsaveError(f"{self.name}: the dirty log was not started")
            dirty = self._dirty.copy()
            if clean:
                self._dirty[:] = False
        return dirty

    def stop_dirty_log(self) -> None:
        with self.lock:
            self._dirty = None

    # -- running -----------------------------------------------------------------------

    def step(self, seconds: float) -> None:
        """Let the guest run for so long, by its own reckoning; nothing happens to one that
        is paused. The same steps from the same state have the same effect."""
        remaining = round(seconds * 1e9)
        while remaining > 0:
            slice_ns = min(remaining, SLICE_NS)
            remaining -= slice_ns
            with self.lock:
                if not self.is_running:
                    return
                self._workload.run(slice_ns)

    def pause(self) -> None:
        """:raises XsaveError: it could not be brought to a consistent point; it runs on."""
        with self._control:
            self._stop_runner()
            try:
                with self.lock:
                    if self.is_running:
                        self._workload.settle()
                        if self.kernel is not None:
                            self.kernel.suspend()
                        self.is_running = False
                        self.tell("stands")
            finally:
                self._start_runner()

    def resume(self) -> None:
        """:raises XsaveError: what was restored is no guest that could run."""
        with self._control:
            with self.lock:
                if self.is_running:
                    return
                self._check_alive()
                for facet in list(self.facets.values()):  # one may leave
                    if (check := getattr(facet, "check_runnable", None)) is not None:
                        check()
                if not self.has_arrived:
                    self._arrive()
                if self.kernel is not None:
                    self.kernel.wake()
                self.tell("runs")
                self.has_arrived = self.is_running = True
            self._start_runner()

    def destroy(self) -> None:
        with self._control:
            self._stop_runner()
            with self.lock:
                if not self.is_alive:
                    return
                try:
                    if self.prove and self.has_arrived:
                        self.host.left[self.name] = self.fingerprint()
                finally:
                    self._end()

    def _end(self) -> None:
        self.is_running = self.is_alive = False
        self.tell("ended")
        self._dirty = None
        for facet in self.facets.values():
            if (leave := getattr(facet, "leave", None)) is not None:
                leave()
        frames = self._p2m[self._p2m > 0].astype(np.int64) - 1
        self._p2m[:] = 0
        self.types[:] = 0
        self.host.free(frames)
        if self.host.guests.get(self.name) is self:
            del self.host.guests[self.name]

    def _start_runner(self) -> None:
        """Let time pass for it, if it runs."""
        if self.is_running and self.clock == "real" and self._runner is None:
            self._runner = Runner(self.step, self.name)

    def _stop_runner(self) -> None:
        if self._runner is not None:
            self._runner.stop()
            self._runner = None

    def tell(self, what: str) -> None:
        """Note it in the host's history."""
        if self.prove:
            self.host.history.append((now_ns(), self.id, self.name, what))

    def _check_alive(self) -> None:
        if not self.is_alive:
            raise XsaveError(f"{self.name} is no more")

    def fingerprint(self) -> Fingerprint:
        """What it is, in a form that does not depend on the host; see there."""
        from .fingerprint import take_fingerprint

        with self.lock:
            return take_fingerprint(self)

    def _arrive(self) -> None:
        from .kernel import find_kernel

        if self.prove:
            self.host.arrived[self.name] = self.fingerprint()
        # whoever restored it may not have known how many there are
        self.nr_vcpus = self.facets["pv" if self.kind == "pv" else "hvm"].nr_vcpus()
        self.kernel = find_kernel(self)

    def grow(self, p2m_size: int) -> None:
        """Have at least so many pfns."""
        _check_size(self.name, p2m_size)
        if (added := p2m_size - len(self._p2m)) <= 0:
            return
        self._p2m = np.concatenate((self._p2m, np.zeros(added, np.uint32)))
        self.types = np.concatenate((self.types, np.zeros(added, np.uint8)))
        if self._dirty is not None:
            self._dirty = np.concatenate((self._dirty, np.zeros(added, np.bool_)))


def _check_size(name: str, p2m_size: int) -> None:
    """Before anything is made that is so large."""
    if p2m_size > MAX_PFNS:
        raise XsaveError(f"{name}: {p2m_size:#x} pfns, at most {MAX_PFNS:#x} are possible")


def _distinct(pfns: Entries) -> Entries:
    """Each once, ascending; np.unique takes ten times as long."""
    if bool((pfns[1:] <= pfns[:-1]).any()):
        pfns = np.sort(pfns)
        pfns = pfns[np.concatenate(([True], pfns[1:] != pfns[:-1]))]
    return pfns
