"""The last of restoring a PV guest: what can only be said when all is in its place.

Nothing is remembered for it: the pages are found through what was given to the domain
before (the p2m's pages with P2M_FRAMES, start_info with vcpu 0's registers).

Source: x86 PV restoring as Xen's libxc does it from 4.6 to after 4.22.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xsave import PAGE_SIZE, PFN_MASK, FieldError

from .frames import NO_FRAME, pfn_of
from .start_info import START_INFOS
from .vcpu_basic import decode_context

if TYPE_CHECKING:
    from xsave import Domain, Entries, Pages, PvFacet

P2M_PAGES = 1024  # rewritten at once


def complete(domain: Domain, tables: Entries) -> None:
    """Page tables get their types, and are pinned; then the guest's p2m and start_info are
    those of this host.

    :param tables: (p,) u64, entries of all pages that are page tables.
    :raises XsaveError: the host refused a table.
    :raises FieldError: what must be an ordinary page is none.
    """
    pv: PvFacet = domain.need_facet("pv")
    pv.set_page_types(tables)
    _rewrite_p2m(domain, pv, tables)
    _rewrite_start_info(domain, pv, tables)


def _rewrite_p2m(domain: Domain, pv: PvFacet, tables: Entries) -> None:
    """Entries up to the guest's highest pfn; behind them the last page stays as it was."""
    dtype = np.dtype(f"<u{pv.guest_width}")
    per_page = PAGE_SIZE // pv.guest_width
    frames = pv.p2m_frame_pfns()
    for start in range(0, len(frames), P2M_PAGES):
        pfns = frames[start : start + P2M_PAGES]
        pages = _read(domain, pv, pfns, tables, "a page of the guest's p2m")
        first = start * per_page
        end = min(first + len(pfns) * per_page, domain.info.p2m_size)
        if end > first:
            mfns = pv.p2m(np.arange(first, end, dtype=np.uint64))
            pages.reshape(-1).view(dtype)[: end - first] = mfns.astype(dtype)
        domain.write_pages(pfns, pages)


def _rewrite_start_info(domain: Domain, pv: PvFacet, tables: Entries) -> None:
    context = decode_context(memoryview(pv.vcpu_state(0, "basic")))
    mfn = context.start_info_pfn  # in a host's context it is an mfn
    pfns = np.array([pfn_of(pv, mfn, "start_info of vcpu 0")], np.uint64)
    pages = _read(domain, pv, pfns, tables, "start_info")
    store, console = pv.store_and_console()
    kind = START_INFOS[pv.guest_width]
    old = kind.decode_at(pages[0].data, 0)
    shared_info_mfn = getattr(pv, "shared_info_mfn", None)  # not every host can tell
    event_channels = getattr(pv, "event_channels", None)
    ports = event_channels() if event_channels else (old.store_evtchn, old.console_evtchn)
    new = old.replace(
        nr_pages=domain.info.p2m_size,
        shared_info=shared_info_mfn() * PAGE_SIZE if shared_info_mfn else old.shared_info,
        flags=0,
        store_mfn=store,
        console_mfn=console,
        store_evtchn=ports[0],
        console_evtchn=ports[1],
    )
    pages[0, : kind.SIZE] = np.frombuffer(new.encode(), np.uint8)
    domain.write_pages(pfns, pages)


def _read(domain: Domain, pv: PvFacet, pfns: Entries, tables: Entries, what: str) -> Pages:
    """:returns: (n, PAGE_SIZE) u8, copies that may be written to."""
    bad = np.isin(pfns, tables & PFN_MASK) | (pv.p2m(pfns) == np.uint64(NO_FRAME))
    pages = np.empty((len(pfns), PAGE_SIZE), np.uint8)
    if not bad.any():
        bad = ~domain.read_pages(pfns, pages)
    if bad.any():
        raise FieldError(
            field=what, expected="an ordinary page (NOTAB)", got=f"pfn {int(pfns[bad][0]):#x}"
        )
    return pages
