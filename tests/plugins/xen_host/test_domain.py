from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from tests.plugins.xen_host.fake_xen import INVALID, FakeGuest, FakeXen
from xsave import PAGE_SIZE, TYPE_SHIFT, GuestType, SourceError, UsageError, XsaveError
from xsave_plugins.xen_host import domain as domain_module
from xsave_plugins.xen_host.backend import XenBackend
from xsave_plugins.xen_host.connection import Connection
from xsave_plugins.xen_host.domain import BuiltDomain, Rings, SavedDomain, Toolstack
from xsave_plugins.xen_host.libraries import Libraries

RINGS = Rings(store_port=1, store_domid=0, console_port=2, console_domid=3)
SUSPENDED = 4 | 2 << 16
Array = np.ndarray[Any, np.dtype[np.uint64]]


class FakeStore:
    def __init__(self, **values: str) -> None:
        self.values = {name.replace("__", "/"): value for name, value in values.items()}

    def read(self, path: str) -> str | None:
        return self.values.get(path.lstrip("/"))

    def list(self, path: str) -> list[str]:
        below = f"{path.lstrip('/')}/"
        found = (name.removeprefix(below) for name in self.values if name.startswith(below))
        return sorted({name.partition("/")[0] for name in found})

    def close(self) -> None: ...


def connection(xen: FakeXen, store: FakeStore | None = None) -> Connection:
    found: Any = store or FakeStore(local__domain__7__name="web", libxl__7__type="pvh")
    return Connection(Libraries(xen, xen), lambda: found)


def pfns(*values: int) -> Array:
    return np.array(values, np.uint64)


def hvm_guest() -> FakeGuest:
    frames = {pfn: bytearray(bytes([pfn + 1]) * PAGE_SIZE) for pfn in (0, 1, 5)}
    return FakeGuest(frames=frames)


def pv_xen() -> tuple[FakeXen, FakeGuest]:
    """A guest of pfns 0 to 5, pfn 4 without memory; mfn is 0x100 + pfn. Its p2m is a tree whose
    pages are pfns 1 to 3."""
    frames = {0x100 + pfn: bytearray(PAGE_SIZE) for pfn in (0, 1, 2, 3, 5)}
    struct.pack_into("<Q", frames[0x101], 0, 0x102)
    struct.pack_into("<Q", frames[0x102], 0, 0x103)
    entries = [0x100, 0x101, 0x102, 0x103, INVALID, 0x105]
    struct.pack_into("<6Q", frames[0x103], 0, *entries)
    frames[0x105][:] = b"\x55" * PAGE_SIZE
    shared = bytearray(PAGE_SIZE)
    struct.pack_into("<QQ", shared, 3088, 6, 0x101)
    guest = FakeGuest(is_hvm=False, frames={**frames, 0x300: shared}, shared_info_mfn=0x300)
    xen = FakeXen(guest)
    xen.machine = {0x100 + pfn: pfn for pfn in (0, 1, 2, 3, 5)} | {0x1FF: 2}
    return xen, guest


# -- a guest that runs ----------------------------------------------------------------------


def test_an_hvm_guest_is_read_where_it_lies() -> None:
    one = SavedDomain(connection(FakeXen(hvm_guest())), 7)
    assert one.info.guest_type is GuestType.X86_HVM
    assert (one.info.name, one.info.p2m_size, one.info.xen_version) == ("web", 6, "4.17")
    assert one.info.details["type"] == "pvh"
    entries = one.page_types(pfns(0, 4, 5))
    assert (entries >> TYPE_SHIFT).tolist() == [0, 0xF, 0]
    out = np.zeros((3, PAGE_SIZE), np.uint8)
    assert one.read_pages(pfns(5, 4, 1), out).tolist() == [True, False, True]
    nowhere = pfns(1 << 40, 1 << 52 | 1, INVALID)
    assert one.read_pages(nowhere, out.copy()).tolist() == [False] * 3
    assert (out[0] == 6).all()
    assert (out[2] == 2).all()
    one.close()


def test_a_pv_guest_is_read_through_its_own_p2m() -> None:
    xen, _ = pv_xen()
    one = SavedDomain(connection(xen), 7)
    assert (one.info.guest_type, one.info.p2m_size) == (GuestType.X86_PV, 6)
    pv = one.facet("pv")
    assert pv.p2m_frame_pfns().tolist() == [3]
    assert pv.p2m(pfns(0, 4, 5, 6)).tolist() == [0x100, INVALID, 0x105, INVALID]
    # 0x1ff is another domain's, and 0x104 nobody's
    assert pv.m2p(pfns(0x105, 0x104, 0x1FF, INVALID)).tolist() == [5, INVALID, INVALID, INVALID]
    assert (one.page_types(pfns(4, 5)) >> TYPE_SHIFT).tolist() == [0xF, 0]
    out = np.zeros((2, PAGE_SIZE), np.uint8)
    assert one.read_pages(pfns(4, 5), out).tolist() == [False, True]
    assert (out[1] == 0x55).all()
    one.close()
    assert not xen.mappings


