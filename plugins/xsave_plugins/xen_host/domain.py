"""A domain of a Xen host as the pipeline sees it: the contract, and nothing else."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from xsave import TYPE_SHIFT, XTAB, Domain, DomainInfo, GuestType, UsageError, XsaveError, frozen

from . import abi, toolstack
from .connection import Connection
from .control import NO_FRAME, Control, NoDomainError
from .device_model import DeviceModel
from .guard import RESUMED, SUSPENDING, Guard
from .hvm_state import HvmState
from .hypercalls import HypercallError
from .pv_state import PvState
from .suspend import resume, settle, suspend
from .x86_state import X86State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries, Pages

    Flags = NDArray[np.bool_]

ABSENT = np.uint64(XTAB) << TYPE_SHIFT


@frozen
class Toolstack:
    """What is left to whoever runs xsave as a part of itself, such as libxl.

    :ivar suspend: brings the guest to its stop; raises when it did not.
    :ivar log_writes: makes the device model say what it writes, or stop saying.
    """

    suspend: Callable[[], None]
    log_writes: Callable[[bool], None]


@frozen
class Rings:
    """Where store and console of a domain being built are listened to.

    :ivar store_port, console_port: event channels of the domain.
    :ivar store_domid, console_domid: who serves them.
    """

    store_port: int
    store_domid: int
    console_port: int
    console_domid: int


class _XenDomain(Domain):
    """What the domains of both directions share. The connection becomes theirs."""

    pv: PvState | None = None
    hvm: HvmState | None = None

    def __init__(self, connection: Connection, domid: int) -> None:
        self.domid = domid
        self._connection = connection
        self._memory = connection.memory
        self.control = Control(connection.hypercalls, domid)
        self._facets: dict[str, Any] = {}

    def facet(self, name: str) -> Any:
        return self._facets.get(name)

    def close(self) -> None:
        self._facets.clear()
        if self.pv is not None:
            pv, self.pv = self.pv, None
            pv.close()
        self.control.close()
        self._connection.close()

    def page_types(self, pfns: Entries) -> Entries:
        gfns = self._gfns(pfns)
        found = np.empty(len(pfns), np.uint64)
        for start in range(0, len(pfns), abi.MAX_BATCH):
            part = slice(start, start + abi.MAX_BATCH)
            found[part] = self.control.page_types(gfns[part])
        if self.pv is not None:
            found[gfns == NO_FRAME] = ABSENT
        found |= pfns
        return found

    def read_pages(self, pfns: Entries, out: Pages) -> Flags:
        gfns = self._gfns(pfns)
        good = np.zeros(len(pfns), np.bool_)
        for start in range(0, len(pfns), abi.MAX_BATCH):
            part = slice(start, start + abi.MAX_BATCH)
            with self._memory.mapped(self.domid, gfns[part]) as (pages, errors):
                there = errors == 0
                if there.all():
                    out[part] = pages
                else:
                    out[part][there] = pages[there]
                good[part] = there
        return good

    def write_pages(self, pfns: Entries, pages: Pages) -> None:
        gfns = self._gfns(pfns)
        for start in range(0, len(pfns), abi.MAX_BATCH):
            part = slice(start, start + abi.MAX_BATCH)
            with self._memory.mapped(self.domid, gfns[part], write=True) as (there, errors):
                if errors.any():
                    bad = int(pfns[part][np.flatnonzero(errors)[0]])
                    raise XsaveError(f"domain {self.domid}: pfn {bad:#x} cannot be written to")
                there[:] = pages[part]

    def _gfns(self, pfns: Entries) -> Entries:
        return pfns if self.pv is None else self.pv.p2m(pfns)


class SavedDomain(_XenDomain):
    """A guest that is there, to be looked at, saved, or moved elsewhere.

    :param toolstack: None where xsave itself does what a toolstack does.
    :param guard: keeps others away from it; begins with the first change, and ends with this.
    :param resumes: the guest goes on with :meth:`resume` and is no longer watched after
        :meth:`stop_dirty_log`, also where somebody else had stopped and watched it.
    """

    def __init__(
        self, connection: Connection, domid: int, toolstack_: Toolstack | None = None, *,
        guard: Guard | None = None, resumes: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(connection, domid)
        self._guard = guard
        self._suspended_here = self._logging = resumes
        try:
            self._look(toolstack_)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        super().close()
        if self._guard is not None:
            self._guard.end()

    def _look(self, toolstack_: Toolstack | None) -> None:
        store, state = self._connection.store, self.control.state()
        self._toolstack = toolstack_
        self._device_model: DeviceModel | None = None
        self._facets["x86"] = X86State(self.control)
        kind = toolstack.domain_kind(store, self.domid, is_hvm=state.is_hvm)
        if state.is_hvm:
            self.hvm = self._facets["hvm"] = HvmState(self.control)
            p2m_size = self.control.max_gpfn() + 1
        else:
            self.pv = PvState(self.control, self._connection.machine, self._memory, None)
            self._facets["pv"] = self.pv
            p2m_size = self.pv.p2m_size
        if toolstack_ is None:
            self._facets["xl"] = toolstack.XlState(self.domid, state.uuid)
            model = DeviceModel(self.domid, stopped=self._suspended_here)
            if kind == "hvm" and model.is_there:
                self._device_model = self._facets["device_model"] = model
        self.info = DomainInfo(
            name=toolstack.domain_name(store, self.domid),
            guest_type=GuestType.X86_HVM if state.is_hvm else GuestType.X86_PV,
            p2m_size=p2m_size,
            nr_vcpus=state.nr_vcpus,
            xen_version=self._connection.hypercalls.version,
            details={"type": kind, "domid": self.domid, "uuid": str(state.uuid),
                     "nr_pages": state.nr_pages},
        )  # fmt: skip
        # pfns without memory when they were asked for; see read_dirty_log
        self._absent = np.zeros(p2m_size, np.bool_)

    @property
    def locator(self) -> str:
        """Number and uuid: numbers of domains that have ended are given out again. Who asks
        for it keeps a journal, and decides by that whether the guest may go on here."""
        if self._guard is not None:
            self._guard.stand_down()
        return f"{self.domid}/{self.info.details['uuid']}"

    def pause(self) -> None:
        self._begin()
        if self._toolstack is not None:
            self._toolstack.suspend()
        elif not self.control.state().suspended:
            self._suspended_here = True
            self._say(SUSPENDING)
            suspend(self.control, self._connection.store)
            if self._device_model is not None:
                self._device_model.stop()
        if self.pv is not None:
            self.pv.check_unmoved()

    def resume(self) -> None:
        """What was suspended when it was found stays so, and what a toolstack has suspended
        is its to resume."""
        if not self._suspended_here:
            return
        if self._device_model is not None:
            self._device_model.go_on()
        width = 8 if self.pv is None else self.pv.guest_width
        resume(self.control, self._connection.store, width)
        self._suspended_here = False
        self._say(RESUMED)

    def put_back(self, *, was_asked: bool) -> None:
        """After somebody who was killed: it goes on here, and nothing is logged any more.

        :param was_asked: whether it was being suspended.
        """
        if was_asked:
            settle(self.control, self._connection.store)
        try:
            self.stop_dirty_log()
        finally:
            self.resume()

    def _begin(self) -> None:
        if self._guard is not None:
            self._guard.begin()

    def _say(self, step: bytes) -> None:
        if self._guard is not None:
            self._guard.say(step)

    def is_at_rest(self) -> bool:
        state = self.control.state()
        return state.suspended or state.paused

    def destroy(self) -> None:
        if self._toolstack is None and self._is_still_there():
            toolstack.destroy(self.domid)

    def _is_still_there(self) -> bool:
        """This very guest: its number may be another one's by now."""
        try:
            state = self.control.state()
        except NoDomainError:
            return False
        return str(state.uuid) == self.info.details["uuid"] and not state.dying

    def page_types(self, pfns: Entries) -> Entries:
        found = super().page_types(pfns)
        if self.pv is not None and self._logging:
            within = pfns < len(self._absent)
            self._absent[pfns[within].astype(np.intp)] = found[within] >= ABSENT
        return found

    def populate(self, pfns: Entries) -> None:
        raise UsageError(f"xen: {self.info.name} is a guest already, and cannot be restored into")

    def start_dirty_log(self) -> None:
        self._begin()
        self._log_device_writes(True)
        try:
            self._start_log()
        except BaseException:
            self._log_device_writes(False)
            raise
        self._logging = True

    def _start_log(self) -> None:
        try:
            self.control.start_log()
        except HypercallError as error:
            if self.pv is None or error.errno != errno.EINVAL:
                raise
            raise XsaveError(
                f"Xen does not log what {self.info.name} writes: for a PV guest it needs shadow "
                "paging, which not every Xen is built with. The guest can be saved with --no-live"
            ) from error

    def read_dirty_log(self, *, clean: bool) -> Flags:
        """Of a PV guest that has stopped, also pfns that had no memory when they were asked
        for: Xen logs what is written by the pfn it knows, the guest's own p2m may be late."""
        if not self._logging:
            raise XsaveError(f"domain {self.domid} has no dirty log")
        found = self.control.read_log(self.info.p2m_size, clean=clean)
        if self.pv is not None and clean and self.control.state().suspended:
            found |= self._absent
        return found

    def stop_dirty_log(self) -> None:
        if self._logging:
            self._logging = False
            try:
                self.control.stop_log()
            finally:
                self._log_device_writes(False)

    def _log_device_writes(self, on: bool) -> None:
        if self._toolstack is not None:
            if self.hvm is not None:
                self._toolstack.log_writes(on)
        elif self._device_model is not None:
            self._device_model.log_writes(on)


