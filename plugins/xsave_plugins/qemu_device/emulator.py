"""The eight bytes before every emulator record (libxl stream revision 2, EMULATOR_*)."""

from __future__ import annotations

from xsave import Layout, layout, u32

EMULATORS = {0: "unknown (converted legacy stream)", 1: "qemu-traditional", 2: "qemu"}


@layout
class EmulatorHeader(Layout):
    """Which device model the record belongs to. Xen's reader looks at neither field, so
    any value is accepted here."""

    emulator_id: int = u32(names=EMULATORS)
    index: int = u32()
