"""Which toolstack wrote it, and for which kind of guest? A legacy stream has no magic.

The first word is the p2m's size. With a 64-bit toolstack bytes 4 to 7 are its upper half and
so zero; with a 32-bit one they are the mark of extended info (all ones, PV), or an HVM
guest's first chunk, and never zero. Anything can look like that, so as much as is at hand
is walked through: extended info block by block, chunks with their fields, the entries of a
page batch. The rest is the reader's: until the first batch is whole, it says of an error that
this may be no legacy stream at all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from xsave import GuestType, frozen

from . import layouts as f


@frozen
class Kind:
    """:ivar word_size: of the toolstack, bytes.
    :ivar extended_info: whether it follows the p2m's size; PV only. Xen before 3.0.3 had none.
    """

    word_size: int
    guest_type: GuestType
    p2m_size: int
    extended_info: bool


class _Short(Exception):  # noqa: N818  # not an error: the bytes at hand are used up
    """Nothing more can be said."""


class _Head:
    """The bytes at hand, read field by field."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def take(self, size_bytes: int) -> bytes:
        if self._at + size_bytes > len(self._data):
            raise _Short
        piece = self._data[self._at : self._at + size_bytes]
        self._at += size_bytes
        return piece

    def number(self, layout: struct.Struct) -> int:
        value: int = layout.unpack(self.take(layout.size))[0]
        return value

    def rest(self) -> bytes:
        return self._data[self._at :]


def kind_of(head: bytes) -> Kind | None:
    """:param head: the first bytes of the libxc part, up to 4096.
    :returns: None if this is no legacy stream.
    """
    word_size = 4 if any(head[4:8]) else 8
    p2m_size = int.from_bytes(head[:4], "little")
    if len(head) < 16 or not 1 <= p2m_size <= f.P2M_SIZE_MAX:
        return None
    after = head[word_size:]
    if after.startswith(b"\xff" * word_size):
        if not _is_extended_info(after[word_size:]):
            return None
        return Kind(word_size, GuestType.X86_PV, p2m_size, extended_info=True)
    if _are_hvm_chunks(head, word_size, p2m_size):
        return Kind(word_size, GuestType.X86_HVM, p2m_size, extended_info=False)
    if _is_frame_list(after, word_size, p2m_size):
        return Kind(word_size, GuestType.X86_PV, p2m_size, extended_info=False)
    return None


def _is_extended_info(head: bytes) -> bool:
    total = int.from_bytes(head[:4], "little")
    if not f.BLOCK_HEAD.size <= total <= f.EXTENDED_INFO_MAX:
        return False
    blocks = _Head(head[: 4 + total], 4)
    left = total
    try:
        while left:
            name, size = f.BLOCK_HEAD.unpack(blocks.take(f.BLOCK_HEAD.size))
            left -= f.BLOCK_HEAD.size + size
            if left < 0 or not name.isalnum() or (name == b"vcpu" and size not in f.GUEST_WIDTHS):
                return False
            blocks.take(size)
    except _Short:
        return True
    return True


def _is_frame_list(head: bytes, word_size: int, p2m_size: int) -> bool:
    """A PV stream of before Xen 3.0.3: the list of the p2m's pages follows at once."""
    nr_frames = -(-p2m_size * word_size // f.PAGE_BYTES)
    listed = head[: nr_frames * word_size]
    frames = [
        int.from_bytes(listed[at : at + word_size], "little")
        for at in range(0, len(listed) - word_size + 1, word_size)
    ]
    if not frames or not all(0 < frame < p2m_size for frame in frames):
        return False
    if len(set(frames)) < len(frames):
        return False
    after = _Head(head, nr_frames * word_size)
    try:
        return f.LOWEST_CHUNK <= after.number(f.INT) <= f.BATCH_MAX
    except _Short:
        return len(listed) == nr_frames * word_size or len(frames) > 1


def _are_hvm_chunks(head: bytes, word_size: int, p2m_size: int) -> bool:
    """Whether chunks of an HVM guest follow, as far as can be seen."""
    chunks = _Head(head, word_size)
    nr_seen = 0
    try:
        while True:
            number = chunks.number(f.INT)
            if not nr_seen and number in (f.END, f.VERIFY):
                return False
            if 1 <= number <= f.BATCH_MAX:
                return _are_entries(chunks.rest()[: number * word_size], word_size, p2m_size)
            if number == f.END:
                return True
            if number not in f.CHUNK_NAMES or not _is_chunk(number, chunks, word_size):
                return False
            if number in (f.TMEM, f.TMEM_EXTRA):
                return True  # of any length, with separators that were looked at
            nr_seen += 1
    except _Short:
        return nr_seen > 0


def _are_entries(data: bytes, word_size: int, p2m_size: int) -> bool:
    """HVM guests have no page tables in a stream: plain, broken, to be allocated, absent."""
    nr_entries = len(data) // word_size
    entries = struct.unpack_from(f"<{nr_entries}{'IQ'[word_size == 8]}", data)
    return nr_entries > 0 and all(
        entry >> f.TYPE_SHIFT in (0, 0xD, 0xE, 0xF)
        and (entry & f.PFN_MASK < p2m_size or entry == f.NO_PFN)
        for entry in entries
    )


def _is_chunk(number: int, chunks: _Head, word_size: int) -> bool:
    rule = _RULES.get(number)
    if number in f.HVM_PARAMS:
        chunks.take(f.PADDED_U64.size)
        return True
    return rule is None or rule(chunks, word_size)


def _vcpu_info(chunks: _Head, _word_size: int) -> bool:
    if not 0 <= (highest := chunks.number(f.INT)) <= f.VCPU_ID_MAX:
        return False
    bitmap = chunks.take(8 * (highest // 64 + 1))
    return int.from_bytes(bitmap, "little") >> (highest + 1) == 0


def _tmem(chunks: _Head, _word_size: int) -> bool:
    version, nr_pools, separator = (chunks.number(f.UINT) for _ in range(3))
    return version in (0, 1) and 1 <= nr_pools <= 16 and separator == 0xFFFFFFFF


def _tsc_info(chunks: _Head, _word_size: int) -> bool:
    return f.TSC.unpack(chunks.take(f.TSC.size))[0] in f.TSC_MODES


def _toolstack(chunks: _Head, _word_size: int) -> bool:
    size = chunks.number(f.UINT)
    if size > f.BODY_MAX:
        return False
    body = chunks.take(size)
    return size == 0 or body[:4] == b"\1\0\0\0"


_RULES: dict[int, Callable[[_Head, int], bool]] = {
    f.VCPU_INFO: _vcpu_info,
    f.TMEM: _tmem,
    f.TSC_INFO: _tsc_info,
    f.TOOLSTACK: _toolstack,
}
