"""The page by which a PV guest finds what its host gave it: the head of start_info.

Layout: xen/include/public/xen.h, in the guest's width. What follows the fields here (its
modules, its command line) is the guest's own.
"""

from __future__ import annotations

from xsave import Layout, layout, raw, u32, u64


@layout
class StartInfo64(Layout):
    """:ivar nr_pages: highest pfn plus one.
    :ivar shared_info: machine address.
    :ivar store_mfn, console_mfn: of the rings; pfns in an image, since the guest itself
        turns them before it suspends.
    """

    magic: bytes = raw(32)
    nr_pages: int = u64()
    shared_info: int = u64()
    flags: int = u32()
    pad0: int = u32()
    store_mfn: int = u64()
    store_evtchn: int = u32()
    pad1: int = u32()
    console_mfn: int = u64()
    console_evtchn: int = u32()


@layout
class StartInfo32(Layout):
    """As :class:`StartInfo64`."""

    magic: bytes = raw(32)
    nr_pages: int = u32()
    shared_info: int = u32()
    flags: int = u32()
    store_mfn: int = u32()
    store_evtchn: int = u32()
    console_mfn: int = u32()
    console_evtchn: int = u32()


START_INFOS: dict[int, type[StartInfo64] | type[StartInfo32]] = {8: StartInfo64, 4: StartInfo32}
