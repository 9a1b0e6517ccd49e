"""SHARED_INFO: the page that Xen and a PV guest share, as it was at the save.

Layout: xen/include/public/xen.h and arch-x86/xen.h, in the guest's width. It is a raw
copy: machine addresses and event bits in it are those of the source host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xsave import (
    Buffer,
    FieldError,
    GuestType,
    Layout,
    Phase,
    RecordHandler,
    Redaction,
    frozen,
    i8,
    layout,
    nested,
    raw,
    to_json,
    u8,
    u32,
    u64,
)

if TYPE_CHECKING:
    from xsave import Domain, PvFacet


@layout
class VcpuTimeInfo(Layout):
    version: int = u32()
    pad0: int = u32()
    tsc_timestamp: int = u64()
    system_time: int = u64()
    tsc_to_system_mul: int = u32()
    tsc_shift: int = i8()
    flags: int = u8()
    pad1: bytes = raw(2)


@layout
class VcpuInfo64(Layout):
    evtchn_upcall_pending: int = u8()
    evtchn_upcall_mask: int = u8()
    pad0: bytes = raw(6)
    evtchn_pending_sel: int = u64()
    cr2: int = u64()
    pad1: bytes = raw(8)
    time: VcpuTimeInfo = nested(VcpuTimeInfo)


@layout
class VcpuInfo32(Layout):
    evtchn_upcall_pending: int = u8()
    evtchn_upcall_mask: int = u8()
    pad0: bytes = raw(2)
    evtchn_pending_sel: int = u32()
    cr2: int = u32()
    pad1: bytes = raw(20)
    time: VcpuTimeInfo = nested(VcpuTimeInfo)


@layout
class ArchSharedInfo64(Layout):
    """:ivar max_pfn: number of valid entries in the p2m.
    :ivar pfn_to_mfn_frame_list_list: mfn; 0: not set; all ones: only the linear p2m.
    :ivar p2m_cr3: machine address of the linear p2m's page table; 0: there is none.
    :ivar p2m_generation: odd while the guest changes the mapping.
    """

    max_pfn: int = u64()
    pfn_to_mfn_frame_list_list: int = u64()
    nmi_reason: int = u64()
    p2m_cr3: int = u64()
    p2m_vaddr: int = u64()
    p2m_generation: int = u64()


@layout
class ArchSharedInfo32(Layout):
    """As :class:`ArchSharedInfo64`; in this width the high word of the wall clock's
    seconds stands here."""

    max_pfn: int = u32()
    pfn_to_mfn_frame_list_list: int = u32()
    nmi_reason: int = u32()
    p2m_cr3: int = u32()
    p2m_vaddr: int = u32()
    p2m_generation: int = u32()
    wc_sec_hi: int = u32()


@layout
class SharedInfo64(Layout):
    vcpu_info: tuple[VcpuInfo64, ...] = nested(VcpuInfo64, 32)
    evtchn_pending: tuple[int, ...] = u64(64)
    evtchn_mask: tuple[int, ...] = u64(64)
    wc_version: int = u32()
    wc_sec: int = u32()
    wc_nsec: int = u32()
    wc_sec_hi: int = u32()
    arch: ArchSharedInfo64 = nested(ArchSharedInfo64)
    unused: bytes = raw(960)


@layout
class SharedInfo32(Layout):
    vcpu_info: tuple[VcpuInfo32, ...] = nested(VcpuInfo32, 32)
    evtchn_pending: tuple[int, ...] = u32(32)
    evtchn_mask: tuple[int, ...] = u32(32)
    wc_version: int = u32()
    wc_sec: int = u32()
    wc_nsec: int = u32()
    arch: ArchSharedInfo32 = nested(ArchSharedInfo32)
    unused: bytes = raw(1752)


@frozen
class SharedInfo:
    """:ivar page: all 4096 bytes. What they mean depends on the guest's width, which
    another record tells; see :meth:`fields`."""

    page: bytes

    def fields(self, guest_width: int) -> SharedInfo64 | SharedInfo32:
        return (SharedInfo32 if guest_width == 4 else SharedInfo64).decode(self.page)


class SharedInfoHandler(RecordHandler[SharedInfo]):
    name = "xen.pv.shared_info"
    summary = "page that Xen and the guest share: events, time, p2m"
    redaction = Redaction.CLEANED
    phase = Phase.END_OF_CHECKPOINT
    facet = "pv"
    after = frozenset({"xen.x86.tsc_info"})
    guest_types = frozenset({GuestType.X86_PV})

    def decode(self, body: memoryview) -> SharedInfo:
        if len(body) != SharedInfo64.SIZE:
            raise FieldError(
                field="page", expected=f"{SharedInfo64.SIZE} bytes", got=f"{len(body)} bytes"
            )
        return SharedInfo(bytes(body))

    def encode(self, state: SharedInfo) -> Sequence[Buffer]:
        return (state.page,)

    def collect(self, domain: Domain) -> Iterator[SharedInfo]:
        """As it is: machine addresses in it mean something to the saving host only, and a
        restorer knows which."""
        pv: PvFacet | None = domain.facet("pv")
        if pv is not None:
            yield self.decode(memoryview(pv.shared_info()))

    def apply(self, domain: Domain, state: SharedInfo) -> None:
        pv: PvFacet = domain.need_facet("pv")
        own = SharedInfo(pv.shared_info()).fields(pv.guest_width)
        saved = state.fields(pv.guest_width)
        pv.set_shared_info(merge(own, saved).encode())

    def redact(self, state: SharedInfo, seen: Mapping[str, Any]) -> SharedInfo:
        """Without what a guest may have put where nothing belongs."""
        info = seen.get("xen.pv.info")
        fields = state.fields(8 if info is None else info.guest_width)
        return SharedInfo(fields.replace(unused=bytes(len(fields.unused))).encode())

    def describe(self, state: SharedInfo, seen: Mapping[str, Any]) -> Any:
        """In the width that ``xen.pv.info`` told, 8 if it was not seen."""
        info = seen.get("xen.pv.info")
        return to_json(state.fields(8 if info is None else info.guest_width))


def merge(
    own: SharedInfo64 | SharedInfo32, saved: SharedInfo64 | SharedInfo32
) -> SharedInfo64 | SharedInfo32:
    """The page of a domain being restored.

    From the image come the vcpus' part and the architecture's, without the old p2m's mfn;
    no event is pending, all are masked, and the wall clock is the new host's.

    :param own: as the new host has made it.
    """
    nr_words = len(own.evtchn_mask)
    arch = saved.arch.replace(pfn_to_mfn_frame_list_list=0)
    if isinstance(arch, ArchSharedInfo32) and isinstance(own, SharedInfo32):
        arch = arch.replace(wc_sec_hi=own.arch.wc_sec_hi)
    return own.replace(
        vcpu_info=tuple(one.replace(evtchn_pending_sel=0) for one in saved.vcpu_info),
        evtchn_pending=(0,) * nr_words,
        evtchn_mask=((1 << nr_words) - 1,) * nr_words,  # as many words as a word has bits
        arch=arch,
    )
