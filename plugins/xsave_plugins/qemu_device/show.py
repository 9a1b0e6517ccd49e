"""A walk through saved devices, as JSON values: section by section, field by field."""

from __future__ import annotations

from typing import Any

from .device_names import DEVICES
from .savevm import OWN, Section, Walk

# Of one section that is shown as hex.
SHOWN_BYTES = 1 << 16


def describe_walk(walked: Walk, blob: bytes) -> dict[str, Any]:
    """``fits`` are versions of QEMU whose descriptions fit the whole; of each section that one
    fits, ``fields`` are its values and ``described_by`` says by whose description."""
    return {
        "fits": [f"QEMU {version}" for version in walked.fits],
        "sections": [_describe_section(one, walked, blob) for one in walked.sections],
        "remarks": list(walked.remarks),
    }


def _describe_section(section: Section, walked: Walk, blob: bytes) -> dict[str, Any]:
    start = section.data_offset
    shown = {
        "kind": section.kind,
        "section_id": section.section_id,
        "path": section.path,
        "name": section.name,
        "device": DEVICES.get(section.name, "unknown"),
        "instance_id": section.instance_id,
        "version_id": section.version_id,
        "offset": section.offset,
        "data_offset": start,
        "data_size_bytes": section.data_size_bytes,
        "found_by": section.found_by,
        "data": blob[start : start + min(section.data_size_bytes, SHOWN_BYTES)].hex(),
        "described_by": "",
    }
    if not section.shapes:
        return shown
    whose = walked.fits[-1] if walked.fits else next(iter(section.shapes))
    shown["described_by"] = whose if whose == OWN else f"QEMU {whose}"
    return {**shown, "fields": section.decode(blob, whose)}
