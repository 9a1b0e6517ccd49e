"""EMULATOR_CONTEXT: the device model's saved devices.

Layout (libxl stream revision 2): the emulator header, then whatever the device model
wrote, which Xen hands back unseen. QEMU writes a ``QEVM`` blob; anything else is kept as
an opaque one (converted legacy streams may hold a stand-in).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field

from xsave import Buffer, FieldError, GuestType, Highlight, Phase, RecordHandler, frozen, to_json

from .device_names import DEVICES
from .emulator import EMULATORS, EmulatorHeader
from .grammar import MAGIC, MIN_BYTES, VERSIONS
from .savevm import Walk, walk
from .show import describe_walk

if TYPE_CHECKING:
    from xsave import DeviceModelFacet, Domain

# Of an opaque blob, that is shown as hex.
SHOWN_BYTES = 1 << 16


@frozen
class QemuContext:
    """:ivar blob: as it came, and as it will be written: sections are found in part by
    guessing, so they are only for looking at."""

    emulator: EmulatorHeader
    blob: bytes = field(repr=False)

    @property
    def is_qevm(self) -> bool:
        return self.blob.startswith(MAGIC)

    def walk(self) -> Walk | None:
        """The sections of a ``QEVM`` blob, found anew; None for any other."""
        return walk(self.blob) if self.is_qevm else None


class QemuContextHandler(RecordHandler[QemuContext]):
    name = "xen.qemu.context"
    summary = "the device model's saved devices"
    phase = Phase.DEVICE_MODEL
    facet = "device_model"
    after = frozenset({"xen.qemu.xenstore_data"})
    # where the record stands alone, nothing says of what guest it is
    guest_types = frozenset({GuestType.X86_HVM, GuestType.UNKNOWN})

    def decode(self, body: memoryview) -> QemuContext:
        """Refuses only what no QEMU ever wrote: a ``QEVM`` blob of another version, or one
        that is cut before its end mark."""
        emulator = EmulatorHeader.decode_at(body, 0)
        context = QemuContext(emulator, bytes(body[EmulatorHeader.SIZE :]))
        if context.is_qevm:
            _check(context.blob)
        return context

    def encode(self, state: QemuContext) -> Sequence[Buffer]:
        return (state.emulator.encode(), state.blob)

    def collect(self, domain: Domain) -> Iterator[QemuContext]:
        """One, of a domain that has a device model."""
        model: DeviceModelFacet | None = domain.facet("device_model")
        if model is not None:
            header = EmulatorHeader(emulator_id=model.emulator, index=0)
            yield QemuContext(header, model.state())

    def apply(self, domain: Domain, state: QemuContext) -> None:
        model: DeviceModelFacet = domain.need_facet("device_model")
        model.load(state.emulator.emulator_id, state.blob)

    def highlights(self, state: QemuContext, seen: Mapping[str, Any]) -> Iterator[Highlight]:
        walked = state.walk()
        if walked is None:
            yield Highlight("needs", "device model", "one that understands an unknown blob")
            return
        yield Highlight("needs", "device model", _describe_model(state.emulator, walked))
        for section in walked.sections:
            about = DEVICES.get(section.name, "unknown")
            name = section.name + (f" #{section.instance_id}" if section.instance_id else "")
            yield Highlight("devices", name, f"{about}; version {section.version_id}")

    def describe(self, state: QemuContext, seen: Mapping[str, Any]) -> Any:
        shown: dict[str, Any] = {
            "emulator": to_json(state.emulator),
            "size_bytes": len(state.blob),
        }
        walked = state.walk()
        if walked is None:
            return {**shown, "format": "unknown", "data": state.blob[:SHOWN_BYTES].hex()}
        return {
            **shown,
            "format": "QEVM",
            "version": walked.version,
            "machine": walked.machine,
            **describe_walk(walked, state.blob),
        }


def _describe_model(emulator: EmulatorHeader, walked: Walk) -> str:
    machine = f", machine {walked.machine}" if walked.machine else ""
    kind = EMULATORS.get(emulator.emulator_id, "of an unknown kind")
    return f"{kind}{machine}, with {len(walked.sections)} sections of state"


def _check(blob: bytes) -> None:
    if len(blob) < MIN_BYTES:
        raise FieldError(
            field="QEVM blob", expected=f"at least {MIN_BYTES} bytes", got=f"{len(blob)} bytes"
        )
    version = int.from_bytes(blob[4:8], "big")
    if version not in VERSIONS:
        raise FieldError(field="QEVM version", expected="2 or 3", got=str(version))
