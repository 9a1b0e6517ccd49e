"""Plugin ``qemu``: what an HVM guest's device model (QEMU) leaves in a stream.

Two records, bodies as in the libxl stream (revision 2): what it kept in xenstore, and
its saved devices. See docs/formats/qemu.md.
"""

from __future__ import annotations

from collections.abc import Callable

from xsave import Handler, PluginInfo, hookimpl

from .context import QemuContextHandler
from .xenstore_data import XenstoreDataHandler

PLUGIN = PluginInfo(
    name="qemu",
    summary="the device model's records: xenstore data and saved devices",
    contract=(1, 1),
    needs=frozenset({"xen"}),
)


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    register(XenstoreDataHandler())
    register(QemuContextHandler())
