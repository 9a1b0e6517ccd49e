"""The descriptions that the plugin has: small, whole, and of real streams."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

from xsave_plugins import qemu_device
from xsave_plugins.qemu_device.known import Catalogue, catalogue, known_descriptions
from xsave_plugins.qemu_device.shape import Field, Shape, to_data

ALWAYS = {"timer", "cpu_common", "cpu", "apic", "I440FX", "PIIX3", "serial", "fdc", "hpet", "ide",
          "ioapic", "mc146818rtc", "piix4_pm", "vga", "cirrus_vga", "e1000", "rtl8139", "PCIBUS",
          "usb-ptr", "uhci", "platform"}  # fmt: skip


def files() -> list[Any]:
    return list(importlib.resources.files(qemu_device).joinpath("descriptions").iterdir())


def test_the_files_are_small() -> None:
    sizes = {file.name: len(file.read_bytes()) for file in files()}
    assert len(sizes) >= 3
    assert sum(sizes.values()) < 64 << 10


def test_versions_are_in_order_and_each_knows_what_a_guest_of_xens_has() -> None:
    known = known_descriptions()
    assert known.versions == ("5.2", "7.2", "10.0")
    for version in known.versions:
        names = {
            name
            for (name, _), shapes in known.devices.items()
            if version in {one.qemu for one in shapes}
        }
        assert names >= ALWAYS
        assert "ram" not in names


def test_it_is_read_once_and_only_when_asked_for() -> None:
    assert known_descriptions() is known_descriptions()


def test_newer_versions_are_tried_first() -> None:
    def told(version: str, size: int) -> bytes:
        shape = to_data(Shape((Field("a", "uint32", size),)))
        return json.dumps({"qemu": version, "devices": [["toy", 1, [shape]]]}).encode()

    found: Catalogue = catalogue([told("1.0", 1), told("2.0", 2)])
    assert found.versions == ("1.0", "2.0")
    assert [one.qemu for one in found.shapes("toy", 1)] == ["2.0", "1.0"]
    assert found.shapes("toy", 2) == ()
