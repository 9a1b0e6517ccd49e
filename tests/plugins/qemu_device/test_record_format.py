"""A device model's record that stands alone can be looked at, however it was cut out."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import xsave
from tests.plugins.legacy import build as o
from xsave.testing import MemoryPipe, MemorySink, MemorySource
from xsave_plugins.qemu_device.formats import QemuFormat, QemuRecordFormat

REAL = Path(__file__).parents[2] / "golden" / "records" / "xen.qemu.context.hvm.bin"
BLOB = REAL.read_bytes()[8:]
FORMAT = QemuRecordFormat()
SIZE = len(BLOB).to_bytes(4, "little")
FORMS = {
    "bare": BLOB,
    "to the end": b"QemuDeviceModelRecord" + BLOB,
    "of XenServer": b"QemuDeviceModelRecord\n" + len(BLOB).to_bytes(4, "big") + BLOB,
    "of xl": b"DeviceModelRecord0002" + SIZE + BLOB,
    "of Remus": b"RemusDeviceModelState" + SIZE + BLOB,
}


def read(data: bytes) -> list[xsave.Event]:
    return list(FORMAT.reader(MemorySource(data), xsave.ReadOptions()))


@pytest.mark.parametrize("form", FORMS)
def test_it_is_one_record_in_every_form(form: str) -> None:
    assert FORMAT.sniff(FORMS[form][:4096])
    assert not QemuFormat().sniff(FORMS[form][:4096])
    for source in (MemorySource(FORMS[form]), MemoryPipe(FORMS[form])):
        (record,) = FORMAT.reader(source, xsave.ReadOptions())
        assert isinstance(record, xsave.Record)
        assert record.name == "xen.qemu.context"
        assert bytes(record.body) == bytes(8) + BLOB


def test_a_real_one_is_verified_and_shown_field_by_field(manager: xsave.PluginManager) -> None:
    for data in FORMS.values():
        assert xsave.verify(io.BytesIO(data), manager=manager).source.format == "qemu-record"
    (item,) = xsave.inspect(io.BytesIO(BLOB), manager=manager).items
    fields = getattr(item, "fields", {})
    assert "QEMU 7.2" in fields["fits"]
    assert all(section["described_by"] and section["fields"] for section in fields["sections"])


@pytest.mark.parametrize("form", ["of XenServer", "of xl", "of Remus"])
def test_one_that_says_its_length_is_refused_when_cut_or_lengthened(form: str) -> None:
    for data in (FORMS[form][:-1], FORMS[form][:23], FORMS[form] + b"\0"):
        with pytest.raises(xsave.StreamError):
            read(data)
    huge = FORMS[form].replace(SIZE, b"\xff" * 4).replace(SIZE[::-1], b"\xff" * 4)
    with pytest.raises(xsave.FormatError, match="length of the device model's record"):
        read(huge)


def test_it_is_no_guest_to_be_written() -> None:
    with pytest.raises(xsave.UsageError, match="read, and not written"):
        FORMAT.writer(MemorySink(), xsave.ImageInfo("qemu-record"), xsave.WriteOptions())


def test_what_it_is_recognised_by_is_said() -> None:
    assert FORMAT.explain(BLOB).endswith("at 8 devices follow, and no memory")
    assert FORMAT.explain(FORMS["of xl"]) == "bytes 0-20 are DeviceModelRecord0002"
    assert FORMAT.sniff(o.QEVM)
