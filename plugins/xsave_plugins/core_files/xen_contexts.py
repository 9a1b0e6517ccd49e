"""Contexts of vcpus as Xen's core files have them: ``vcpu_guest_context``, 5168 bytes each.

A guest of 64 bits uses all of it, one of 32 bits the first 2800 bytes, laid out otherwise. What
holds frame numbers is known here, for a PV guest's context has those of its pfns in an image,
and machine frames in a core file. Source: Xen's ``public/arch-x86/xen.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from xsave import FieldError, frozen

from . import elf
from .registers import Vcpu
from .xen_core import CONTEXT_BYTES, VCPUS_MAX

ONLINE = 1 << 5  # of flags
_GDT_ENTS_PER_FRAME = 512
_GDT_FRAMES = 16


@frozen
class _Width:
    """Where what is, in the context of a guest of a width.

    :ivar word: struct code of an ``unsigned long``.
    :ivar regs: by offset: struct code and name.
    :ivar start_info: of vcpu 0: the register that holds the frame of start_info.
    """

    size_bytes: int
    word: str
    flags: int
    regs: tuple[tuple[int, str, str], ...]
    start_info: int
    gdt_frames: int
    gdt_ents: int
    ctrlreg: int
    bases: tuple[tuple[int, str], ...] = ()

    @property
    def word_bytes(self) -> int:
        return struct.calcsize(self.word)


def _in_a_row(start: int, code: str, step: int, names: str) -> list[tuple[int, str, str]]:
    return [(start + step * at, code, name) for at, name in enumerate(names.split())]


_WIDE = _Width(
    size_bytes=CONTEXT_BYTES, word="<Q", flags=512,
    regs=(
        *_in_a_row(520, "<Q", 8, "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi"),
        (648, "<Q", "rip"), (656, "<H", "cs"), (664, "<Q", "rflags"), (672, "<Q", "rsp"),
        *_in_a_row(680, "<H", 8, "ss es ds fs gs"),
    ),
    start_info=616, gdt_frames=4832, gdt_ents=4960, ctrlreg=4984,
    bases=((5144, "fs_base"), (5152, "gs_base_kernel"), (5160, "gs_base_user")),
)  # fmt: skip
_NARROW = _Width(
    size_bytes=2800, word="<I", flags=512,
    regs=(
        *_in_a_row(516, "<I", 4, "rbx rcx rdx rsi rdi rbp rax"), (548, "<I", "rip"),
        (552, "<H", "cs"), (556, "<I", "rflags"), (560, "<I", "rsp"),
        *_in_a_row(564, "<H", 4, "ss es ds fs gs"),
    ),
    start_info=524, gdt_frames=2640, gdt_ents=2704, ctrlreg=2716,
)  # fmt: skip
_WIDTHS = {elf.EM_X86_64: _WIDE, elf.EM_386: _NARROW}


def machine_of(context: bytes) -> int:
    """What a guest with such contexts runs on, as ELF numbers it; by their size.

    :raises FieldError: no guest has such.
    """
    for machine, width in _WIDTHS.items():
        if len(context) == width.size_bytes:
            return machine
    raise FieldError(
        field="context", expected=" or ".join(f"{one.size_bytes}" for one in _WIDTHS.values()),
        got=f"{len(context)} bytes",
    )  # fmt: skip


def from_record(number: int, context: bytes, frame_of: Callable[[int], int] | None) -> bytes:
    """A PV guest's context with machine frames for its pfns.

    :param context: 5168 or 2800 bytes.
    :param frame_of: from a pfn to its frame; None to leave them.
    :returns: 5168 bytes.
    """
    width = _WIDTHS[machine_of(context)]
    turned = bytearray(context)
    if frame_of is not None:
        _turn_frames(number, turned, width, frame_of)
    return bytes(turned).ljust(CONTEXT_BYTES, b"\0")


def _turn_frames(
    number: int, context: bytearray, width: _Width, frame_of: Callable[[int], int]
) -> None:
    mask = (1 << 8 * width.word_bytes) - 1

    def turn(at: int, shift: int = 0) -> None:
        (value,) = struct.unpack_from(width.word, context, at)
        struct.pack_into(width.word, context, at, frame_of(value >> shift) << shift & mask)

    if number == 0:
        turn(width.start_info)
    (nr_entries,) = struct.unpack_from(width.word, context, width.gdt_ents)
    for which in range(min(-(-nr_entries // _GDT_ENTS_PER_FRAME), _GDT_FRAMES)):
        turn(width.gdt_frames + which * width.word_bytes)
    cr3 = width.ctrlreg + 3 * width.word_bytes
    if width is _WIDE:
        turn(cr3, 12)
        cr1 = width.ctrlreg + width.word_bytes
        if context[cr1] & 1:  # in an image bit 0 says that there is one
            turn(cr1, 12)
        return
    (value,) = struct.unpack_from("<I", context, cr3)  # rotated by 12 bits
    frame = frame_of((value >> 12 | value << 20) & mask) & mask
    struct.pack_into("<I", context, cr3, (frame << 12 | frame >> 20) & mask)


def from_registers(vcpu: Vcpu) -> bytes:
    """A context as Xen makes it for an HVM guest: CR3 and all as they are."""
    body = bytearray(CONTEXT_BYTES)
    struct.pack_into("<Q", body, _WIDE.flags, ONLINE)
    for at, code, name in _WIDE.regs:
        mask = (1 << 8 * struct.calcsize(code)) - 1
        struct.pack_into(code, body, at, vcpu.regs.get(name, 0) & mask)
    for number in (0, 2, 3, 4):
        value = vcpu.ctrl.get(f"cr{number}", 0)
        struct.pack_into("<Q", body, _WIDE.ctrlreg + 8 * number, value)
    in_kernel = not vcpu.regs.get("cs", 0) & 3
    here, there = vcpu.regs.get("gs_base", 0), vcpu.regs.get("gs_base_kernel", 0)
    kernel, user = (here, there) if in_kernel else (there, here)
    bases = {"fs_base": vcpu.regs.get("fs_base", 0), "gs_base_kernel": kernel, "gs_base_user": user}
    for at, name in _WIDE.bases:
        struct.pack_into("<Q", body, at, bases[name] & (1 << 64) - 1)
    return bytes(body)


def split(body: memoryview) -> list[bytes]:
    """:raises FieldError: they are not whole, or there are more than any guest has."""
    if len(body) % CONTEXT_BYTES or len(body) > VCPUS_MAX * CONTEXT_BYTES:
        raise FieldError(
            field="contexts", expected=f"at most {VCPUS_MAX} of {CONTEXT_BYTES} bytes",
            got=f"{len(body)} bytes",
        )  # fmt: skip
    return [bytes(body[at : at + CONTEXT_BYTES]) for at in range(0, len(body), CONTEXT_BYTES)]


def describe(machine: int, context: bytes) -> dict[str, Any]:
    """Flags and registers, for people and for other formats.

    :param machine: of the core file.
    """
    width = _WIDTHS[machine]
    (flags,) = struct.unpack_from(width.word, context, width.flags)
    regs = {name: struct.unpack_from(code, context, at)[0] for at, code, name in width.regs}
    regs.update((name, struct.unpack_from("<Q", context, at)[0]) for at, name in width.bases)
    ctrl = {
        f"cr{which}": struct.unpack_from(
            width.word, context, width.ctrlreg + which * width.word_bytes
        )[0]
        for which in range(5)
    }
    return {"flags": flags, "registers": regs, "control_registers": ctrl}
