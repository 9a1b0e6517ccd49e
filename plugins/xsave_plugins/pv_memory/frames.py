"""One frame number at a time, between host and image: what vcpus and start_info hold.

Page tables have thousands of them and are turned in ``page_tables.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsave import FieldError, SourceError

if TYPE_CHECKING:
    from xsave import PvFacet

NO_FRAME = (1 << 64) - 1  # what a facet gives where there is none


def pfn_of(pv: PvFacet, mfn: int, what: str) -> int:
    """:param what: holds the mfn, for the error.
    :raises SourceError: the frame is not this guest's.
    """
    import numpy as np

    pfn = int(pv.m2p(np.array([mfn], np.uint64))[0])
    if pfn == NO_FRAME:
        raise SourceError(f"{what}: mfn {mfn:#x} is not a frame of this guest")
    return pfn


def mfn_of(pv: PvFacet, pfn: int, what: str) -> int:
    """:raises FieldError: the image gives that pfn no memory, or the guest's width cannot
    express the mfn."""
    import numpy as np

    mfn = int(pv.p2m(np.array([pfn], np.uint64))[0])
    if mfn == NO_FRAME:
        raise FieldError(field=what, expected="a pfn with memory", got=hex(pfn))
    if pv.guest_width == 4 and mfn >> 32:
        raise FieldError(field=what, expected="an mfn of 32 bits on this host", got=hex(mfn))
    return mfn
