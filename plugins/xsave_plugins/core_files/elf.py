"""ELF-64 core files: headers, segments, notes (System V ABI, generic and x86-64 supplements).

Numbers and structs, and nothing else.
"""

from __future__ import annotations

from xsave import Layout, layout, raw, u16, u32, u64

PAGE_SIZE = 4096
EM_386, EM_X86_64 = 3, 62
ET_CORE = 4
PT_LOAD, PT_NOTE = 1, 4
PF_RWX = 7
PN_XNUM = 0xFFFF  # as the number of segments: the true one is in section header 0

NT_PRSTATUS = 1
NOTE_CORE, NOTE_QEMU, NOTE_VMCOREINFO = b"CORE", b"QEMU", b"VMCOREINFO"


@layout
class Header(Layout):
    ident: bytes = raw(16)
    type: int = u16()
    machine: int = u16()
    version: int = u32()
    entry: int = u64()
    phoff: int = u64()
    shoff: int = u64()
    flags: int = u32()
    ehsize: int = u16()
    phentsize: int = u16()
    phnum: int = u16()
    shentsize: int = u16()
    shnum: int = u16()
    shstrndx: int = u16()


@layout
class Segment(Layout):
    type: int = u32()
    flags: int = u32()
    offset: int = u64()
    vaddr: int = u64()
    paddr: int = u64()
    filesz: int = u64()
    memsz: int = u64()
    align: int = u64()


@layout
class Section(Layout):
    name: int = u32()
    type: int = u32()
    flags: int = u64()
    addr: int = u64()
    offset: int = u64()
    size: int = u64()
    link: int = u32()
    info: int = u32()
    addralign: int = u64()
    entsize: int = u64()


@layout
class NoteHeader(Layout):
    namesz: int = u32()
    descsz: int = u32()
    type: int = u32()


def note(name: bytes, kind: int, desc: bytes) -> bytes:
    """:param name: without its final NUL."""
    header = NoteHeader(len(name) + 1, len(desc), kind).encode()
    padded = (name + b"\0").ljust(-(-(len(name) + 1) // 4) * 4, b"\0")
    return header + padded + desc.ljust(-(-len(desc) // 4) * 4, b"\0")