class BuiltDomain(_XenDomain):
    """An empty domain that a toolstack has made, to be restored into. It stays paused: the
    toolstack runs it, or destroys it when anything failed.

    After the last record: :meth:`complete`.

    :param static_data_done: called once, before the first page, when all that is needed to
        build an empty guest is there; with bit 0 set if it had no CPUID policy, and bit 1 if
        no MSR policy.
    """

    def __init__(
        self, connection: Connection, domid: int, rings: Rings,
        static_data_done: Callable[[int], None] = lambda _missing: None,
    ) -> None:  # fmt: skip
        super().__init__(connection, domid)
        self._rings = rings
        self._static_data_done: Callable[[int], None] | None = static_data_done
        self._has_memory = np.zeros(0, np.bool_)
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    def _look(self) -> None:
        state = self.control.state()
        ports = self._rings.store_port, self._rings.console_port
        self.x86 = self._facets["x86"] = X86State(self.control)
        if state.is_hvm:
            self.hvm = self._facets["hvm"] = HvmState(self.control, ports)
        else:
            self.pv = PvState(self.control, self._connection.machine, self._memory, ports)
            self._facets["pv"] = self.pv
        self._nr_vcpus, self._uuid = state.nr_vcpus, str(state.uuid)
        self._name = toolstack.domain_name(self._connection.store, self.domid)

    @property
    def info(self) -> DomainInfo:  # type: ignore[override]  # only looked at: it grows
        return DomainInfo(
            name=self._name,
            guest_type=GuestType.X86_HVM if self.pv is None else GuestType.X86_PV,
            p2m_size=len(self._has_memory) if self.pv is None else self.pv.p2m_size,
            nr_vcpus=self._nr_vcpus,
            xen_version=self._connection.hypercalls.version,
            details={"domid": self.domid, "uuid": self._uuid},
        )

    def pause(self) -> None:
        """It has never run."""

    def resume(self) -> None:
        """The toolstack's to do."""

    def destroy(self) -> None:
        """The toolstack's to do."""

    def populate(self, pfns: Entries) -> None:
        self._end_static_data()
        if not len(pfns):
            return
        self._grow(pfns)
        new = np.unique(pfns[~self._has_memory[pfns.astype(np.intp)]])
        for start in range(0, len(new), abi.MAX_BATCH):
            part = new[start : start + abi.MAX_BATCH]
            gfns = self.control.populate(part)
            self._has_memory[part.astype(np.intp)] = True
            if self.pv is not None:
                self.pv.given(part, gfns)

    def depopulate(self, pfns: Entries) -> None:
        self._grow(pfns)
        gone = np.unique(pfns[self._has_memory[pfns.astype(np.intp)]])
        gfns = self._gfns(gone)
        for start in range(0, len(gone), abi.MAX_BATCH):
            part = slice(start, start + abi.MAX_BATCH)
            self.control.depopulate(gfns[part])
            self._has_memory[gone[part].astype(np.intp)] = False
            if self.pv is not None:
                self.pv.given(gone[part], np.full(len(gone[part]), NO_FRAME))

    def _end_static_data(self) -> None:
        done, self._static_data_done = self._static_data_done, None
        if done is not None:
            done((not self.x86.leaves_given) | (not self.x86.msrs_given) << 1)

    def _grow(self, pfns: Entries) -> None:
        size = int(pfns.max(initial=0)) + 1
        if self.pv is not None and size > self.pv.p2m_size:
            raise XsaveError(f"pfn {size - 1:#x}: this guest has pfns below {self.pv.p2m_size:#x}")
        if size > len(self._has_memory):
            grown = np.zeros(max(size, 2 * len(self._has_memory)), np.bool_)
            grown[: len(self._has_memory)] = self._has_memory
            self._has_memory = grown

    def start_dirty_log(self) -> None:
        raise XsaveError(f"domain {self.domid} is being built and has no dirty log")

    def read_dirty_log(self, *, clean: bool) -> Flags:
        raise XsaveError(f"domain {self.domid} is being built and has no dirty log")

    def stop_dirty_log(self) -> None:
        """There is none."""

    def complete(self) -> tuple[int, int]:
        """Everything is there. The host's programs are let to the rings of store and console.

        :returns: gfns of store's and console's ring, for the toolstack to introduce.
        """
        state = self.pv or self.hvm
        assert state is not None
        store, console = state.store_and_console()
        rings = self._rings
        with self._memory.grant_table(self.domid) as table:
            for entry, domid, gfn in (
                (abi.GRANT_CONSOLE, rings.console_domid, console),
                (abi.GRANT_STORE, rings.store_domid, store),
            ):
                if gfn:
                    abi.GRANT_ENTRY.pack_into(
                        table, entry * abi.GRANT_ENTRY.size, abi.GRANT_PERMIT_ACCESS, domid, gfn
                    )
        return store, console
