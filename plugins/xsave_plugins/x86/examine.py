"""Whether a guest's processor is one that a host can give it: CPUID and MSR policies.

A bit that the guest knows and the host has not is refused: the guest would find out the hard
way. So are another vendor, more leaves, and state that is larger. What is merely more there is
hidden from it by its own policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from xsave import FieldError, GuestType

from .cpuid_policy import NO_SUBLEAF, CpuidPolicy, CpuidPolicyHandler
from .msr_policy import MSR_NAMES, MsrPolicy, MsrPolicyHandler

if TYPE_CHECKING:
    from xsave import GuestOffer, Host, HostDescription, Refuse, X86Host

REGISTERS = ("eax", "ebx", "ecx", "edx")
# Words of feature bits, by leaf and subleaf (Intel SDM volume 2A, CPUID; AMD APM volume 3,
# appendix E).
FEATURES: Mapping[tuple[int, int], tuple[str, ...]] = {
    (0x1, 0): ("ecx", "edx"),
    (0x7, 0): ("ebx", "ecx", "edx"),
    (0x7, 1): ("eax", "ebx", "ecx", "edx"),
    (0xD, 1): ("eax",),
    (0x80000001, 0): ("ecx", "edx"),
    (0x80000007, 0): ("edx",),
    (0x80000008, 0): ("ebx",),
    (0x80000021, 0): ("eax",),
}
# Bits in them that say what is switched on at the moment, not what there is.
DYNAMIC: Mapping[tuple[int, int, str], int] = {
    (0x1, 0, "ecx"): 1 << 27,  # OSXSAVE
    (0x1, 0, "edx"): 1 << 9,  # APIC
    (0x7, 0, "ecx"): 1 << 4,  # OSPKE
    (0x80000001, 0, "edx"): 1 << 9,
}
NAMES: Mapping[tuple[int, int, str], Mapping[int, str]] = {
    (0x1, 0, "ecx"): {
        0: "sse3", 1: "pclmulqdq", 9: "ssse3", 12: "fma", 13: "cx16", 19: "sse4.1",
        20: "sse4.2", 21: "x2apic", 22: "movbe", 23: "popcnt", 24: "tsc-deadline", 25: "aesni",
        26: "xsave", 28: "avx", 29: "f16c", 30: "rdrand",
    },
    (0x7, 0, "ebx"): {
        0: "fsgsbase", 3: "bmi1", 4: "hle", 5: "avx2", 7: "smep", 8: "bmi2", 9: "erms",
        10: "invpcid", 11: "rtm", 16: "avx512f", 18: "rdseed", 19: "adx", 20: "smap",
        23: "clflushopt", 24: "clwb", 29: "sha",
    },
    (0x7, 0, "ecx"): {2: "umip", 3: "pku", 9: "vaes", 10: "vpclmulqdq", 22: "rdpid"},
    (0x7, 0, "edx"): {26: "ibrsb", 27: "stibp", 28: "l1d-flush", 29: "arch-caps", 31: "ssbd"},
    (0x80000001, 0, "ecx"): {0: "lahf", 5: "abm", 6: "sse4a", 8: "3dnow-prefetch", 16: "fma4"},
    (0x80000001, 0, "edx"): {11: "syscall", 20: "nx", 26: "page1gb", 27: "rdtscp", 29: "lm"},
}  # fmt: skip
PLATFORM_INFO, ARCH_CAPABILITIES = 0xCE, 0x10A
CPUID_FAULTING = 1 << 31  # of PLATFORM_INFO
ANOTHER_HOST = "choose a host with such a processor, or start the guest with a smaller CPU policy"


def describe(x86: X86Host, guest_types: frozenset[GuestType]) -> dict[str, Any]:
    """Policies by type of guest, in hexadecimal as they stand in a stream."""
    return {
        kind.value: {
            "cpuid": bytes(x86.cpuid_policy(kind)).hex(), "msrs": bytes(x86.msr_policy(kind)).hex()
        }
        for kind in sorted(guest_types, key=lambda kind: kind.value)
    }  # fmt: skip


def describe_host(host: Host) -> dict[str, Any]:
    x86: X86Host | None = host.facet("x86")
    return {} if x86 is None else describe(x86, host.guest_types)


def examine(guest: GuestOffer, host: HostDescription, refuse: Refuse) -> None:
    """:raises FieldError: what the host's x86 plugin said makes no sense."""
    facts = host.facts_of("x86").get(guest.guest_type)
    if not isinstance(facts, dict):
        return  # nobody can say: the hypervisor there will
    where = host.host or "the destination"
    cpuid, msrs = _octets(facts, "cpuid"), _octets(facts, "msrs")
    if cpuid:
        has = CpuidPolicyHandler().decode(memoryview(cpuid))
        for policy in guest.states_of("xen.x86.cpuid_policy"):
            for name, reason in _lacking_leaves(policy, has):
                refuse(name, f"{where}: {reason}", ANOTHER_HOST)
    if msrs:
        may = MsrPolicyHandler().decode(memoryview(msrs))
        for policy in guest.states_of("xen.x86.msr_policy"):
            for reason in _lacking_msrs(policy, may):
                refuse("msr-policy", f"{where}: {reason}", ANOTHER_HOST)


