"""What is done to one domain, a word for each hypercall."""

from __future__ import annotations

import errno
import uuid
from typing import TYPE_CHECKING

import numpy as np

from xsave import TYPE_SHIFT, XsaveError, frozen

from . import abi
from .hypercalls import HypercallBuffer, HypercallError, Hypercalls

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries

    Flags = NDArray[np.bool_]

NO_FRAME = np.uint64((1 << 64) - 1)
_PFN_BITS = np.uint64((1 << 52) - 1)
_TYPE_BITS = np.uint64(abi.TYPE_SHIFT_32)


class NoDomainError(XsaveError):
    """There is none of that number."""

    def __init__(self, domid: int) -> None:
        super().__init__(f"there is no domain {domid}")


@frozen
class DomainState:
    """What Xen says of a domain.

    :ivar suspended: stopped, by a suspend; :ivar paused: by its administrator.
    :ivar shutdown_reason: None as long as it has not shut down.
    :ivar shared_info_mfn: of the page that it shares with Xen.
    """

    is_hvm: bool
    dying: bool
    paused: bool
    shutdown_reason: int | None
    nr_pages: int
    nr_vcpus: int
    shared_info_mfn: int
    uuid: uuid.UUID

    @property
    def suspended(self) -> bool:
        return self.shutdown_reason == abi.SHUTDOWN_SUSPEND


