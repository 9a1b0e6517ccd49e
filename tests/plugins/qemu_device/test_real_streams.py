"""Streams that QEMU wrote, of three versions (tests/data), come back to the byte."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import xsave
from xsave.testing import MemoryPipe, MemorySource
from xsave_plugins.codecs import zstd
from xsave_plugins.qemu_device.formats import QemuFormat
from xsave_plugins.qemu_device.ram_blocks import RamBlocksHandler
from xsave_plugins.qemu_device.savevm import OWN, walk_devices

DATA = Path(__file__).parents[2] / "data"
VERSIONS = ("5.2", "7.2", "10.0")
NUMBER = 0x500  # address of what the guest counts with


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def stream(version: str) -> bytes:
    packed = (DATA / f"qemu{version}.qemu.zst").read_bytes()
    return bytes(zstd._library().decompress(packed))


def test_it_becomes_a_native_image_and_is_the_same_again(
    stream: bytes, version: str, manager: xsave.PluginManager
) -> None:
    native, back = io.BytesIO(), io.BytesIO()
    report = xsave.run(io.BytesIO(stream), native, codec="zstd:1", manager=manager)
    assert report.source.details["machine"] == f"pc-i440fx-{version}"
    assert report.remarks == []
    assert xsave.verify(io.BytesIO(native.getvalue()), manager=manager).nr_pages > 512
    xsave.run(io.BytesIO(native.getvalue()), back, to="qemu", manager=manager)
    assert back.getvalue() == stream


def test_its_memory_is_where_the_guest_has_it(stream: bytes, tmp_path: Path) -> None:
    native = tmp_path / "guest.xsv"
    xsave.run(io.BytesIO(stream), native)
    number = int.from_bytes(_page(native, NUMBER >> 12)[NUMBER : NUMBER + 4], "little")
    assert number >= 20
    # it was stopped before, in, or after filling the page of that number
    filled = _page(native, 0x20 + (number - 1 & 15))
    assert filled == (number - 1).to_bytes(4, "little") * 1024
    (blocks,) = (
        RamBlocksHandler().decode(memoryview(event.body))
        for event in QemuFormat().reader(MemoryPipe(stream), xsave.ReadOptions())
        if isinstance(event, xsave.Record) and event.name == "qemu.ram.blocks"
    )
    assert (blocks.blocks[0].name, blocks.blocks[0].size_bytes) == ("pc.ram", 2 << 20)
    (bios,) = (one for one in blocks.blocks if one.name == "pc.bios")
    firmware = _page(native, bios.first_pfn + bios.nr_pages - 1)
    assert firmware[-16:].startswith(b"\xea\0\0\0\xf0")  # where the processor starts


def _page(image: Path, pfn: int) -> bytes:
    _, page = xsave.read_pfns(image, [pfn])[pfn]
    assert page is not None
    return bytes(page.tobytes())


def test_every_device_is_decoded_by_its_description_and_as_well_without(
    stream: bytes, version: str
) -> None:
    *_, last = QemuFormat().reader(MemorySource(stream), xsave.ReadOptions())
    assert isinstance(last, xsave.Record)
    body = bytes(last.body)
    described = walk_devices(body)
    assert described.is_described and described.is_proved and described.end is not None
    assert len(described.sections) > 20
    bare = walk_devices(body[: described.end + 1])
    assert version in bare.fits
    for one, other in zip(described.sections, bare.sections, strict=True):
        assert one.decode(body, OWN) == other.decode(body, version), one.name


def test_one_that_was_cut_is_refused_wherever_it_was(stream: bytes) -> None:
    for size in range(1, len(stream), len(stream) // 40):
        with pytest.raises(xsave.StreamError):
            list(QemuFormat().reader(MemorySource(stream[:size]), xsave.ReadOptions()))
