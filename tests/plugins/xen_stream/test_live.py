"""A domain becomes a Xen stream: marks come from it, headers from the writer."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

import xsave
from tests.plugins.fake_domain import (
    FakeDeviceModel,
    FakeDomain,
    FakeHvm,
    FakePv,
    FakeX86,
    apply,
    bodies,
    collect,
)
from tests.plugins.xen_stream import build as b
from tests.plugins.xen_stream.streams import names, read, run, write
from xsave import (
    Closes,
    EmptyHandler,
    GuestType,
    ImageInfo,
    PageBatch,
    Phase,
    PluginError,
    RecordHandler,
)
from xsave_plugins.xen_stream import records as r

if TYPE_CHECKING:
    from xsave import Event

ENDS = {r.LibxcEndHandler, r.LibxlEndHandler}
CHECKPOINT_MARKS = {r.CheckpointHandler, r.CheckpointEndHandler}
MARKS = {r.StaticDataEndHandler, *ENDS, *CHECKPOINT_MARKS}
TSC = (0, 2_000_000, 12345, 1)  # as build.tsc_info
PLAIN_XL_HEADER = b.xl_header(struct.pack("<I", 0), flags=b.XL_V2)
GUESTS = [GuestType.X86_PV, GuestType.X86_HVM]
RECORD_HANDLERS = [handler for handler in r.HANDLERS if isinstance(handler, RecordHandler)]


@pytest.mark.parametrize("guest_type", GUESTS)
def test_a_domain_has_marks_and_no_headers(guest_type: GuestType) -> None:
    domain = FakeDomain(guest_type, 4)
    for handler in RECORD_HANDLERS:
        assert bodies(handler, domain) == ([b""] if type(handler) in MARKS else [])


def test_marks_say_what_is_complete_at_their_place() -> None:
    closing = {type(handler): handler.closes for handler in RECORD_HANDLERS if handler.closes}
    assert closing == {
        **dict.fromkeys(CHECKPOINT_MARKS, Closes.CHECKPOINT), **dict.fromkeys(ENDS, Closes.STREAM)
    }  # fmt: skip


def test_a_guest_that_is_not_of_xens_kinds_has_none() -> None:
    domain = FakeDomain(GuestType.UNKNOWN, 4)
    assert not any(bodies(handler, domain) for handler in RECORD_HANDLERS)


@pytest.mark.parametrize("kept", [b.CONFIG, b.CONFIG.rstrip(b"\0")], ids=["NUL", "no NUL"])
def test_the_configuration_that_its_toolstack_keeps_is_xls_header(kept: bytes) -> None:
    class Toolstack:
        def config(self) -> bytes:
            return kept

    domain = FakeDomain(GuestType.X86_HVM, 4, facets={"xl": Toolstack()})
    assert bodies(r.XlHeaderHandler(), domain) == [b.xl_header()]


def test_a_guest_whose_configuration_nobody_keeps_has_no_header() -> None:
    class Toolstack:
        def config(self) -> bytes:
            return b""

    domain = FakeDomain(GuestType.X86_HVM, 4, facets={"xl": Toolstack()})
    assert bodies(r.XlHeaderHandler(), domain) == []


def test_headers_do_nothing_to_a_domain() -> None:
    domain = FakeDomain(GuestType.X86_HVM, 4)
    apply(r.XlHeaderHandler(), domain, b.xl_header())
    apply(r.LibxlHeaderHandler(), domain, b.libxl_header())
    apply(r.LibxcHeaderHandler(), domain, b.libxc_header())
    assert not domain.told


def test_marks_do_nothing_to_a_domain() -> None:
    domain = FakeDomain(GuestType.X86_HVM, 4)
    for handler in r.HANDLERS:
        if isinstance(handler, EmptyHandler):
            handler.apply(domain, None)
    assert not domain.told


def test_what_two_ends_tell_each_other_is_no_part_of_a_guest() -> None:
    """Restorers refuse these in an image (COLO)."""
    for handler in (r.CheckpointStateHandler(), r.CheckpointDirtyPfnListHandler()):
        with pytest.raises(PluginError, match="cannot be restored into a domain"):
            handler.apply(FakeDomain(GuestType.X86_HVM, 4), None)  # type: ignore[arg-type]  # not looked at


def test_each_end_is_the_last_of_its_part(manager: xsave.PluginManager) -> None:
    order = manager.record_order()
    handlers = manager.handlers.items()
    state = [name for name in order if handlers[name].phase is Phase.END_OF_CHECKPOINT]
    assert state[-1] == "xen.libxc.end"
    assert order[-1] == "xen.libxl.end"
    static = [name for name in order if handlers[name].phase is Phase.STATIC_DATA]
    assert static[-1] == "xen.libxc.static_data_end"


def hvm_domain(*, with_device_model: bool = True) -> FakeDomain:
    """What ``build.hvm`` describes, without memory."""
    records = {rec.number: rec.body for rec in b.hvm()}
    facets = {
        "x86": FakeX86(TSC, records[b.CPUID_POLICY], records[b.MSR_POLICY]),
        "hvm": FakeHvm({1: 0xFEFFC, 5: 0xFEFFE}, records[b.HVM_CONTEXT]),
    }
    if with_device_model:
        facets["device_model"] = FakeDeviceModel(2, b"device model", b"key\0value\0")
    return FakeDomain(GuestType.X86_HVM, 4, facets=facets)


def pv_domain() -> FakeDomain:
    domain = FakeDomain(GuestType.X86_PV, 7)
    pv = FakePv(domain, 8, p2m_pages=np.array([0], np.uint64))
    context = bytearray(5168)
    struct.pack_into("<Q", context, 616, domain.mfn(1))
    struct.pack_into("<Q", context, 5008, domain.mfn(2) << 12)
    pv.states = {
        (0, "basic"): bytes(context),
        (0, "extended"): b.golden("xen.pv.vcpu_extended.pv")[8:],
        (0, "xsave"): b.golden("xen.pv.vcpu_xsave.pv")[8:],
    }
    x86 = FakeX86(TSC, *(rec.body for rec in b.policies()))
    domain.facets.update(pv=pv, x86=x86)
    return domain


def events(domain: FakeDomain, manager: xsave.PluginManager) -> Iterator[Event]:
    """Records in the order that the handlers declare, without the marks of checkpoints, and the
    pages of ``build``."""
    handlers = manager.handlers.items()
    of_checkpoints = {handler.name for handler in CHECKPOINT_MARKS}
    image = b.pv() if domain.info.guest_type is GuestType.X86_PV else b.hvm()
    pages = [event for event in read(b.libxc(image), "libxc") if isinstance(event, PageBatch)]
    for name in manager.record_order():
        if name not in of_checkpoints:
            yield from collect([handlers[name]], domain)
        yield from (batch for batch in pages if batch.name == name)


def info(domain: FakeDomain) -> ImageInfo:
    return ImageInfo("domain", domain.info.guest_type, xen_version="4.17", word_size=8)


def expected_hvm() -> bytes:
    """``build.hvm``, with the parameters before the context: as declared."""
    tsc, context, params = b.hvm_state()
    mark = b.Rec(b.STATIC_DATA_END)
    return b.libxc([*b.policies(), mark, *b.hvm_memory(), params, tsc, context])


def test_an_hvm_domain_becomes_an_xl_file(manager: xsave.PluginManager) -> None:
    domain = hvm_domain()
    out, left_out = write(events(domain, manager), info(domain), "xl")
    after = [b.emulator(b.XENSTORE_DATA, b"key\0value\0"), b.emulator(), b.Rec(b.LIBXL_END)]
    assert out == b.xl(b.libxl(expected_hvm(), after), PLAIN_XL_HEADER)
    assert not left_out


def test_a_pv_domain_becomes_an_xl_file(manager: xsave.PluginManager) -> None:
    domain = pv_domain()
    out, left_out = write(events(domain, manager), info(domain), "xl")
    assert out == b.xl(b.libxl(b.libxc(b.pv())), PLAIN_XL_HEADER)
    assert not left_out


@pytest.mark.parametrize("make", [pv_domain, hvm_domain])
@pytest.mark.parametrize("name", ["xl", "libxl"])
def test_what_a_domain_becomes_passes_every_check(
    make: Callable[[], FakeDomain], name: str, manager: xsave.PluginManager
) -> None:
    domain = make()
    out, _ = write(events(domain, manager), info(domain), name)
    again, report = run(out, name, manager)
    assert again == out
    assert not report.left_out


def test_bare_libxc_drops_libxls_end_silently(manager: xsave.PluginManager) -> None:
    domain = hvm_domain(with_device_model=False)
    assert write(events(domain, manager), info(domain), "libxc") == (expected_hvm(), [])
    assert write(events(pv_domain(), manager), info(pv_domain()), "libxc") == (b.libxc(b.pv()), [])


def test_version_2_goes_without_policies_and_mark(manager: xsave.PluginManager) -> None:
    domain = pv_domain()
    out, left_out = write(events(domain, manager), info(domain), "libxc-v2")
    assert left_out == ["xen.x86.cpuid_policy", "xen.x86.msr_policy"]
    assert out == b.libxc(b.pv(2), version=2)


def test_the_ends_stand_where_the_nesting_has_them(manager: xsave.PluginManager) -> None:
    domain = hvm_domain()
    out, _ = write(events(domain, manager), info(domain), "xl")
    assert names(read(out, "xl"))[-4:] == [
        "xen.libxc.end", "xen.qemu.xenstore_data", "xen.qemu.context", "xen.libxl.end",
    ]  # fmt: skip
