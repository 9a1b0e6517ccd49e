"""X86_MSR_POLICY: model-specific registers that describe the processor to the guest.

Layout: libxc stream revision 3, X86_MSR_POLICY: an array of 16-byte entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from xsave import (
    Buffer,
    FieldError,
    Layout,
    Phase,
    RecordHandler,
    Redaction,
    frozen,
    layout,
    u32,
    u64,
)

if TYPE_CHECKING:
    from xsave import Domain, X86Facet

# Those seen in real images; a register of another index is carried without a name.
MSR_NAMES = {0xCE: "PLATFORM_INFO", 0x10A: "ARCH_CAPABILITIES"}
# Ours, as for CPUID leaves: real images have 2.
MAX_ENTRIES = 4096


@layout
class MsrPolicyEntry(Layout):
    index: int = u32(names=MSR_NAMES)
    flags: int = u32()
    value: int = u64()


@frozen
class MsrPolicy:
    entries: tuple[MsrPolicyEntry, ...]


class MsrPolicyHandler(RecordHandler[MsrPolicy]):
    name = "xen.x86.msr_policy"
    summary = "model-specific registers the guest may see"
    redaction = Redaction.KEPT
    phase = Phase.STATIC_DATA
    facet = "x86"
    before = frozenset({"xen.libxc.static_data_end"})

    def decode(self, body: memoryview) -> MsrPolicy:
        size = MsrPolicyEntry.SIZE
        if not len(body) or len(body) % size or len(body) > MAX_ENTRIES * size:
            raise FieldError(
                field="entries",
                expected=f"1 to {MAX_ENTRIES} entries of {size} bytes",
                got=f"{len(body)} bytes",
            )
        offsets = range(0, len(body), size)
        return MsrPolicy(tuple(MsrPolicyEntry.decode_at(body, offset) for offset in offsets))

    def encode(self, state: MsrPolicy) -> Sequence[Buffer]:
        return [entry.encode() for entry in state.entries]

    def collect(self, domain: Domain) -> Iterator[MsrPolicy]:
        """None from a host that has no such policy (Xen before 4.14)."""
        x86: X86Facet | None = domain.facet("x86")
        if x86 is not None and (entries := x86.msr_policy()):
            yield self.decode(memoryview(entries))

    def apply(self, domain: Domain, state: MsrPolicy) -> None:
        x86: X86Facet = domain.need_facet("x86")
        x86.set_msr_policy(b"".join(self.encode(state)))
