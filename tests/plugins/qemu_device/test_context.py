"""EMULATOR_CONTEXT: the blob is kept as it came; what is in it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xsave import FieldError, GuestType, Phase, build_manager
from xsave.testing import HandlerSuite
from xsave_plugins import qemu_device
from xsave_plugins.qemu_device.context import SHOWN_BYTES, QemuContextHandler

GOLDEN = Path(__file__).parents[2] / "golden" / "records"
REAL = (GOLDEN / "xen.qemu.context.hvm.bin").read_bytes()
HEADER = bytes.fromhex("02000000 00000000")
QEVM_3 = b"QEVM\0\0\0\3"
HANDLER = QemuContextHandler()


class TestQemuContext(HandlerSuite):
    handler = HANDLER
    golden = GOLDEN
    bodies = (
        HEADER,
        HEADER + b"DUMMY",
        HEADER + QEVM_3 + b"\0",
        HEADER + b"QEVM\0\0\0\2older",
        bytes.fromhex("ff000000 01000000") + b"anything",
    )
    refused = (
        b"",
        HEADER[:7],
        HEADER + b"QEVM",
        HEADER + QEVM_3,
        HEADER + b"QEVM\0\0\0\1\0",
        HEADER + b"QEVM\0\0\0\4\0",
        HEADER + b"QEVM\3\0\0\0\0",
    )


def describe(blob: bytes) -> Any:
    return HANDLER.describe(HANDLER.decode(memoryview(HEADER + blob)), {})


def test_the_error_says_which_versions_there_are() -> None:
    with pytest.raises(FieldError, match="QEVM version: expected 2 or 3, got 7"):
        describe(b"QEVM\0\0\0\7\0")


def test_a_blob_of_another_kind_is_opaque() -> None:
    shown = describe(b"DUMMY")
    assert (shown["format"], shown["size_bytes"]) == ("unknown", 5)
    assert shown["data"] == b"DUMMY".hex()


def test_large_data_is_shown_in_part_with_its_whole_size() -> None:
    shown = describe(bytes(SHOWN_BYTES + 5))
    assert shown["size_bytes"] == SHOWN_BYTES + 5
    assert shown["data"] == bytes(SHOWN_BYTES).hex()
    section = b"\4\0\0\0\0\5timer" + bytes(8)
    (shown_section,) = describe(QEVM_3 + section + b"\1" * (SHOWN_BYTES + 7) + b"\0")["sections"]
    assert shown_section["data_size_bytes"] == SHOWN_BYTES + 7
    assert shown_section["data"] == "01" * SHOWN_BYTES


def test_the_sections_of_the_real_record_are_shown_with_their_data() -> None:
    shown = describe(REAL[8:])
    assert (shown["format"], shown["version"], shown["machine"]) == ("QEVM", 3, "")
    assert shown["remarks"] == []
    assert shown["size_bytes"] == len(REAL) - 8
    by_name = {(section["name"], section["instance_id"]): section for section in shown["sections"]}
    serial = by_name["serial", 0]
    assert serial["device"] == "serial port"
    assert len(serial["data"]) == 2 * serial["data_size_bytes"]
    assert all(section["device"] != "unknown" for section in shown["sections"])


def test_both_records_belong_to_hvm_guests_xenstore_data_first() -> None:
    """The devices also stand alone, where nothing says of what guest they are."""
    manager = build_manager([qemu_device])
    names = ["xen.qemu.xenstore_data", "xen.qemu.context"]
    assert [name for name in manager.record_order() if name.startswith("xen.")] == names
    for name in names:
        handler = manager.handlers.find(name)
        assert handler.phase is Phase.DEVICE_MODEL
        assert handler.mandatory
        assert GuestType.X86_HVM in handler.guest_types
        assert GuestType.X86_PV not in handler.guest_types
    assert qemu_device.PLUGIN.needs == {"xen"}
