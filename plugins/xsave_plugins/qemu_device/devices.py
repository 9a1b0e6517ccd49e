"""What follows the memory in a migration stream: the devices, one section each.

Their data has no lengths, and only a QEMU that has the devices can say what it means: it is
kept as it came, and shown section by section as far as it is described.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import field

from xsave import Buffer, Domain, FieldError, Highlight, Phase, RecordHandler, Redaction, frozen

from .configuration import QEMU_GUESTS, no_domain
from .device_names import DEVICES as DEVICE_NAMES
from .savevm import Walk, walk_devices
from .show import describe_walk

DEVICES = "qemu.devices"
MAX_DEVICES_BYTES = 64 << 20  # QEMU's own are some 100 KB


@frozen
class Devices:
    """:ivar body: as it came, up to the end of the stream."""

    body: bytes = field(repr=False)

    def walk(self) -> Walk:
        return walk_devices(self.body)


class DevicesHandler(RecordHandler[Devices]):
    """Body: all that follows the last section of RAM: sections of devices, the end mark, the
    description."""

    name = DEVICES
    summary = "the devices of a QEMU guest, its processors among them"
    phase = Phase.DEVICE_MODEL
    guest_types = QEMU_GUESTS
    redaction = Redaction.CLEANED

    def decode(self, body: memoryview) -> Devices:
        """Refuses what has no end mark where the last section is over."""
        if not len(body):
            raise FieldError(field="devices", expected="sections and an end mark", got="nothing")
        found = Devices(bytes(body))
        walked = found.walk()
        if walked.end is None or walked.has_gaps:
            last = walked.sections[-1] if walked.sections else None
            where = "" if last is None else f" behind section {last.name} at {last.offset:#x}"
            raise FieldError(
                field="devices", expected=f"sections and an end mark{where}",
                got="something else, or the end of the stream",
            )  # fmt: skip
        return found

    def encode(self, state: Devices) -> Sequence[Buffer]:
        return (state.body,)

    def apply(self, domain: Domain, state: Devices) -> None:
        raise no_domain()

    def redact(self, state: Devices, seen: Mapping[str, Any]) -> Devices:
        """Which devices there are, of what versions and sizes; their data is zeroes."""
        body = bytearray(state.body)
        for section in state.walk().sections:
            end = section.data_offset + section.data_size_bytes
            body[section.data_offset : end] = bytes(section.data_size_bytes)
        return Devices(bytes(body))

    def highlights(self, state: Devices, seen: Mapping[str, Any]) -> Iterator[Highlight]:
        for section in state.walk().sections:
            about = DEVICE_NAMES.get(section.name, "unknown")
            name = section.name + (f" #{section.instance_id}" if section.instance_id else "")
            yield Highlight("devices", name, f"{about}; version {section.version_id}")

    def describe(self, state: Devices, seen: Mapping[str, Any]) -> Any:
        walked = state.walk()
        return {
            "size_bytes": len(state.body),
            "is_described": walked.is_described,
            **describe_walk(walked, state.body),
        }
