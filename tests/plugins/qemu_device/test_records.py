"""The records of a QEMU guest: bodies as in the stream, each field with its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xsave
from tests.plugins.qemu_device import streams as q
from xsave.testing import HandlerSuite
from xsave_plugins.qemu_device.configuration import CommandHandler, ConfigurationHandler
from xsave_plugins.qemu_device.devices import DevicesHandler
from xsave_plugins.qemu_device.ram_blocks import (
    RamBlocksHandler,
    RamPagesHandler,
    RamSectionHandler,
)
from xsave_plugins.qemu_device.stream_check import QemuStreamCheck

UUID = bytes(range(16))
FULL = q.configuration(
    q.subsection(b"configuration/target-page-bits", q.u32(12)),
    q.capabilities(b"events", b"multifd"),
    q.subsection(b"configuration/uuid", UUID),
)


class TestConfiguration(HandlerSuite):
    handler = ConfigurationHandler()
    bodies = (q.configuration(), FULL, q.configuration(machine=b""))
    refused = (b"", q.configuration() + b"\0", q.configuration(q.subsection(b"x", b"")))


class TestCommand(HandlerSuite):
    handler = CommandHandler()
    bodies = (q.command(1), q.command(2, b"ping"), q.command(11))
    refused = (b"", q.command(3, bytes(9)), q.command(8), q.command(11) + b"\0")


class TestRamBlocks(HandlerSuite):
    handler = RamBlocksHandler()
    bodies = (q.blocks(), q.blocks(footers=False), q.blocks([]))
    refused = (b"", q.blocks() + b"\0", q.blocks([(b"a", 0)]), q.blocks([(b"a", 512)]))


class TestRamSection(HandlerSuite):
    handler = RamSectionHandler()
    bodies = (b"\2\0\0\0\2", b"\3\0\0\1\0")
    refused = (b"", b"\1\0\0\0\2", b"\2\0\0\0\2\0")


class TestDevices(HandlerSuite):
    handler = DevicesHandler()
    bodies = (
        q.devices(), q.devices(described=False), q.devices(footers=False),
        q.devices(footers=False, described=False), b"\0",
    )  # fmt: skip
    refused = (b"", q.devices()[:-1], q.devices(described=False)[:-1], b"\0" + q.devices())


def test_the_configuration_is_shown_and_loses_its_uuid_when_it_is_redacted() -> None:
    handler = ConfigurationHandler()
    state = handler.decode(memoryview(FULL))
    assert handler.describe(state, {}) == {
        "machine": "pc-i440fx-7.2", "page_bits": 12, "capabilities": ["events", "multifd"],
        "uuid": UUID.hex(),
    }  # fmt: skip
    redacted = b"".join(handler.encode(handler.redact(state, {})))
    assert UUID not in redacted
    assert handler.decode(memoryview(redacted)).uuid == bytes(16)
    bare = handler.decode(memoryview(q.configuration()))
    assert handler.redact(bare, {}) == bare


@pytest.mark.parametrize("footers", [True, False])
@pytest.mark.parametrize("described", [True, False])
def test_redacted_devices_keep_their_sections_and_lose_their_data(
    footers: bool, described: bool
) -> None:
    handler = DevicesHandler()
    state = handler.decode(memoryview(q.devices(footers=footers, described=described)))
    redacted = handler.decode(memoryview(b"".join(handler.encode(handler.redact(state, {})))))
    assert len(redacted.body) == len(state.body)
    assert q.TIMER.data not in redacted.body and q.SERIAL.data not in redacted.body
    kept = [(one.name, one.data_size_bytes) for one in redacted.walk().sections]
    assert kept == [("timer", 24), ("toy", 8)]


def test_pages_of_a_guest_are_ordinary_ones() -> None:
    def batch(*entries: int) -> xsave.PageBatch:
        kind = xsave.RecordType("qemu.ram.page_data")
        return xsave.PageBatch(kind, np.array(entries, np.uint64), None, len(entries))

    RamPagesHandler().check(batch(0, 5))
    with pytest.raises(xsave.FieldError, match="type of pfn 0x5: expected 0, got 15"):
        RamPagesHandler().check(batch(0, 0xF << 60 | 5))


BODIES: dict[str, tuple[xsave.RecordHandler[Any], bytes]] = {
    "blocks": (RamBlocksHandler(), q.blocks()),
    "part": (RamSectionHandler(), b"\2\0\0\0\2"),
    "end": (RamSectionHandler(), b"\3\0\0\0\2"),
    "other": (RamSectionHandler(), b"\2\0\0\0\7"),
    "devices": (DevicesHandler(), q.devices()),
}


def see(*names: str | int) -> None:
    """Records by name, pages by pfn."""
    check = QemuStreamCheck()
    for name in names:
        if isinstance(name, int):
            pfns = np.array([name], np.uint64)
            kind = xsave.RecordType("qemu.ram.page_data")
            check.see_pages(xsave.PageBatch(kind, pfns, None, 1))
            continue
        handler, body = BODIES[name]
        record = xsave.Record(xsave.RecordType(handler.name), body)
        check.see_record(record, handler.decode(memoryview(body)))
    check.finish()


def test_a_whole_guest_and_a_stream_of_another_kind_pass_the_check() -> None:
    see("blocks", "part", 0, 8, "end", "devices")
    see()
    check = QemuStreamCheck()
    check.see_record(xsave.Record(xsave.RecordType("acme.thing"), b""), None)
    check.finish()


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (("part",), "the blocks before"),
        ((0,), "a section of ram before"),
        (("blocks", 0), "a section of ram before"),
        (("blocks", "blocks"), "one a stream"),
        (("blocks", "other"), "expected number 2, got number 7"),
        (("blocks", "part", 9), "pfn: expected at most 0x8, the last one of block 'rom', got 0x9"),
        (("blocks", "end", "part"), "nothing after the last"),
        (("blocks", "part", "devices"), "the last section of ram before"),
        (("devices",), "the last section of ram before"),
        (("blocks", "end", 0), "the last of it is qemu.ram.page_data, and not qemu.devices"),
        (("blocks",), "the last of it is qemu.ram.blocks"),
    ],
)
def test_a_guest_that_is_not_whole_or_mixed_up_is_refused(
    seen: tuple[str | int, ...], words: str
) -> None:
    with pytest.raises(xsave.StreamError, match=words):
        see(*seen)
