"""HVM_PARAMS: the numbered parameters that Xen keeps for every HVM guest.

Layout (libxc stream, HVM_PARAMS): count u32, reserved u32, then ``count`` pairs of index
u64 and value u64. Parameters that are zero are left out. Meanings are in
docs/formats/hvm.md; source: Xen's public ``hvm/params.h``, after 4.22.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from xsave import FieldError, GuestType, Phase, RecordHandler

if TYPE_CHECKING:
    from xsave import Buffer

HEADER = struct.Struct("<II")
ENTRY = struct.Struct("<QQ")

# There are 39 parameters. The bound keeps a record that counts millions from being built.
MAX_PARAMS = 4096

VIRIDIAN, VM86_TSS_SIZED, MCA_CAP = 9, 37, 38

PARAM_NAMES = {
    0: "CALLBACK_IRQ",
    1: "STORE_PFN",
    2: "STORE_EVTCHN",
    4: "PAE_ENABLED",
    5: "IOREQ_PFN",
    6: "BUFIOREQ_PFN",
    VIRIDIAN: "VIRIDIAN",
    10: "TIMER_MODE",
    11: "HPET_ENABLED",
    12: "IDENT_PT",
    13: "DM_DOMAIN",
    14: "ACPI_S_STATE",
    15: "VM86_TSS",
    16: "VPT_ALIGN",
    17: "CONSOLE_PFN",
    18: "CONSOLE_EVTCHN",
    19: "ACPI_IOPORTS_LOCATION",
    20: "MEMORY_EVENT_CR0",
    21: "MEMORY_EVENT_CR3",
    22: "MEMORY_EVENT_CR4",
    23: "MEMORY_EVENT_INT3",
    24: "NESTEDHVM",
    25: "MEMORY_EVENT_SINGLE_STEP",
    26: "BUFIOREQ_EVTCHN",
    27: "PAGING_RING_PFN",
    28: "MONITOR_RING_PFN",
    29: "SHARING_RING_PFN",
    30: "MEMORY_EVENT_MSR",
    31: "TRIPLE_FAULT_REASON",
    32: "IOREQ_SERVER_PFN",
    33: "NR_IOREQ_SERVER_PAGES",
    34: "VM_GENERATION_ID_ADDR",
    35: "ALTP2M",
    36: "X87_FIP_WIDTH",
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
    phase = Phase.END_OF_CHECKPOINT
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

    def describe(self, state: HvmParams, seen: Mapping[str, Any]) -> Any:
        return {
            "count": len(state.params),
            "reserved": state.reserved,
            "params": [_describe(param) for param in state.params],
        }


def _describe(param: HvmParam) -> dict[str, Any]:
    shown: dict[str, Any] = {"index": param.index, "name": param.name, "value": param.value}
    if (named := PARAM_BITS.get(param.index)) is not None:
        shown["bits"] = {
            name: param.value >> low & ((1 << width) - 1) for name, (low, width) in named.items()
        }
    return shown
