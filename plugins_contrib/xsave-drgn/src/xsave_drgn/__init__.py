"""drgn over images that xsave reads, without export.

A program gets the guest's memory as segments of physical addresses, read when they are asked
for; the rest, from page tables to symbols, is drgn's. Page tables of a PV guest hold pfns in an
image, which are physical addresses here, so that they lead where they should.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Iterator

import drgn
from xsave import GuestMemory, PluginManager, open_memory

from .errors import NotForDrgnError

__all__ = ["NotForDrgnError", "find_vmcoreinfo", "open_program", "program"]

PAGE_BYTES = 4096
CHUNK_BYTES = 4 << 20  # looked through at once
# A note in a page of its own: sizes of name and text, type 0, name, and from there the text.
_NOTE = struct.Struct("<III")
_NAME = b"VMCOREINFO\0\0"  # with its padding
_BEGINS = _NAME + b"OSRELEASE="
_TEXT_AT = _NOTE.size + len(_NAME)
_PATTERN = b"OSRELEASE=%s"  # the kernel's own way of saying it: not a note


def program(
    image: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    vmcoreinfo: bytes | None = None,
    manager: PluginManager | None = None,
) -> drgn.Program:
    """A program of the guest in an image, without debug information yet.

    :param base: the image that this one was written against.
    :param vmcoreinfo: what the guest's kernel says of itself; looked for if not given.
    :raises xsave.XsaveError: the image cannot be read, or not here and there.
    :raises NotForDrgnError: it has page tables that drgn cannot follow.
    """
    memory = open_memory(os.fspath(image), base=_path(base), manager=manager)
    try:
        return open_program(memory, vmcoreinfo=vmcoreinfo)
    except BaseException:
        memory.close()
        raise


def _path(base: str | os.PathLike[str] | None) -> str | None:
    return None if base is None else os.fspath(base)


class _Pages:
    """What drgn calls to read. Lives as long as the program; the image is closed with it."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        weakref.finalize(self, memory.close)

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        return self._memory.read(address, count)


def open_program(memory: GuestMemory, *, vmcoreinfo: bytes | None = None) -> drgn.Program:
    """As :func:`program`, of memory that is open, and is closed with the program."""
    if memory.info.format == "xen-core":
        raise NotForDrgnError(
            "page tables in a core file of Xen's own may hold machine frames; give drgn the image "
            "that it was made from, or a vmcore"
        )
    made = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    pages = _Pages(memory)
    for start, size in memory.ranges():
        made.add_memory_segment(start, size, pages.read, physical=True)
    text = find_vmcoreinfo(memory) if vmcoreinfo is None else vmcoreinfo
    if text:
        made.set_linux_kernel_custom(text, is_live=False)
    return made


def find_vmcoreinfo(memory: GuestMemory) -> bytes:
    """What the guest's Linux says of itself: the longest such text there is; b"" if none.

    All of its memory is looked through, piece by piece.
    """
    return max(_vmcoreinfos(memory), key=len, default=b"")


def _vmcoreinfos(memory: GuestMemory) -> Iterator[bytes]:
    for start, size in memory.ranges():
        for at in range(start, start + size, CHUNK_BYTES):
            piece = memory.read(at, min(CHUNK_BYTES, start + size - at))
            yield from _in_piece(piece)


def _in_piece(piece: bytes) -> Iterator[bytes]:
    """:param piece: whole pages."""
    found = -1
    while (found := piece.find(_BEGINS, found + 1)) >= 0:
        page = found - _NOTE.size
        if page < 0 or page % PAGE_BYTES:
            continue
        name_bytes, text_bytes, kind = _NOTE.unpack_from(piece, page)
        text = piece[page + _TEXT_AT : page + PAGE_BYTES][:text_bytes]
        is_whole = len(text) == text_bytes and not text.startswith(_PATTERN)
        if (name_bytes, kind) == (len(_NAME) - 1, 0) and is_whole:
            yield text