class Control:
    """One domain, by number."""

    def __init__(self, hypercalls: Hypercalls, domid: int) -> None:
        self._calls = hypercalls
        self.domid = domid
        self._words: HypercallBuffer | None = None

    def close(self) -> None:
        words, self._words = self._words, None
        if words is not None:
            words.close()

    def state(self) -> DomainState:
        """:raises NoDomainError: as it says."""
        try:
            body = self._calls.domctl("looking", abi.GET_DOMAIN_INFO, self.domid)
        except HypercallError as error:
            if error.errno == errno.ESRCH:
                raise NoDomainError(self.domid) from None
            raise
        (found, flags, nr_pages, _, _, _, _, shared, _, _, max_vcpu, _, handle) = (
            abi.DOMAIN_INFO.unpack_from(body)
        )
        if found != self.domid:  # Xen answers with the next one there is
            raise NoDomainError(self.domid)
        reason = flags >> abi.SHUTDOWN_REASON_SHIFT & 0xFF
        return DomainState(
            is_hvm=bool(flags & abi.HVM_GUEST),
            dying=bool(flags & abi.DYING),
            paused=bool(flags & abi.PAUSED),
            shutdown_reason=reason if flags & abi.SHUTDOWN else None,
            nr_pages=nr_pages,
            nr_vcpus=0 if max_vcpu == abi.NO_VCPUS else max_vcpu + 1,
            shared_info_mfn=shared,
            uuid=uuid.UUID(bytes=handle),
        )

    # -- running -----------------------------------------------------------------------

    def suspend_from_outside(self) -> None:
        """For an HVM guest that takes no part in it."""
        self._calls.operate(
            f"the suspension of domain {self.domid}", abi.SCHED_OP, abi.SCHEDOP_REMOTE_SHUTDOWN,
            abi.REMOTE_SHUTDOWN, self.domid, abi.SHUTDOWN_SUSPEND,
        )  # fmt: skip

    def resume(self) -> None:
        self._calls.domctl("resuming", abi.RESUME_DOMAIN, self.domid)

    def destroy(self) -> None:
        self._calls.domctl("destruction", abi.DESTROY_DOMAIN, self.domid)

    # -- memory ------------------------------------------------------------------------

    def page_types(self, gfns: Entries) -> Entries:
        """:param gfns: (n,) u64, n up to :data:`abi.MAX_BATCH`.
        :returns: (n,) u64, types in bits 63-60 and nothing else.
        """
        words = self._words
        if words is None:
            # Kept: Xen's library maps a buffer of two pages anew each time that it is asked for.
            words = self._words = self._calls.buffer(8 * abi.MAX_BATCH)
        array = np.frombuffer(words.view, np.uint64, len(gfns))
        array[:] = gfns
        self._calls.domctl(
            "page types", abi.GET_PAGE_FRAME_INFO3, self.domid,
            abi.PAGE_FRAME_INFO.pack(len(gfns), words.address),
        )  # fmt: skip
        # Xen answers in bits 31-28 of each word; what is above them falls off.
        return np.asarray(array >> _TYPE_BITS << TYPE_SHIFT)

    def max_gpfn(self) -> int:
        """The highest pfn of a guest that Xen translates addresses for."""
        return self._calls.operate(
            f"the size of domain {self.domid}", abi.MEMORY_OP, abi.XENMEM_MAXIMUM_GPFN,
            abi.GPFN_OF, self.domid,
        )  # fmt: skip

    def populate(self, pfns: Entries) -> Entries:
        """:param pfns: (n,) u64, n up to :data:`abi.MAX_BATCH`, without memory so far.
        :returns: (n,) u64 gfns.
        :raises XsaveError: the host has not enough memory, or the domain may not have more.
        """
        return self._reserve("memory", abi.XENMEM_POPULATE_PHYSMAP, pfns)

    def depopulate(self, gfns: Entries) -> None:
        """The opposite, for up to :data:`abi.MAX_BATCH`."""
        self._reserve("giving back memory", abi.XENMEM_DECREASE_RESERVATION, gfns)

    def _reserve(self, what: str, command: int, frames: Entries) -> Entries:
        with self._calls.buffer(8 * len(frames)) as words:
            array = np.frombuffer(words.view, np.uint64, len(frames))
            array[:] = frames
            done = self._calls.operate(
                f"{what} of domain {self.domid}", abi.MEMORY_OP, command,
                abi.RESERVATION, words.address, len(frames), 0, 0, self.domid,
            )  # fmt: skip
            if done != len(frames):
                raise XsaveError(
                    f"{what} of domain {self.domid}: Xen did {done} of {len(frames)} pages, from "
                    f"pfn {int(frames[0]):#x}: the host has not enough memory, or the domain may "
                    "not have more"
                )
            return np.array(array)

    def pin(self, levels: NDArray[np.uint64], mfns: Entries) -> None:
        """:param levels: (n,) 1 to 4; :param mfns: (n,) u64 of tables of that level."""
        operations = b"".join(
            abi.MMUEXT.pack(abi.PIN_TABLE[level], mfn, 0)
            for level, mfn in zip(levels.tolist(), mfns.tolist(), strict=True)
        )
        self._calls.mmuext(f"pinning page tables of domain {self.domid}", operations, self.domid)

    # -- the dirty log -----------------------------------------------------------------

    def start_log(self) -> None:
        try:
            self._shadow(abi.SHADOW_ENABLE_LOGDIRTY)
        except HypercallError:
            # On already: for the screen of an HVM guest, or left by somebody who died.
            self._shadow(abi.SHADOW_OFF)
            self._shadow(abi.SHADOW_ENABLE_LOGDIRTY)

    def stop_log(self) -> None:
        self._shadow(abi.SHADOW_OFF)

    def read_log(self, nr_pfns: int, *, clean: bool) -> Flags:
        """:returns: (nr_pfns,) bool."""
        with self._calls.buffer(-(-nr_pfns // 8)) as bits:
            operation = abi.SHADOW_CLEAN if clean else abi.SHADOW_PEEK
            body = abi.SHADOW.pack(operation, 0, 0, bits.address, nr_pfns, 0, 0)
            left = self._calls.domctl("the dirty log", abi.SHADOW_OP, self.domid, body)
            (_, _, _, _, done, _, _) = abi.SHADOW.unpack_from(left)
            if done != nr_pfns:
                raise XsaveError(
                    f"the dirty log of domain {self.domid} has {done} pfns, not {nr_pfns}"
                )
            words = np.frombuffer(bits.view, np.uint8, -(-nr_pfns // 8))
            return np.unpackbits(words, count=nr_pfns, bitorder="little").view(np.bool_)

    def _shadow(self, operation: int) -> None:
        body = abi.SHADOW.pack(operation, 0, 0, 0, 0, 0, 0)
        self._calls.domctl("the dirty log", abi.SHADOW_OP, self.domid, body)

    # -- vcpus of PV guests --------------------------------------------------------------

    def vcpu_is_online(self, vcpu: int) -> bool:
        body = abi.VCPU_INFO.pack(vcpu, 0, 0, 0, 0, 0)
        left = self._calls.domctl(f"vcpu {vcpu}", abi.GET_VCPU_INFO, self.domid, body)
        return bool(abi.VCPU_INFO.unpack_from(left)[1])

    def vcpu_context(self, vcpu: int, width: int) -> bytes:
        size = abi.CONTEXT_BYTES[width]
        with self._calls.buffer(abi.CONTEXT_BYTES[8]) as context:
            body = abi.VCPU_CONTEXT.pack(vcpu, context.address)
            self._calls.domctl(f"registers of vcpu {vcpu}", abi.GET_VCPU_CONTEXT, self.domid, body)
            return bytes(context.view[:size])

    def set_vcpu_context(self, vcpu: int, state: bytes) -> None:
        with self._calls.buffer(abi.CONTEXT_BYTES[8]) as context:
            context.view[: len(state)] = state
            body = abi.VCPU_CONTEXT.pack(vcpu, context.address)
            self._calls.domctl(f"registers of vcpu {vcpu}", abi.SET_VCPU_CONTEXT, self.domid, body)

    def vcpu_extended(self, vcpu: int) -> bytes:
        body = abi.EXT_CONTEXT_HEAD.pack(vcpu, 0)
        left = self._calls.domctl(
            f"extended state of vcpu {vcpu}", abi.GET_EXT_VCPU_CONTEXT, self.domid, body
        )
        _, size = abi.EXT_CONTEXT_HEAD.unpack_from(left)
        return bytes(left[: min(size, abi.EXT_CONTEXT_BYTES)])

    def set_vcpu_extended(self, vcpu: int, state: bytes) -> None:
        self._calls.domctl(
            f"extended state of vcpu {vcpu}", abi.SET_EXT_VCPU_CONTEXT, self.domid, state
        )

    def vcpu_xsave(self, vcpu: int) -> bytes:
        what = f"extended processor state of vcpu {vcpu}"
        body = abi.EXT_STATE.pack(vcpu, 0, 0, 0)
        left = self._calls.domctl(what, abi.GET_VCPU_EXT_STATE, self.domid, body)
        _, mask, size, _ = abi.EXT_STATE.unpack_from(left)
        if not mask:
            return b""
        with self._calls.buffer(size) as area:
            body = abi.EXT_STATE.pack(vcpu, mask, size, area.address)
            left = self._calls.domctl(what, abi.GET_VCPU_EXT_STATE, self.domid, body)
            filled = abi.EXT_STATE.unpack_from(left)[2]
            return bytes(area.view[:filled])

    def set_vcpu_xsave(self, vcpu: int, state: bytes) -> None:
        with self._calls.buffer(len(state)) as area:
            area.view[: len(state)] = state
            body = abi.EXT_STATE.pack(vcpu, 0, len(state), area.address)
            self._calls.domctl(
                f"extended processor state of vcpu {vcpu}", abi.SET_VCPU_EXT_STATE, self.domid, body
            )

    def vcpu_msrs(self, vcpu: int) -> bytes:
        what = f"MSRs of vcpu {vcpu}"
        left = self._calls.domctl(what, abi.GET_VCPU_MSRS, self.domid, abi.MSRS.pack(vcpu, 0, 0))
        count = abi.MSRS.unpack_from(left)[1]
        if not count:
            return b""
        with self._calls.buffer(count * abi.MSR_BYTES) as area:
            body = abi.MSRS.pack(vcpu, count, area.address)
            left = self._calls.domctl(what, abi.GET_VCPU_MSRS, self.domid, body)
            filled = abi.MSRS.unpack_from(left)[1]
            return bytes(area.view[: filled * abi.MSR_BYTES])

    def set_vcpu_msrs(self, vcpu: int, state: bytes) -> None:
        with self._calls.buffer(len(state)) as area:
            area.view[: len(state)] = state
            body = abi.MSRS.pack(vcpu, len(state) // abi.MSR_BYTES, area.address)
            self._calls.domctl(f"MSRs of vcpu {vcpu}", abi.SET_VCPU_MSRS, self.domid, body)

    def guest_width(self) -> int:
        left = self._calls.domctl("address size", abi.GET_ADDRESS_SIZE, self.domid)
        bits: int = abi.ADDRESS_SIZE.unpack_from(left)[0]
        return bits // 8

    def set_guest_width(self, width: int) -> None:
        body = abi.ADDRESS_SIZE.pack(width * 8)
        self._calls.domctl("address size", abi.SET_ADDRESS_SIZE, self.domid, body)

    # -- HVM ---------------------------------------------------------------------------

    def hvm_param(self, index: int) -> int:
        self._calls.operate(
            f"HVM parameter {index} of domain {self.domid}", abi.HVM_OP, abi.HVMOP_GET_PARAM,
            abi.HVM_PARAM, self.domid, index, 0,
        )  # fmt: skip
        value: int = self._calls.answer(abi.HVM_PARAM)[2]
        return value

    def set_hvm_param(self, index: int, value: int) -> None:
        self._calls.operate(
            f"{value:#x} as HVM parameter {index} of domain {self.domid}", abi.HVM_OP,
            abi.HVMOP_SET_PARAM, abi.HVM_PARAM, self.domid, index, value,
        )  # fmt: skip

    def hvm_context(self) -> bytes:
        body = abi.HVM_CONTEXT.pack(0, 0)
        left = self._calls.domctl("HVM context", abi.GET_HVM_CONTEXT, self.domid, body)
        room = abi.HVM_CONTEXT.unpack_from(left)[0]
        with self._calls.buffer(room) as records:
            body = abi.HVM_CONTEXT.pack(room, records.address)
            left = self._calls.domctl("HVM context", abi.GET_HVM_CONTEXT, self.domid, body)
            filled = abi.HVM_CONTEXT.unpack_from(left)[0]
            return bytes(records.view[:filled])

    def set_hvm_context(self, state: bytes) -> None:
        with self._calls.buffer(len(state)) as records:
            records.view[: len(state)] = state
            body = abi.HVM_CONTEXT.pack(len(state), records.address)
            self._calls.domctl("HVM context", abi.SET_HVM_CONTEXT, self.domid, body)

    # -- both --------------------------------------------------------------------------

    def tsc_info(self) -> tuple[int, int, int, int]:
        """Mode, khz, nanoseconds, incarnation."""
        left = self._calls.domctl("TSC", abi.GET_TSC_INFO, self.domid)
        mode, khz, incarnation, _, nsec = abi.TSC_INFO.unpack_from(left)
        return mode, khz, nsec, incarnation

    def set_tsc_info(self, mode: int, khz: int, nsec: int, incarnation: int) -> None:
        body = abi.TSC_INFO.pack(mode, khz, incarnation, 0, nsec)
        self._calls.domctl("TSC", abi.SET_TSC_INFO, self.domid, body)

    def cpu_policy(self) -> tuple[bytes, bytes]:
        """CPUID leaves and MSRs."""
        room = 8 * abi.PAGE_BYTES  # each; Xen's own limit is below 200 leaves
        with self._calls.buffer(2 * room) as area:
            body = abi.CPU_POLICY.pack(
                room // abi.LEAF_BYTES, room // abi.MSR_BYTES, area.address,
                area.address + room, 0, 0, 0,
            )  # fmt: skip
            left = self._calls.domctl("processor policy", abi.GET_CPU_POLICY, self.domid, body)
            nr_leaves, nr_msrs, *_ = abi.CPU_POLICY.unpack_from(left)
            msrs = area.view[room : room + nr_msrs * abi.MSR_BYTES]
            return bytes(area.view[: nr_leaves * abi.LEAF_BYTES]), bytes(msrs)

    def set_cpu_policy(self, leaves: bytes, msrs: bytes) -> None:
        """:raises XsaveError: this host's processors cannot do that; says which leaf or MSR."""
        with self._calls.buffer(max(1, len(leaves) + len(msrs))) as area:
            area.view[: len(leaves)] = leaves
            area.view[len(leaves) : len(leaves) + len(msrs)] = msrs
            body = abi.CPU_POLICY.pack(
                len(leaves) // abi.LEAF_BYTES, len(msrs) // abi.MSR_BYTES, area.address,
                area.address + len(leaves), 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF,
            )  # fmt: skip
            try:
                self._calls.domctl("processor policy", abi.SET_CPU_POLICY, self.domid, body)
            except HypercallError as error:
                *_, leaf, subleaf, msr = abi.CPU_POLICY.unpack_from(self._calls.control_body)
                raise XsaveError(
                    f"{error}; CPUID leaf {leaf:#x}, subleaf {subleaf:#x}, MSR {msr:#x} "
                    "(all ones: not that)"
                ) from None


class Machine:
    """What is Xen's and no domain's."""

    def __init__(self, hypercalls: Hypercalls) -> None:
        self._calls = hypercalls

    def max_mfn(self) -> int:
        what = "the size of the machine"
        return self._calls.ask_number(what, abi.MEMORY_OP, abi.XENMEM_MAXIMUM_RAM_PAGE)

    def m2p_mfns(self, max_mfn: int) -> Entries:
        """:returns: (n,) u64, mfns of all pages of Xen's m2p; 0 where there are none."""
        nr_extents = -(-(max_mfn + 1) * 8 // (abi.M2P_EXTENT_PAGES * abi.PAGE_BYTES))
        with self._calls.buffer(8 * nr_extents) as words:
            self._calls.operate(
                "its m2p", abi.MEMORY_OP, abi.XENMEM_MACHPHYS_MFN_LIST, abi.MFN_LIST,
                nr_extents, words.address, 0,
            )  # fmt: skip
            filled: int = self._calls.answer(abi.MFN_LIST)[2]
            first = np.frombuffer(words.view, np.uint64, filled).copy()
        pages = first[:, None] + np.arange(abi.M2P_EXTENT_PAGES, dtype=np.uint64)
        pages[first == 0] = 0
        return np.asarray(pages.reshape(-1))
