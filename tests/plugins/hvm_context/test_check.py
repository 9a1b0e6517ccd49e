"""What is refused across records."""

from __future__ import annotations

import pytest

from xsave import FieldError, GuestType, ImageInfo, Record, RecordType, StreamError, build_manager
from xsave_plugins import hvm_context
from xsave_plugins.hvm_context import HvmContextHandler, HvmParams

HANDLER = HvmContextHandler()
HVM = ImageInfo(format="libxc", guest_type=GuestType.X86_HVM)


def record(name):
    return Record(RecordType(name), b"")


@pytest.fixture
def check():
    return hvm_context.xsave_make_check(HVM)


@pytest.fixture
def state(golden):
    return HANDLER.decode(memoryview(golden("xen.hvm.context.hvm")))


CONTEXT = record("xen.hvm.context")
PARAMS = record("xen.hvm.params")
END = record("xen.libxc.end")
CHECKPOINT = record("xen.libxc.checkpoint")


@pytest.mark.parametrize("guest_type", [GuestType.X86_PV, GuestType.UNKNOWN])
def test_other_guests_are_not_watched(guest_type):
    assert hvm_context.xsave_make_check(ImageInfo(format="xl", guest_type=guest_type)) is None


@pytest.mark.parametrize("guest", ["pvh", "hvm"])
def test_real_context_is_accepted(check, golden, guest):
    check.see_record(CONTEXT, HANDLER.decode(memoryview(golden(f"xen.hvm.context.{guest}"))))
    check.see_record(PARAMS, HvmParams(()))
    check.see_record(END, None)
    check.finish()


def test_params_may_come_first(check, state):
    check.see_record(PARAMS, HvmParams(()))
    check.see_record(CONTEXT, state)
    check.see_record(END, None)
    check.finish()


@pytest.mark.parametrize("last", [END, CHECKPOINT], ids=["end", "checkpoint"])
def test_context_must_have_come_before_the_end_or_a_checkpoint(check, last):
    check.see_record(PARAMS, HvmParams(()))
    with pytest.raises(FieldError, match=r"after xen\.hvm\.context, got no xen\.hvm\.context"):
        check.see_record(last, None)


def test_stream_without_context_is_refused_when_it_is_over(check):
    check.see_record(record("xen.x86.tsc_info"), None)
    with pytest.raises(StreamError, match="ends without"):
        check.finish()


def test_context_of_an_earlier_round_is_enough(check, state):
    for one, decoded in ((CONTEXT, state), (CHECKPOINT, None), (CHECKPOINT, None), (END, None)):
        check.see_record(one, decoded)
    check.finish()


@pytest.mark.parametrize("late", [CONTEXT, PARAMS], ids=["context", "params"])
def test_nothing_of_the_guest_comes_after_the_end(check, state, late):
    check.see_record(CONTEXT, state)
    check.see_record(END, None)
    with pytest.raises(FieldError, match=r"before xen\.libxc\.end"):
        check.see_record(late, state)


def test_values_inside_the_context_are_looked_at(check, context, save_record):
    without_et = context(save_record(2, bytes(1032), instance=5))
    with pytest.raises(FieldError, match="save record CPU, instance 5: cr0"):
        check.see_record(CONTEXT, HANDLER.decode(memoryview(without_et)))


def test_plugin_offers_its_records_in_the_declared_order():
    manager = build_manager([hvm_context])
    assert manager.record_order() == ["xen.hvm.page_data", "xen.hvm.params", "xen.hvm.context"]
    assert hvm_context.PLUGIN.needs == {"xen", "x86", "qemu"}
    (check,) = manager.make_checks(HVM, frozenset({"hvm"}))
    check.see_pages(None)
    assert len(manager.make_checks(HVM, frozenset())) == 0
