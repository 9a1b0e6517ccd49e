"""EMULATOR_XENSTORE_DATA: what the device model keeps in xenstore.

Layout (libxl stream revision 2): the emulator header, then key NUL value NUL, repeated.
Keys are relative to the device model's directory of the domain.

Old QEMUs keep where they moved memory to: ``physmap/<hex>/start_addr``, ``.../size`` and
``.../name``, numbers in hex without 0x.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xsave import Buffer, FieldError, GuestType, Phase, RecordHandler, frozen, to_json

from .emulator import EmulatorHeader

if TYPE_CHECKING:
    from xsave import DeviceModelFacet, Domain

_PHYSMAP_KEY = re.compile(r"physmap/([0-9a-fA-F]{1,16})/(start_addr|size|name)")
_HEX = re.compile(r"[0-9a-fA-F]{1,16}")


@frozen
class XenstoreData:
    """:ivar pairs: key and value in the order of the record, both without their NUL."""

    emulator: EmulatorHeader
    pairs: tuple[tuple[bytes, bytes], ...]

    def physmap(self) -> dict[int, dict[str, int | str]]:
        """Memory that was moved, by its offset in QEMU's RAM: ``start_addr`` (address in
        the guest) and ``size`` in bytes, ``name`` of the memory block. Those that the record
        lacks are left out; a number that is none stays text."""
        blocks: dict[int, dict[str, int | str]] = {}
        for key, value in self.pairs:
            if found := _PHYSMAP_KEY.fullmatch(_text(key)):
                text = _text(value)
                is_number = found[2] != "name" and _HEX.fullmatch(text)
                blocks.setdefault(int(found[1], 16), {})[found[2]] = (
                    int(text, 16) if is_number else text
                )
        return blocks


class XenstoreDataHandler(RecordHandler[XenstoreData]):
    name = "xen.qemu.xenstore_data"
    summary = "what the device model keeps in xenstore"
    phase = Phase.DEVICE_MODEL
    facet = "device_model"
    before = frozenset({"xen.qemu.context"})
    guest_types = frozenset({GuestType.X86_HVM})

    def decode(self, body: memoryview) -> XenstoreData:
        """Refuses what Xen refuses (a missing NUL, an empty key, a key that starts with
        ``/``), and keys that climb out of the device model's directory."""
        emulator = EmulatorHeader.decode_at(body, 0)
        strings = bytes(body[EmulatorHeader.SIZE :]).split(b"\0")
        if strings.pop():
            raise FieldError(field="data", expected="a NUL at the end", got="none")
        if len(strings) % 2:
            raise FieldError(
                field="data", expected="a value for each key", got=f"{len(strings)} strings"
            )
        keys = strings[::2]
        for number, key in enumerate(keys):
            _check_key(number, key)
        return XenstoreData(emulator, tuple(zip(keys, strings[1::2], strict=True)))

    def encode(self, state: XenstoreData) -> Sequence[Buffer]:
        strings = [string for pair in state.pairs for string in pair]
        return (state.emulator.encode(), *(string + b"\0" for string in strings))

    def collect(self, domain: Domain) -> Iterator[XenstoreData]:
        """None where the device model keeps nothing there, which is usual."""
        model: DeviceModelFacet | None = domain.facet("device_model")
        if model is not None and (data := model.xenstore_data()):
            header = EmulatorHeader(emulator_id=model.emulator, index=0)
            yield self.decode(memoryview(header.encode() + data))

    def apply(self, domain: Domain, state: XenstoreData) -> None:
        model: DeviceModelFacet = domain.need_facet("device_model")
        _, *strings = self.encode(state)
        model.load_xenstore_data(state.emulator.emulator_id, b"".join(strings))

    def describe(self, state: XenstoreData, seen: Mapping[str, Any]) -> Any:
        return {
            "emulator": to_json(state.emulator),
            "pairs": [{"key": _text(key), "value": _text(value)} for key, value in state.pairs],
            "physmap": [{"offset": at, **block} for at, block in state.physmap().items()],
        }


def _check_key(number: int, key: bytes) -> None:
    field = f"key {number}"
    if not key:
        raise FieldError(field=field, expected="a key", got="an empty one")
    if key.startswith(b"/"):
        raise FieldError(field=field, expected="a key that is relative", got=repr(_text(key)))
    if b".." in key.split(b"/"):
        raise FieldError(
            field=field, expected="a key below the device model's directory", got=repr(_text(key))
        )


def _text(string: bytes) -> str:
    """Xenstore text is ASCII, but nothing here depends on it."""
    return string.decode("utf-8", "backslashreplace")
