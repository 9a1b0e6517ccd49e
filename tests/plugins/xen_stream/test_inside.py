"""Where libxc's stream should be stands another one: an image that two xsave ends made."""

from __future__ import annotations

import io

import pytest

import xsave
from tests.plugins.xen_stream import build as b
from tests.plugins.xen_stream.streams import run
from xsave import AuthenticityError, DamageError, FormatError, TruncatedError
from xsave.testing import MemorySink
from xsave.testing.handler_suite import cut_sizes

ODD = b.Rec(b.UNKNOWN_OPTIONAL, b"odd", padding=b"\1\2\3\4\5")
DEVICE_MODEL = [b.emulator(b.XENSTORE_DATA, b"physmap/0/name\0video\0"), b.emulator(),
                b.Rec(b.LIBXL_END)]  # fmt: skip
HVM = b.libxc([*b.hvm(), ODD])
PV = b.libxc(b.pv())


def native(stream: bytes, manager: xsave.PluginManager, codec: str | None = "zstd:1") -> bytes:
    return run(stream, "native", manager, codec=codec)[0]


@pytest.fixture
def hvm(manager: xsave.PluginManager) -> bytes:
    return b.xl(b.libxl(native(HVM, manager), DEVICE_MODEL))


def test_it_goes_to_a_stock_image_and_not_a_byte_is_another(
    hvm: bytes, manager: xsave.PluginManager
) -> None:
    assert run(hvm, "xl", manager)[0] == b.xl(b.libxl(HVM, DEVICE_MODEL))
    pv = b.xl(b.libxl(native(PV, manager, codec=None)))
    assert run(pv, "xl", manager)[0] == b.xl(b.libxl(PV))


def test_it_goes_to_an_image_of_its_own_and_from_there_to_a_stock_one(
    hvm: bytes, manager: xsave.PluginManager
) -> None:
    alone, report = run(hvm, "native", manager, codec="lz4")
    assert report.source.details["inside"] == "native"
    assert run(alone, "xl", manager)[0] == b.xl(b.libxl(HVM, DEVICE_MODEL))


def test_it_is_read_from_a_pipe(hvm: bytes, manager: xsave.PluginManager) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.rest = memoryview(hvm)

        def readable(self) -> bool:
            return True

        def readinto(self, room: memoryview) -> int:  # type: ignore[override]
            size = min(len(room), 777, len(self.rest))
            room[:size] = self.rest[:size]
            self.rest = self.rest[size:]
            return size

    out = io.BytesIO()
    xsave.run(Pipe(), out, to="xl", manager=manager)
    assert out.getvalue() == b.xl(b.libxl(HVM, DEVICE_MODEL))


def test_who_looks_at_it_is_told_what_it_is(hvm: bytes, manager: xsave.PluginManager) -> None:
    found = xsave.identify(io.BytesIO(hvm), manager=manager)
    assert (found.name, found.fault) == ("xl", "")
    assert found.info is not None
    assert found.info.details["inside"] == "native"
    assert found.info.guest_type is xsave.GuestType.X86_HVM
    report = xsave.verify(io.BytesIO(hvm), manager=manager)
    assert report.records["xen.hvm.page_data"].count
    assert report.records["xen.libxl.end"].count == 1


def test_a_byte_that_changed_is_found_with_its_place_in_the_file(
    hvm: bytes, manager: xsave.PluginManager
) -> None:
    at = hvm.index(b"xsvp") + 40
    changed = hvm[:at] + bytes([hvm[at] ^ 1]) + hvm[at + 1 :]
    with pytest.raises(DamageError) as caught:
        xsave.verify(io.BytesIO(changed), manager=manager)
    assert caught.value.offset == at - 40


def test_cut_anywhere_it_is_refused(hvm: bytes, manager: xsave.PluginManager) -> None:
    for size_bytes in cut_sizes(len(hvm)):
        if size_bytes >= 64:  # else it is no xl file at all
            with pytest.raises((TruncatedError, FormatError)):
                xsave.verify(io.BytesIO(hvm[:size_bytes]), manager=manager)


def test_pieces_that_are_missing_are_found(
    hvm: bytes, manager: xsave.PluginManager
) -> None:  # fmt: skip
    """The seal holds inside, too."""
    other = native(b.libxc(b.hvm()), manager)
    mixed = native(HVM, manager)
    end = mixed.rindex(b"xsvp")
    forged = mixed[:end] + other[other.rindex(b"xsvp") :]
    with pytest.raises(AuthenticityError):
        xsave.verify(io.BytesIO(b.xl(b.libxl(forged, DEVICE_MODEL))), manager=manager)


@pytest.mark.parametrize("inner", [b"neither\0nor" * 20, b.xl(b.libxl(HVM)), b""])
def test_what_is_neither_is_refused_as_no_stream_of_libxcs(
    inner: bytes, manager: xsave.PluginManager
) -> None:
    with pytest.raises((FormatError, TruncatedError), match="libxc"):
        xsave.verify(io.BytesIO(b.xl(b.libxl(inner))), manager=manager)


def test_an_image_of_no_guest_of_xens_does_not_belong_there(
    manager: xsave.PluginManager,
) -> None:
    sink = MemorySink()
    info = xsave.ImageInfo("native", xsave.GuestType.UNKNOWN)
    writer = manager.formats.find("native").writer(sink, info, xsave.WriteOptions())
    writer.finish()
    with pytest.raises(xsave.UsageError, match="that of an unknown guest"):
        xsave.verify(io.BytesIO(b.xl(b.libxl(sink.data))), manager=manager)
