"""The order that libxc's restorer insists on."""

from __future__ import annotations

import re

import pytest

from tests.plugins.xen_stream import build as b
from tests.plugins.xen_stream.streams import names, read
from xsave import GuestType, RecordError
from xsave_plugins.xen_stream.order import LibxcOrder

STATIC_DATA_END = "xen.libxc.static_data_end"
PAGES = {"xen.pv.page_data": GuestType.X86_PV, "xen.hvm.page_data": GuestType.X86_HVM}
NEEDING = ["xen.pv.p2m_frames", *PAGES]


def order(version: int, *seen: str) -> LibxcOrder:
    made = LibxcOrder(version, GuestType.X86_PV)
    for number, name in enumerate(seen):
        made.see(name, number)
    return made


@pytest.mark.parametrize("name", NEEDING)
def test_version_3_needs_static_data_end_before_pages_and_p2m_frames(name: str) -> None:
    with pytest.raises(RecordError) as caught:
        order(3).see(name, 0x1234)
    assert (caught.value.record, caught.value.offset) == (name, 0x1234)
    assert "at offset 0x1234: expected STATIC_DATA_END before it" in str(caught.value)
    order(3, STATIC_DATA_END).see(name, 1)


@pytest.mark.parametrize("version", [2, 3])
def test_static_data_end_comes_once(version: int) -> None:
    with pytest.raises(RecordError, match=r"static_data_end at offset 0x99: expected once.*got"):
        order(version, STATIC_DATA_END).see(STATIC_DATA_END, 0x99)


@pytest.mark.parametrize("name", NEEDING)
def test_in_version_2_it_is_inferred_before_the_first_record_that_needs_it(name: str) -> None:
    seen = order(2, "xen.pv.info")
    assert not seen.static_data_ended
    seen.see(name, 1)
    assert seen.static_data_ended
    with pytest.raises(RecordError, match="expected once"):
        seen.see(STATIC_DATA_END, 2)


def test_in_version_2_an_explicit_one_is_accepted() -> None:
    assert order(2, STATIC_DATA_END, "xen.pv.p2m_frames").static_data_ended


def test_nothing_follows_end() -> None:
    with pytest.raises(RecordError, match=r"tsc_info at offset 0x7: expected nothing.*got"):
        order(3, STATIC_DATA_END, "xen.libxc.end").see("xen.x86.tsc_info", 7)


def test_independent_records_come_in_any_order_and_more_than_once() -> None:
    free = ["xen.x86.tsc_info", "xen.pv.vcpu_basic", "xen.pv.shared_info", "xen.libxc.verify"]
    order(3, *free, STATIC_DATA_END, *reversed(free), *free)


def test_p2m_frames_before_static_data_end_are_refused_in_a_stream() -> None:
    records = b.pv()
    records.remove(b.Rec(b.STATIC_DATA_END))
    data = b.libxc(records)
    at = len(b.libxc_header()) + len(b.join([b.pv_info(), *b.policies()]))
    message = f"xen.pv.p2m_frames at offset {at:#x}: expected STATIC_DATA_END"
    with pytest.raises(RecordError, match=re.escape(message)):
        read(data, "libxc")


def test_static_data_end_repeated_is_refused_in_a_stream() -> None:
    data = b.libxc([*b.hvm(), b.Rec(b.STATIC_DATA_END)])
    with pytest.raises(RecordError, match=r"static_data_end at offset 0x[0-9a-f]+: expected once"):
        read(data, "libxc")


def test_a_version_2_stream_with_an_explicit_static_data_end_is_read() -> None:
    records = [b.Rec(b.STATIC_DATA_END), *b.hvm(2)]
    assert names(read(b.libxc(records, version=2), "libxc")).count(STATIC_DATA_END) == 1
