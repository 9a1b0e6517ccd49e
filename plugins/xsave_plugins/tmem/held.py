"""Pages in the form in which a host held them, and the codecs that can be undone here."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from xsave import FieldError, XsaveError

from .pool import PAGE_BYTES


def _undo_zlib(data: bytes) -> bytes:
    """At most one byte more than a page, whatever the data claims to be."""
    stream = zlib.decompressobj()
    try:
        page = stream.decompress(data, PAGE_BYTES + 1)
    except zlib.error as error:
        raise FieldError(field="contents", expected="a zlib stream", got=str(error)) from None
    if len(page) == PAGE_BYTES and (not stream.eof or stream.unused_data):
        raise FieldError(field="contents", expected="one whole zlib stream", got="another length")
    return page


def make_plain(pieces: Sequence[bytes], codec: str) -> list[bytes]:
    """The pages, of pieces some of which are compressed.

    :raises XsaveError: nothing here knows the codec. :raises FieldError: one is damaged.
    """
    return [piece if len(piece) == PAGE_BYTES else undo(piece, codec) for piece in pieces]


UNDO: Final[Mapping[str, Callable[[bytes], bytes]]] = {"zlib": _undo_zlib}


def undo(data: bytes, codec: str) -> bytes:
    """The page.

    :raises XsaveError: nothing here knows the codec. :raises FieldError: it is damaged.
    """
    if codec not in UNDO:
        raise XsaveError(
            f"pages in tmem are compressed with {codec!r}: this host does not take them so, "
            f"and they can be recoded only from {', '.join(UNDO)}"
        )
    page = UNDO[codec](data)
    if len(page) != PAGE_BYTES:
        got = f"{len(page)}" if len(page) < PAGE_BYTES else "more"
        raise FieldError(field="contents", expected=f"{PAGE_BYTES} bytes a page", got=got)
    return page
