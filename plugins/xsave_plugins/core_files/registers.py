"""Registers of a vcpu as debuggers want them, from the fields of the records that have them.

This plugin knows those records by the names of their fields alone, as ``xsave inspect`` shows
them: ``xen.pv.vcpu_basic`` and the CPU save records of ``xen.hvm.context``.

Sources: NT_PRSTATUS of Linux on x86-64 (``elf_prstatus``); QEMUCPUState of QEMU's
``dump-guest-memory`` (version 1).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field

from xsave import frozen

PV_VCPU, HVM_CONTEXT = "xen.pv.vcpu_basic", "xen.hvm.context"
NOTES, XEN_VCPUS = "core.notes", "core.xen_vcpus"

PRSTATUS_BYTES = 336
_PID_AT, _REGS_AT = 32, 112
_PRSTATUS_REGS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
    "rsi", "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds",
    "es", "fs", "gs",
)  # fmt: skip
_QEMU_REGS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12",
    "r13", "r14", "r15", "rip", "rflags",
)  # fmt: skip
_QEMU_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
_QEMU_VERSION, _QEMU_BYTES = 1, 440
_WORD = (1 << 64) - 1


@frozen
class Segment:
    """:ivar flags: the second word of a descriptor without its base and limit."""

    selector: int = 0
    limit: int = 0
    flags: int = 0
    base: int = 0


@frozen
class Vcpu:
    """:ivar regs: by name; ``ctrl`` likewise, ``cr0`` to ``cr4``; what is not there is 0."""

    number: int
    regs: Mapping[str, int]
    ctrl: Mapping[str, int] = field(factory=dict)
    segments: Mapping[str, Segment] = field(factory=dict)

    def prstatus(self) -> bytes:
        """336 bytes; threads are numbered from 1."""
        body = bytearray(PRSTATUS_BYTES)
        struct.pack_into("<I", body, _PID_AT, self.number + 1)
        values = (self.regs.get(name, 0) & _WORD for name in _PRSTATUS_REGS)
        struct.pack_into("<27Q", body, _REGS_AT, *values)
        return bytes(body)

    def qemu_state(self) -> bytes:
        """440 bytes."""
        parts = [struct.pack("<II", _QEMU_VERSION, _QEMU_BYTES)]
        parts.append(struct.pack("<18Q", *(self.regs.get(name, 0) & _WORD for name in _QEMU_REGS)))
        for name in _QEMU_SEGMENTS:
            one = self.segments.get(name, Segment())
            parts.append(struct.pack("<IIIIQ", one.selector, one.limit, one.flags, 0, one.base))
        parts.append(struct.pack("<5Q", *(self.ctrl.get(f"cr{n}", 0) for n in range(5))))
        parts.append(struct.pack("<Q", self.regs.get("gs_base_kernel", 0) & _WORD))
        return b"".join(parts)


def read_prstatus(body: bytes) -> tuple[int, dict[str, int]]:
    """The thread's number, and its registers by name."""
    (thread,) = struct.unpack_from("<I", body, _PID_AT)
    values = struct.unpack_from("<27Q", body, _REGS_AT)
    return thread, dict(zip(_PRSTATUS_REGS, values, strict=True))


def vcpus_of(name: str, fields: Any) -> Iterator[Vcpu]:
    """Those of a record, if it is one that has any.

    :param fields: as its handler describes them.
    """
    if name == PV_VCPU:
        yield _pv_vcpu(fields)
    elif name == NOTES:  # of a core file: its threads
        for one in fields["notes"]:
            if "registers" in one:
                yield Vcpu(one["thread"] - 1, one["registers"])
    elif name == XEN_VCPUS:
        yield from map(_xen_core_vcpu, fields["vcpus"])
    elif name == HVM_CONTEXT:
        for one in fields["save_records"]:
            if one["type"] == "CPU":
                yield _hvm_vcpu(one["instance"], one["fields"])


def _number(value: Any) -> int:
    """Also of one with bits beside it."""
    return int(value["value"]) if isinstance(value, dict) else int(value)


def _pv_vcpu(fields: Mapping[str, Any]) -> Vcpu:
    context = fields["context"]
    user = context["user_regs"]
    regs = {name: value for name, value in user.items() if isinstance(value, int)}
    for narrow, wide in (("eip", "rip"), ("esp", "rsp"), ("eflags", "rflags")):
        if narrow in user:  # a guest of 32 bits
            regs[wide] = user[narrow]
    for name in ("ax", "bx", "cx", "dx", "si", "di", "bp"):
        if f"e{name}" in user:
            regs[f"r{name}"] = user[f"e{name}"]
    in_kernel = _number(context["flags"]) >> 2 & 1
    regs["fs_base"] = context.get("fs_base", 0)
    bases = (context.get("gs_base_user", 0), context.get("gs_base_kernel", 0))
    regs["gs_base"] = bases[in_kernel]
    regs["gs_base_kernel"] = bases[1 - in_kernel]
    ctrl = {f"cr{number}": context["ctrlreg"][number] for number in (0, 2, 3, 4)}
    return Vcpu(fields["vcpu_id"], regs, ctrl)


def _xen_core_vcpu(fields: Mapping[str, Any]) -> Vcpu:
    found = dict(fields["registers"])
    bases = found.pop("gs_base_user", 0), found.get("gs_base_kernel", 0)
    in_kernel = fields["flags"] >> 2 & 1 or not found["cs"] & 3  # a PV kernel is in ring 3
    found["gs_base"], found["gs_base_kernel"] = bases[in_kernel], bases[1 - in_kernel]
    return Vcpu(fields["vcpu"], found, fields["control_registers"])


def _hvm_vcpu(number: int, fields: Mapping[str, Any]) -> Vcpu:
    regs = {name: _number(fields[name]) for name in _QEMU_REGS}
    selectors, bases = fields["selectors"], fields["bases"]
    regs.update({name: selectors[name] for name in ("cs", "ss", "ds", "es", "fs", "gs")})
    regs["fs_base"], regs["gs_base"] = bases["fs"], bases["gs"]
    regs["gs_base_kernel"] = fields["shadow_gs"]
    ctrl = {name: _number(fields[name]) for name in ("cr0", "cr2", "cr3", "cr4")}
    segments = {
        {"ldtr": "ldt"}.get(name, name): Segment(
            selectors[name], fields["limits"][name],
            _descriptor_flags(_number(fields["access_rights"][name])), bases[name],
        )
        for name in selectors
    }  # fmt: skip
    segments["gdt"] = Segment(0, fields["gdtr_limit"], 0, fields["gdtr_base"])
    segments["idt"] = Segment(0, fields["idtr_limit"], 0, fields["idtr_base"])
    return Vcpu(number, regs, ctrl, segments)


def _descriptor_flags(rights: int) -> int:
    """Xen keeps the access byte, and above it AVL, L, D/B and G."""
    return (rights & 0xFF) << 8 | (rights >> 8 & 0xF) << 20
