"""Plugin ``qemu``: what QEMU leaves in a stream, as a device model of Xen's and by itself.

For Xen there are two records of an HVM guest, bodies as in the libxl stream (revision 2): what it
kept in xenstore, and its saved devices. Of a guest of its own there are its blocks of RAM, their
pages, and its devices, as in the stream that ``migrate`` writes. See docs/formats/qemu.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xsave import Format, GuestType, Handler, ImageInfo, PluginInfo, hookimpl

from .configuration import CommandHandler, ConfigurationHandler
from .context import QemuContextHandler
from .devices import DevicesHandler
from .formats import FORMATS
from .ram_blocks import RamBlocksHandler, RamPagesHandler, RamSectionHandler
from .xenstore_data import XenstoreDataHandler

if TYPE_CHECKING:
    from xsave import StreamCheck

PLUGIN = PluginInfo(
    name="qemu",
    summary="QEMU: a device model's records, and whole guests of its own",
    contract=(1, 1),
    needs=frozenset({"xen"}),
)


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    register(XenstoreDataHandler())
    register(QemuContextHandler())
    register(ConfigurationHandler())
    register(RamBlocksHandler())
    register(RamSectionHandler())
    register(RamPagesHandler())
    register(CommandHandler())
    register(DevicesHandler())


@hookimpl
def xsave_register_formats(register: Callable[[Format], None]) -> None:
    for format_ in FORMATS:
        register(format_)


@hookimpl
def xsave_make_check(info: ImageInfo) -> StreamCheck | None:
    if info.guest_type is not GuestType.UNKNOWN:
        return None
    from .stream_check import QemuStreamCheck

    return QemuStreamCheck()