def test_a_pfn_that_had_no_memory_is_looked_at_again_after_the_pause() -> None:
    xen, guest = pv_xen()
    one = SavedDomain(connection(xen), 7)
    one.start_dirty_log()
    one.page_types(np.arange(6, dtype=np.uint64))
    guest.dirty |= {1}
    assert np.flatnonzero(one.read_dirty_log(clean=True)).tolist() == [1]
    guest.flags = SUSPENDED
    assert np.flatnonzero(one.read_dirty_log(clean=True)).tolist() == [4]
    one.stop_dirty_log()
    assert guest.asked[-1] == "shadow 0"


def test_a_xen_that_cannot_log_a_pv_guest_is_told_with_the_way_out() -> None:
    xen, _ = pv_xen()
    xen.has_shadow_paging = False  # as Debian 13 builds it
    one = SavedDomain(connection(xen), 7)
    with pytest.raises(XsaveError, match=r"needs shadow paging.* can be saved with --no-live"):
        one.start_dirty_log()
    one.close()


def test_a_guest_that_moves_its_p2m_is_not_saved_wrong() -> None:
    xen, guest = pv_xen()
    shared = guest.frames[0x300]
    struct.pack_into("<Q", shared, 3128, 2)
    one = SavedDomain(connection(xen), 7, Toolstack(lambda: None, lambda _on: None))
    one.pause()
    struct.pack_into("<Q", shared, 3128, 4)
    with pytest.raises(SourceError, match="has moved its p2m while it was being saved"):
        one.pause()


def test_a_toolstack_suspends_resumes_and_tells_its_device_model() -> None:
    guest = hvm_guest()
    said: list[object] = []
    toolstack = Toolstack(lambda: said.append("suspend"), said.append)
    one = SavedDomain(connection(FakeXen(guest)), 7, toolstack)
    one.start_dirty_log()
    one.pause()
    one.stop_dirty_log()
    one.resume()
    one.destroy()
    assert said == [True, "suspend", False]
    assert "resume" not in guest.asked
    assert one.facet("device_model") is None


def test_a_guest_found_suspended_is_left_so() -> None:
    guest = hvm_guest()
    guest.flags = SUSPENDED
    one = SavedDomain(connection(FakeXen(guest)), 7)
    one.pause()
    one.resume()
    assert "resume" not in guest.asked


def test_a_guest_is_destroyed_by_its_toolstack(monkeypatch: pytest.MonkeyPatch) -> None:
    destroyed: list[int] = []
    monkeypatch.setattr(domain_module.toolstack, "destroy", destroyed.append)
    xen = FakeXen(hvm_guest())
    one = SavedDomain(connection(xen), 7)
    one.destroy()
    assert destroyed == [7]
    del xen.guests[7]
    one.destroy()  # it has ended already
    assert destroyed == [7]


def test_a_guest_that_runs_is_not_restored_into() -> None:
    one = SavedDomain(connection(FakeXen(hvm_guest())), 7)
    with pytest.raises(UsageError, match="is a guest already"):
        one.populate(pfns(9))


# -- a domain being built ---------------------------------------------------------------------


def test_an_hvm_domain_gets_memory_once_and_gives_it_back() -> None:
    guest = FakeGuest(params={1: 0xFEFFC, 17: 0xFEFFF})
    one = BuiltDomain(connection(FakeXen(guest)), 7, RINGS)
    one.populate(pfns(3, 3, 9))
    one.populate(pfns(3, 4))
    assert sorted(guest.frames) == [3, 4, 9]
    one.write_pages(pfns(9), np.full((1, PAGE_SIZE), 7, np.uint8))
    assert bytes(guest.frames[9]) == b"\x07" * PAGE_SIZE
    one.depopulate(pfns(4, 100))
    assert sorted(guest.frames) == [3, 9]
    with pytest.raises(XsaveError, match="pfn 0x64 cannot be written to"):
        one.write_pages(pfns(100), np.zeros((1, PAGE_SIZE), np.uint8))


