"""X86_CPUID_POLICY: every CPUID leaf the guest may see.

Layout: libxc stream revision 3, X86_CPUID_POLICY: an array of 24-byte leaves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xsave import (
    Buffer,
    FieldError,
    Highlight,
    Layout,
    Phase,
    RecordHandler,
    Redaction,
    frozen,
    layout,
    to_json,
    u32,
)

if TYPE_CHECKING:
    from xsave import Domain, X86Facet

NO_SUBLEAF = 0xFFFFFFFF
# Ours, so that a hostile body cannot become millions of objects. Xen's own limit is the
# number of leaves it can serialise, a few dozen more than the 52 of a real image.
MAX_LEAVES = 4096


@layout
class CpuidLeaf(Layout):
    """:ivar subleaf: ``NO_SUBLEAF`` for a leaf that ignores it."""

    leaf: int = u32()
    subleaf: int = u32()
    eax: int = u32()
    ebx: int = u32()
    ecx: int = u32()
    edx: int = u32()


@frozen
class CpuidPolicy:
    leaves: tuple[CpuidLeaf, ...]


class CpuidPolicyHandler(RecordHandler[CpuidPolicy]):
    name = "xen.x86.cpuid_policy"
    summary = "CPUID leaves the guest may see"
    redaction = Redaction.KEPT
    phase = Phase.STATIC_DATA
    facet = "x86"
    before = frozenset({"xen.x86.msr_policy", "xen.libxc.static_data_end"})

    def decode(self, body: memoryview) -> CpuidPolicy:
        if not len(body) or len(body) % CpuidLeaf.SIZE or len(body) > MAX_LEAVES * CpuidLeaf.SIZE:
            raise FieldError(
                field="leaves",
                expected=f"1 to {MAX_LEAVES} leaves of {CpuidLeaf.SIZE} bytes",
                got=f"{len(body)} bytes",
            )
        offsets = range(0, len(body), CpuidLeaf.SIZE)
        return CpuidPolicy(tuple(CpuidLeaf.decode_at(body, offset) for offset in offsets))

    def encode(self, state: CpuidPolicy) -> Sequence[Buffer]:
        return [leaf.encode() for leaf in state.leaves]

    def collect(self, domain: Domain) -> Iterator[CpuidPolicy]:
        """None from a host that has no such policy (Xen before 4.14)."""
        x86: X86Facet | None = domain.facet("x86")
        if x86 is not None and (leaves := x86.cpuid_policy()):
            yield self.decode(memoryview(leaves))

    def highlights(self, state: CpuidPolicy, seen: Mapping[str, Any]) -> Iterator[Highlight]:
        text = f"{len(state.leaves)} CPUID leaves"
        for leaf in state.leaves:
            if leaf.leaf == 0:
                vendor = struct.pack("<III", leaf.ebx, leaf.edx, leaf.ecx)
                text += f", as of {vendor.decode('ascii', 'replace').strip() or 'no vendor'}"
        yield Highlight("needs", "processor", f"what the guest was promised: {text}")

    def apply(self, domain: Domain, state: CpuidPolicy) -> None:
        x86: X86Facet = domain.need_facet("x86")
        x86.set_cpuid_policy(b"".join(self.encode(state)))

    def describe(self, state: CpuidPolicy, seen: Mapping[str, Any]) -> Any:
        """As the state, with ``null`` as the subleaf of a leaf that has none."""
        shown = to_json(state)
        for leaf in shown["leaves"]:
            if leaf["subleaf"] == NO_SUBLEAF:
                leaf["subleaf"] = None
        return shown
