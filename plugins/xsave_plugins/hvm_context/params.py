"""HVM_PARAMS: the numbered parameters that Xen keeps for every HVM guest.

Layout (libxc stream, HVM_PARAMS): count u32, reserved u32, then ``count`` pairs of index
u64 and value u64. Parameters that are zero are left out. Meanings are in
docs/formats/hvm.md; source: Xen's public ``hvm/params.h``, after 4.22.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xsave import FieldError, GuestType, Phase, RecordHandler, Redaction, frozen

if TYPE_CHECKING:
    from xsave import Buffer, Domain, HvmFacet

HEADER = struct.Struct("<II")
ENTRY = struct.Struct("<QQ")

# There are 39 parameters. The bound keeps a record that counts millions from being built.
MAX_PARAMS = 4096

STORE_PFN, STORE_EVTCHN, PAE_ENABLED, IOREQ_PFN, BUFIOREQ_PFN = 1, 2, 4, 5, 6
VIRIDIAN, IDENT_PT, CONSOLE_PFN, CONSOLE_EVTCHN = 9, 12, 17, 18
ACPI_IOPORTS_LOCATION, PAGING_RING_PFN, MONITOR_RING_PFN, SHARING_RING_PFN = 19, 27, 28, 29
IOREQ_SERVER_PFN, NR_IOREQ_SERVER_PAGES, VM_GENERATION_ID_ADDR = 32, 33, 34
X87_FIP_WIDTH, VM86_TSS_SIZED, MCA_CAP = 36, 37, 38

# Those that go into a stream, in Xen's order. The others belong to the host, or are set by
# whoever builds the guest from its configuration.
SAVED = (
    STORE_PFN, IOREQ_PFN, BUFIOREQ_PFN, PAGING_RING_PFN, MONITOR_RING_PFN, SHARING_RING_PFN,
    VM86_TSS_SIZED, CONSOLE_PFN, ACPI_IOPORTS_LOCATION, VIRIDIAN, IDENT_PT,
    VM_GENERATION_ID_ADDR, IOREQ_SERVER_PFN, NR_IOREQ_SERVER_PAGES, X87_FIP_WIDTH, MCA_CAP,
)  # fmt: skip
# The new host has event channels of its own, and PAE is never off since Xen 4.14.
NOT_APPLIED = frozenset({STORE_EVTCHN, CONSOLE_EVTCHN, PAE_ENABLED})
# Pages shared with the host's programs: what stood in them was said to the old ones.
SHARED_PAGES = frozenset({STORE_PFN, IOREQ_PFN, BUFIOREQ_PFN, CONSOLE_PFN})

PARAM_NAMES = {
    0: "CALLBACK_IRQ",
    STORE_PFN: "STORE_PFN",
    STORE_EVTCHN: "STORE_EVTCHN",
    PAE_ENABLED: "PAE_ENABLED",
    IOREQ_PFN: "IOREQ_PFN",
    BUFIOREQ_PFN: "BUFIOREQ_PFN",
    VIRIDIAN: "VIRIDIAN",
    10: "TIMER_MODE",
    11: "HPET_ENABLED",
    IDENT_PT: "IDENT_PT",
    13: "DM_DOMAIN",
    14: "ACPI_S_STATE",
    15: "VM86_TSS",
    16: "VPT_ALIGN",
    CONSOLE_PFN: "CONSOLE_PFN",
    CONSOLE_EVTCHN: "CONSOLE_EVTCHN",
    ACPI_IOPORTS_LOCATION: "ACPI_IOPORTS_LOCATION",
    20: "MEMORY_EVENT_CR0",
    21: "MEMORY_EVENT_CR3",
    22: "MEMORY_EVENT_CR4",
    23: "MEMORY_EVENT_INT3",
    24: "NESTEDHVM",
    25: "MEMORY_EVENT_SINGLE_STEP",
    26: "BUFIOREQ_EVTCHN",
    PAGING_RING_PFN: "PAGING_RING_PFN",
    MONITOR_RING_PFN: "MONITOR_RING_PFN",
    SHARING_RING_PFN: "SHARING_RING_PFN",
    30: "MEMORY_EVENT_MSR",
    31: "TRIPLE_FAULT_REASON",
    IOREQ_SERVER_PFN: "IOREQ_SERVER_PFN",
    NR_IOREQ_SERVER_PAGES: "NR_IOREQ_SERVER_PAGES",
    VM_GENERATION_ID_ADDR: "VM_GENERATION_ID_ADDR",
    35: "ALTP2M",
    X87_FIP_WIDTH: "X87_FIP_WIDTH",
    VM86_TSS_SIZED: "VM86_TSS_SIZED",
    MCA_CAP: "MCA_CAP",
}

# Parts of values: lowest bit and width.
PARAM_BITS: Mapping[int, Mapping[str, tuple[int, int]]] = {
    0: {"value": (0, 56), "type": (56, 8)},  # type 0 GSI, 1 PCI INTx, 2 vector
    VIRIDIAN: {
        name: (bit, 1)
        for bit, name in enumerate(
            (
                "base_freq", "no_freq", "time_ref_count", "reference_tsc",
                "hcall_remote_tlb_flush", "apic_assist", "crash_ctl", "synic", "stimer",
                "hcall_ipi", "ex_processor_masks", "no_vp_limit", "cpu_hotplug",
            )
        )
    },
    VM86_TSS_SIZED: {"address": (0, 32), "size": (32, 32)},
    MCA_CAP: {"lmce": (0, 1)},
}  # fmt: skip


@frozen
class HvmParam:
    index: int
    value: int

    @property
    def name(self) -> str:
        return PARAM_NAMES.get(self.index, f"unknown_{self.index:02}")


@frozen
class HvmParams:
    """:ivar params: in the order of the body, in which they are applied.
    :ivar reserved: the header's second word.
    """

    params: tuple[HvmParam, ...]
    reserved: int = 0

    def by_name(self) -> dict[str, int]:
        """Values by name; where a parameter stands twice, the later one, which is the one
        that has effect."""
        return {param.name: param.value for param in self.params}


class HvmParamsHandler(RecordHandler[HvmParams]):
    """``xen.hvm.params``.

    They belong before the context, since some decide what a valid one is. Xen itself
    writes them after it, and applies them when they come; readers take both orders.
    """

    name = "xen.hvm.params"
    summary = "numbered parameters of HVM and PVH guests"
    redaction = Redaction.KEPT
    phase = Phase.END_OF_CHECKPOINT
    facet = "hvm"
    before = frozenset({"xen.hvm.context"})
    guest_types = frozenset({GuestType.X86_HVM})

    def decode(self, body: memoryview) -> HvmParams:
        """A count of 0 is fine: Xen 4.6 to 4.8 wrote such records."""
        if len(body) < HEADER.size:
            raise FieldError(
                field="header", expected=f"{HEADER.size} bytes", got=f"{len(body)} bytes"
            )
        count, reserved = HEADER.unpack_from(body)
        if len(body) - HEADER.size != count * ENTRY.size:
            raise FieldError(
                field="params",
                expected=f"{count} of {ENTRY.size} bytes",
                got=f"{len(body) - HEADER.size} bytes",
            )
        if count > MAX_PARAMS:
            raise FieldError(field="count", expected=f"at most {MAX_PARAMS}", got=str(count))
        pairs = ENTRY.iter_unpack(body[HEADER.size :])
        return HvmParams(tuple(HvmParam(index, value) for index, value in pairs), reserved)

    def encode(self, state: HvmParams) -> Sequence[Buffer]:
        pairs = (ENTRY.pack(param.index, param.value) for param in state.params)
        return (HEADER.pack(len(state.params), state.reserved), b"".join(pairs))

    def collect(self, domain: Domain) -> Iterator[HvmParams]:
        hvm: HvmFacet | None = domain.facet("hvm")
        if hvm is not None:
            values = hvm.params()
            found = (HvmParam(index, values.get(index, 0)) for index in SAVED)
            yield HvmParams(tuple(param for param in found if param.value))

    def apply(self, domain: Domain, state: HvmParams) -> None:
        """Sets them in their order; pages shared with the host's programs begin empty."""
        hvm: HvmFacet = domain.need_facet("hvm")
        for param in state.params:
            if param.index in NOT_APPLIED:
                continue
            if param.index in SHARED_PAGES and param.value:
                _clear_page(domain, param)
            hvm.set_param(param.index, param.value)

    def key(self, state: HvmParams) -> Hashable:
        """Images converted from the old format have two records, of different parameters:
        both count. A later checkpoint's record has those of the one before."""
        return frozenset(param.index for param in state.params)

    def describe(self, state: HvmParams, seen: Mapping[str, Any]) -> Any:
        return {
            "count": len(state.params),
            "reserved": state.reserved,
            "params": [_describe(param) for param in state.params],
        }


def _clear_page(domain: Domain, param: HvmParam) -> None:
    import numpy as np

    from xsave import PFN_MASK

    if param.value > int(PFN_MASK):
        raise FieldError(field=param.name, expected="a pfn", got=hex(param.value))
    pfns = np.array([param.value], np.uint64)
    domain.populate(pfns)
    domain.write_pages(pfns, np.zeros((1, domain.info.page_size), np.uint8))


def _describe(param: HvmParam) -> dict[str, Any]:
    shown: dict[str, Any] = {"index": param.index, "name": param.name, "value": param.value}
    if (named := PARAM_BITS.get(param.index)) is not None:
        shown["bits"] = {
            name: param.value >> low & ((1 << width) - 1) for name, (low, width) in named.items()
        }
    return shown