def test_an_hvm_domain_learns_its_ports_and_grants_its_rings() -> None:
    guest = FakeGuest(params={1: 0xFEFFC, 17: 0xFEFFF})
    one = BuiltDomain(connection(FakeXen(guest)), 7, RINGS)
    one.facet("hvm").set_context(b"records")
    assert (guest.params[2], guest.params[18]) == (1, 2)
    assert one.complete() == (0xFEFFC, 0xFEFFF)
    assert struct.unpack_from("<HHIHHI", guest.grants) == (1, 3, 0xFEFFF, 1, 0, 0xFEFFC)


def test_a_pv_domain_is_built_from_pfns() -> None:
    guest = FakeGuest(is_hvm=False, frames={0x300: bytearray(PAGE_SIZE)}, shared_info_mfn=0x300)
    one = BuiltDomain(connection(FakeXen(guest)), 7, RINGS)
    pv = one.facet("pv")
    pv.set_p2m_frame_pfns(pfns(2), 6)
    assert one.info.p2m_size == 6
    one.populate(pfns(0, 1, 2, 5))
    mfns = pv.p2m(pfns(0, 1, 2, 3, 5))
    assert mfns.tolist() == [0x200, 0x201, 0x202, INVALID, 0x203]
    with pytest.raises(XsaveError, match="pfn 0x6: this guest has pfns below 0x6"):
        one.populate(pfns(6))

    pv.set_page_types(pfns(0xC << 60 | 1, 0x2 << 60 | 2, 0x9 << 60 | 5))
    assert guest.pinned == [(3, 0x201), (0, 0x203)]

    start_info = np.zeros((1, PAGE_SIZE), np.uint8)
    start_info[0, 56:64].view(np.uint64)[0] = 5  # store
    start_info[0, 72:80].view(np.uint64)[0] = 2  # console
    one.write_pages(pfns(0), start_info)
    context = bytearray(5168)
    struct.pack_into("<Q", context, 616, 0x200)
    pv.set_vcpu_state(0, "basic", bytes(context))
    assert pv.store_and_console() == (0x203, 0x202)
    assert pv.event_channels() == (1, 2)
    assert one.complete() == (0x203, 0x202)


def test_the_page_shared_with_xen_is_read_and_written() -> None:
    guest = FakeGuest(is_hvm=False, frames={0x300: bytearray(PAGE_SIZE)}, shared_info_mfn=0x300)
    pv = BuiltDomain(connection(FakeXen(guest)), 7, RINGS).facet("pv")
    pv.set_shared_info(b"\x42" * PAGE_SIZE)
    assert pv.shared_info() == b"\x42" * PAGE_SIZE
    assert pv.shared_info_mfn() == 0x300


# -- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["", "a/b", "a b", "x" * 200])
def test_an_address_that_names_no_domain_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected xen:NAME or xen:DOMID"):
        XenBackend().open(address)


def test_restoring_says_how_it_is_done() -> None:
    one = SavedDomain(connection(FakeXen(hvm_guest())), 7)
    with pytest.raises(UsageError, match=r"then xl restore guest\.xl"):
        XenBackend().create("new", one.info)


def test_domains_are_found_by_name_and_number() -> None:
    store: Any = FakeStore(local__domain__0__name="Domain-0", local__domain__7__name="web")
    find = domain_module.toolstack.find_domid
    assert (find(store, "web"), find(store, "12")) == (7, 12)
    with pytest.raises(UsageError, match="no domains are named 'www'; there are: Domain-0, web"):
        find(store, "www")
    store.values["local/domain/8/name"] = "web"
    with pytest.raises(UsageError, match="2 domains are named 'web'"):
        find(store, "web")


def test_a_guest_is_found_again_and_never_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    xen = FakeXen(hvm_guest())
    monkeypatch.setattr("xsave_plugins.xen_host.connection.Connection", lambda: connection(xen))
    locator = XenBackend().open("web").locator
    assert locator == "7/00010203-0405-0607-0809-0a0b0c0d0e0f"
    again = XenBackend().find(locator)
    assert again is not None
    assert again.info.name == "web"
    assert XenBackend().find(locator.replace("7/00", "7/ff")) is None
    assert XenBackend().find(locator.replace("7/", "8/")) is None
    xen.guests[7].flags = 1  # being destroyed
    assert XenBackend().find(locator) is None
    with pytest.raises(UsageError, match="expected DOMID/UUID, got 'web'"):
        XenBackend().find("web")


def test_domain_0_is_no_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    xen = FakeXen(hvm_guest())
    monkeypatch.setattr("xsave_plugins.xen_host.connection.Connection", lambda: connection(xen))
    with pytest.raises(UsageError, match="domain 0 is the host itself"):
        XenBackend().open("0")
