"""What pages and invalidations have in common: a header, then handles in arrays.

A handle names a page: an object id (oid) of one or three u64, and an index, u32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xsave import FieldError, Layout, layout, u16, u32

from .client import OID_WORDS
from .pool import check_pool_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .facet import Handle

    Oids = NDArray[np.uint64]
    Indexes = NDArray[np.uint32]


@layout
class HandlesHeader(Layout):
    """16 bytes, before the arrays. ``kind`` is what each record makes of it."""

    pool_id: int = u32()
    nr_handles: int = u32()
    oid_words: int = u16()
    kind: int = u16()
    reserved: int = u32()


def read_header(body: memoryview, *, nr_max: int, field: str) -> HandlesHeader:
    """Check all of the header but ``kind``.

    :param field: what the handles name, for the error: "nr_pages".
    """
    header = HandlesHeader.decode_at(body, 0)
    check_pool_id(header.pool_id)
    if not 1 <= header.nr_handles <= nr_max:
        raise FieldError(field=field, expected=f"1 to {nr_max}", got=str(header.nr_handles))
    if header.oid_words not in OID_WORDS.values():
        raise FieldError(field="oid_words", expected="1 or 3", got=str(header.oid_words))
    if header.reserved:
        raise FieldError(field="reserved", expected="0", got=f"{header.reserved:#x}")
    return header


def check_size(body: memoryview, expected: int, header: HandlesHeader) -> None:
    if len(body) != expected:
        raise FieldError(
            field="body", expected=f"{expected} bytes for {header.nr_handles} handles",
            got=f"{len(body)} bytes",
        )  # fmt: skip


def read_oids(body: bytes, header: HandlesHeader) -> Oids:
    """(n, words) u64, after the header.

    :raises FieldError: an oid is all ones, which Xen uses for "no object".
    """
    import numpy as np

    count = header.nr_handles * header.oid_words
    oids = np.frombuffer(body, "<u8", count, HandlesHeader.SIZE)
    oids = oids.reshape(header.nr_handles, header.oid_words)
    invalid = np.flatnonzero((oids == np.uint64(0xFFFFFFFFFFFFFFFF)).all(axis=1))
    if len(invalid):
        raise FieldError(
            field=f"oid {int(invalid[0])}", expected="the id of an object", got="all ones"
        )
    return oids


def read_indexes(body: bytes, header: HandlesHeader) -> Indexes:
    """(n,) u32, after the oids."""
    import numpy as np

    offset = HandlesHeader.SIZE + 8 * header.nr_handles * header.oid_words
    return np.frombuffer(body, "<u4", header.nr_handles, offset)


def as_arrays(handles: Sequence[Handle]) -> tuple[Oids, Indexes]:
    """(n, words) u64 and (n,) u32, of at least one handle."""
    import numpy as np

    oids = np.array([oid for oid, _ in handles], np.uint64)
    return oids, np.array([index for _, index in handles], np.uint32)


def as_handles(oids: Oids, indexes: Indexes) -> list[Handle]:
    """The way back."""
    return [(tuple(oid), index) for oid, index in zip(oids.tolist(), indexes.tolist(), strict=True)]


def as_bytes(array: NDArray[Any], dtype: str) -> memoryview:
    """The array's bytes, flat and little-endian; a copy only if it is not so already."""
    import numpy as np

    return np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data


def show_oid(oid: NDArray[np.uint64]) -> list[str]:
    return [f"{word:#x}" for word in oid.tolist()]
