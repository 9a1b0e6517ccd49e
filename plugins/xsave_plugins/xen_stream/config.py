"""libxl's configuration of a domain, as far as somebody asks what the guest needs.

JSON as libxl writes it; whatever is not of that shape says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from xsave import Highlight

_DEVICES = {"disks": "disk", "nics": "network card", "pcidevs": "PCI device",
            "usbdevs": "USB device", "vtpms": "TPM", "p9s": "shared folder",
            "vfbs": "frame buffer", "channels": "channel"}  # fmt: skip
_TOLD = ("vdev", "pdev_path", "mac", "bridge", "backend_domname", "tag", "path", "name")


def config_highlights(config: bytes) -> Iterator[Highlight]:
    try:
        found = _object(json.loads(config.rstrip(b"\0")))
    except (ValueError, RecursionError):
        return
    build = _object(found.get("b_info"))
    if isinstance(kib := build.get("max_memkb"), int):
        yield Highlight("needs", "memory", f"{kib // 1024} MiB, as its configuration says")
    if isinstance(vcpus := build.get("max_vcpus"), int):
        yield Highlight("needs", "vcpus", str(vcpus))
    for key, what in _DEVICES.items():
        devices = found.get(key)
        for number, device in enumerate(devices if isinstance(devices, list) else ()):
            given = _object(device)
            told = [f"{name} {given[name]}" for name in _TOLD if given.get(name)]
            text = ", ".join(told) or "as its configuration says"
            yield Highlight("needs", f"{what} {number}", text)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