def _octets(facts: Mapping[str, Any], name: str) -> bytes:
    text = facts.get(name, "")
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise FieldError(field=f"x86.{name}", expected="hexadecimal", got=repr(text)[:40]) from None


def _by_place(policy: CpuidPolicy) -> dict[tuple[int, int], dict[str, int]]:
    return {
        (leaf.leaf, 0 if leaf.subleaf == NO_SUBLEAF else leaf.subleaf): {
            register: getattr(leaf, register) for register in REGISTERS
        }
        for leaf in policy.leaves
    }


def _lacking_leaves(wants: CpuidPolicy, has: CpuidPolicy) -> Iterator[tuple[str, str]]:
    """Names and reasons."""
    want, have = _by_place(wants), _by_place(has)
    nothing = dict.fromkeys(REGISTERS, 0)
    vendor = [_vendor(leaves.get((0, 0), nothing)) for leaves in (want, have)]
    if vendor[0] != vendor[1]:
        yield "cpu-vendor", f"its processor is a {vendor[1]}, the guest knows a {vendor[0]}"
    lacking = [
        _name(place, register, bit)
        for place, registers in FEATURES.items()
        for register in registers
        for bit in _bits(
            want.get(place, nothing)[register] & ~have.get(place, nothing)[register]
            & ~DYNAMIC.get((*place, register), 0)
        )
    ]  # fmt: skip
    if lacking:
        yield "cpu-features", f"its processor lacks what the guest knows: {', '.join(lacking)}"
    for place, what in (((0, 0), "basic"), ((0x80000000, 0), "extended")):
        asked, given = (leaves.get(place, nothing)["eax"] for leaves in (want, have))
        if asked > given:
            yield (
                "cpu-leaves",
                f"the guest knows {what} CPUID leaves to {asked:#x}, the host to {given:#x}",
            )
    yield from _larger_state(want, have, nothing)


def _larger_state(
    want: Mapping[tuple[int, int], Mapping[str, int]],
    have: Mapping[tuple[int, int], Mapping[str, int]], nothing: Mapping[str, int],
) -> Iterator[tuple[str, str]]:  # fmt: skip
    xstate = [leaves.get((0xD, 0), nothing) for leaves in (want, have)]
    wanted, given = (leaf["eax"] | leaf["edx"] << 32 for leaf in xstate)
    if wanted & ~given:
        yield (
            "cpu-state", f"the guest may use processor state {wanted:#x} (XCR0), the host has "
            f"{given:#x}",
        )  # fmt: skip
    bits = [leaves.get((0x80000008, 0), nothing)["eax"] & 0xFF for leaves in (want, have)]
    if bits[1] and bits[0] > bits[1]:
        yield "cpu-state", f"the guest has {bits[0]} bits of physical address, the host {bits[1]}"


def _lacking_msrs(wants: MsrPolicy, has: MsrPolicy) -> Iterator[str]:
    have = {entry.index: entry.value for entry in has.entries}
    for entry in wants.entries:
        name = MSR_NAMES.get(entry.index, f"{entry.index:#x}")
        value = entry.value & CPUID_FAULTING if entry.index == PLATFORM_INFO else entry.value
        if entry.index not in have and value:
            yield f"it has no register {name}, which the guest knows"
        elif missing := value & ~have.get(entry.index, 0):
            yield f"it lacks bits {missing:#x} of register {name}, which the guest knows"


def _vendor(leaf: Mapping[str, int]) -> str:
    text = b"".join(leaf[register].to_bytes(4, "little") for register in ("ebx", "edx", "ecx"))
    return text.decode("ascii", "replace").strip("\0") or "processor without a name"


def _name(place: tuple[int, int], register: str, bit: int) -> str:
    known = NAMES.get((*place, register), {}).get(bit)
    subleaf = f".{place[1]}" if place[1] else ""
    return known or f"{place[0]:#x}{subleaf} {register} bit {bit}"


def _bits(word: int) -> Iterator[int]:
    return (bit for bit in range(32) if word >> bit & 1)
