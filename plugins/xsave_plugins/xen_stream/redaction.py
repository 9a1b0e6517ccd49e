"""libxl's configuration of a domain without names, paths, addresses and other texts."""

from __future__ import annotations

import json
from typing import Any

# Texts that are choices out of a few, which libxl needs to understand the rest.
CHOICES = frozenset({
    "backend", "bios", "device_model_version", "eax", "ebx", "ecx", "edx", "format", "hdtype",
    "kind", "model", "nictype",
    "on_crash", "on_poweroff", "on_reboot", "on_soft_reset", "on_watchdog", "sched", "serial",
    "timer_mode", "tsc_mode", "type", "vendor_device",
})  # fmt: skip
NO_UUID = "00000000-0000-0000-0000-000000000000"
NO_MAC = "00:00:00:00:00:00"
DEPTH_MAX = 64


def redact_config(config: bytes) -> bytes:
    """:returns: JSON with a final NUL, or nothing where it was no JSON."""
    try:
        found = json.loads(config.rstrip(b"\0"))
    except (ValueError, RecursionError):
        return b""
    return json.dumps(_clean("", found, DEPTH_MAX), separators=(",", ":")).encode() + b"\0"


def _clean(name: str, value: Any, depth: int) -> Any:
    if not depth:
        return None
    if isinstance(value, dict):
        return {key: _clean(key, item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(name, item, depth - 1) for item in value]
    if not isinstance(value, str) or name in CHOICES or value in ("True", "False", "default"):
        return value
    return {"uuid": NO_UUID, "mac": NO_MAC}.get(name, "")
