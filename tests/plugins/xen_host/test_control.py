from __future__ import annotations

import numpy as np
import pytest

from tests.plugins.xen_host.fake_xen import FakeGuest, FakeXen
from xsave import TYPE_SHIFT, XsaveError
from xsave_plugins.xen_host.control import Control, Machine
from xsave_plugins.xen_host.hypercalls import Hypercalls
from xsave_plugins.xen_host.libraries import Libraries


def control(guest: FakeGuest, xen: FakeXen | None = None) -> Control:
    xen = xen or FakeXen(guest)
    return Control(Hypercalls(Libraries(xen, xen)), guest.domid)


def pfns(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


def test_the_state_of_a_domain_is_read() -> None:
    found = control(FakeGuest(flags=4 | 2 << 16, nr_vcpus=3, shared_info_mfn=0x99)).state()
    assert found.is_hvm
    assert found.suspended
    assert (found.nr_vcpus, found.shared_info_mfn) == (3, 0x99)
    assert str(found.uuid) == "00010203-0405-0607-0809-0a0b0c0d0e0f"


def test_a_crash_is_no_suspend() -> None:
    found = control(FakeGuest(flags=4 | 3 << 16)).state()
    assert found.shutdown_reason == 3
    assert not found.suspended


def test_a_domain_that_is_not_there_is_told_as_such() -> None:
    with pytest.raises(XsaveError, match="there is no domain 8"):
        control(FakeGuest(domid=8), FakeXen(FakeGuest(domid=7))).state()


def test_types_come_back_in_their_place() -> None:
    guest = FakeGuest(frames={5: bytearray(4096), 6: bytearray(4096)}, types={6: 0xC})
    found = control(guest).page_types(pfns(5, 6, 7))
    assert (found >> TYPE_SHIFT).tolist() == [0, 0xC, 0xF]
    assert not (found & np.uint64((1 << 60) - 1)).any()


def test_the_room_for_types_is_used_again_and_given_back() -> None:
    guest = FakeGuest(frames={5: bytearray(4096), 6: bytearray(4096)}, types={6: 0xC})
    xen = FakeXen(guest)
    one = control(guest, xen)
    before = set(xen.buffers)
    found = [one.page_types(pfns(*some)) >> TYPE_SHIFT for some in ((5, 6, 7), (6,), (7, 5))]
    assert [types.tolist() for types in found] == [[0, 0xC, 0xF], [0xC], [0xF, 0]]
    assert len(xen.buffers) == len(before) + 1
    for _ in range(2):
        one.close()
        assert set(xen.buffers) == before


def test_the_dirty_log_is_looked_at_and_cleaned() -> None:
    guest = FakeGuest()
    one = control(guest)
    one.start_log()
    guest.dirty |= {0, 9, 1000}
    for clean in (False, True):
        assert np.flatnonzero(one.read_log(1001, clean=clean)).tolist() == [0, 9, 1000]
    assert not one.read_log(1001, clean=True).any()
    one.stop_log()
    assert not guest.logging


def test_a_log_that_is_on_already_begins_anew() -> None:
    guest = FakeGuest(logging=True)
    control(guest).start_log()
    assert guest.asked == ["shadow 0", "shadow 2"]


def test_memory_that_the_host_has_not_is_told() -> None:
    guest = FakeGuest(max_populated=2)
    with pytest.raises(XsaveError, match="Xen did 2 of 3 pages, from pfn 0x10"):
        control(guest).populate(pfns(0x10, 0x11, 0x12))


def test_state_of_vcpus_goes_there_and_back() -> None:
    guest = FakeGuest(is_hvm=False)
    one = control(guest)
    states = {
        "context": bytes(range(256)) * 20 + bytes(48),
        "extended": b"\0\0\0\0\x40" + bytes(59),
        "xsave": b"x" * 848,
        "msrs": b"m" * 32,
    }
    for kind, state in states.items():
        getattr(one, f"set_vcpu_{kind}")(0, state)
    assert one.vcpu_context(0, 8) == states["context"]
    assert one.vcpu_extended(0) == states["extended"]
    assert one.vcpu_xsave(0) == states["xsave"]
    assert one.vcpu_msrs(0) == states["msrs"]
    assert (one.vcpu_is_online(0), one.vcpu_is_online(1)) == (True, False)


def test_a_vcpu_without_extended_processor_state_has_none() -> None:
    assert control(FakeGuest()).vcpu_xsave(0) == b""
    assert control(FakeGuest()).vcpu_msrs(0) == b""


def test_hvm_state_goes_there_and_back() -> None:
    guest = FakeGuest()
    one = control(guest)
    one.set_hvm_param(12, 0x1234_5678_9ABC)
    one.set_hvm_context(b"c" * 5000)
    one.set_tsc_info(2, 3, 4, 5)
    one.set_guest_width(4)
    assert guest.params == {12: 0x1234_5678_9ABC}
    assert one.hvm_param(12) == 0x1234_5678_9ABC
    assert one.hvm_context() == b"c" * 5000
    assert one.tsc_info() == (2, 3, 4, 5)
    assert one.guest_width() == 4


def test_policies_go_there_and_back_each_alone() -> None:
    guest = FakeGuest()
    one = control(guest)
    one.set_cpu_policy(b"l" * 48, b"")
    one.set_cpu_policy(b"", b"m" * 32)
    assert one.cpu_policy() == (b"l" * 48, b"m" * 32)


def test_a_processor_that_cannot_is_told_with_the_leaf() -> None:
    with pytest.raises(XsaveError, match=r"Invalid argument; CPUID leaf 0x7, subleaf 0x1, MSR"):
        control(FakeGuest()).set_cpu_policy(b"\xff" * 24, b"")


def test_tables_are_pinned_at_their_level() -> None:
    guest = FakeGuest(is_hvm=False, frames={0x40: bytearray(4096), 0x41: bytearray(4096)})
    control(guest).pin(pfns(4, 1), pfns(0x40, 0x41))
    assert guest.pinned == [(3, 0x40), (0, 0x41)]


def test_an_hvm_guest_is_suspended_from_outside() -> None:
    guest = FakeGuest()
    one = control(guest)
    one.suspend_from_outside()
    assert one.state().suspended


def test_the_m2p_is_found_in_pieces() -> None:
    xen = FakeXen()
    machine = Machine(Hypercalls(Libraries(xen, xen)))
    assert machine.max_mfn() == 0x3FF
    assert machine.m2p_mfns(0x3FF).tolist() == list(range(0x5000, 0x5200))
