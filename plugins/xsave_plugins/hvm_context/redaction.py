"""Save records without the guest's data: what programs left in registers of general use and
of the FPU. Control registers, descriptors, addresses and devices stay."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from .cpu import Cpu, CpuXsave, Fxsave
from .save_record import SaveRecord

_GENERAL_REGS = ("rax", "rbx", "rcx", "rdx", "rbp", "rsi", "rdi",
                 "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")  # fmt: skip


def clean(record: SaveRecord) -> SaveRecord:
    return evolve(record, fields=_clean(record.fields))


def _clean(fields: Any) -> Any:
    no_fpu = Fxsave.decode(bytes(Fxsave.SIZE))
    match fields:
        case Cpu():
            return fields.replace(fpu_regs=no_fpu, **dict.fromkeys(_GENERAL_REGS, 0))
        case CpuXsave():
            head = fields.head.replace(fpu_regs=no_fpu)
            return CpuXsave(head, bytes(len(fields.extended)))
    return fields
