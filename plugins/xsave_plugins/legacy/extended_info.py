"""Extended info: what a PV stream says before its first chunk (Xen 3.0.3 to 4.5)."""

from __future__ import annotations

from xsave import FormatError, frozen

from . import layouts as f
from .words import Words, expect


@frozen
class ExtendedInfo:
    """:ivar context_bytes: of a vcpu context; says the guest's width.
    :ivar extended: an extended context follows each context in the tail.
    :ivar xsave: XSAVE state follows each.
    """

    context_bytes: int
    extended: bool = False
    xsave: bool = False

    @property
    def guest_width(self) -> int:
        return f.GUEST_WIDTHS[self.context_bytes][0]

    @property
    def pt_levels(self) -> int:
        return f.GUEST_WIDTHS[self.context_bytes][1]


def read_extended_info(words: Words) -> ExtendedInfo:
    """After the mark. Blocks with names that are not known are passed over, as Xen does."""
    source = words.source
    offset = source.offset
    left = words.size("size of the extended info", f.EXTENDED_INFO_MAX)
    context_bytes, extended, xsave = 0, False, False
    while left:
        at = source.offset
        expect("extended info", at, left >= f.BLOCK_HEAD.size, "a block or its end",
               f"{left} bytes")  # fmt: skip
        name, size = f.BLOCK_HEAD.unpack(source.take(f.BLOCK_HEAD.size, "extended info"))
        left -= f.BLOCK_HEAD.size
        expect(f"size of block {name!r}", at + 4, size <= left, f"at most {left} bytes", size)
        left -= size
        body = source.take(size, f"block {name!r} of the extended info")
        if name == b"vcpu":
            expect("size of block b'vcpu'", at + 4, size in f.GUEST_WIDTHS, "2800 or 5168", size)
            context_bytes = size  # its contents are stale
        elif name == b"extv":
            extended = True
        elif name == b"xcnt":
            expect("size of block b'xcnt'", at + 4, size >= 4, "4 bytes", size)
            xsave = int.from_bytes(body[:4], "little") != 0
    if not context_bytes:
        raise FormatError(
            what="extended info", offset=offset, expected="a block b'vcpu'", got="none"
        )
    return ExtendedInfo(context_bytes, extended, xsave)


def without_extended_info(words: Words, offset: int) -> ExtendedInfo:
    """Of Xen before 3.0.3, whose toolstack was as wide as its guests.

    :raises FormatError: it was 32-bit: whether the guest's tables have two levels or three
        stands nowhere.
    """
    if words.word_size != 8:
        raise FormatError(
            what="legacy stream of a PV guest", offset=offset,
            expected="extended info (Xen 3.0.3 and later)",
            got="none, so the depth of a 32-bit guest's page tables is not known",
        )  # fmt: skip
    return ExtendedInfo(f.CONTEXT_BYTES[8])
