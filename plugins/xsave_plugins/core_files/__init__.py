"""Plugin ``core``: core files of a guest, which debuggers read.

A save image and a core file hold the same memory. Here a core file is one more format, so that
whatever can be read can be handed to a debugger, and what a debugger reads can be inspected.
See docs/formats/core.md.
"""

from __future__ import annotations

from collections.abc import Callable

from xsave import Format, Handler, PluginInfo, hookimpl

from .formats import VmcoreFormat, XenCoreFormat
from .records import CorePagesHandler, NotesHandler
from .xen_core_records import HANDLERS

PLUGIN = PluginInfo(
    name="core",
    summary="core files for debuggers: ELF vmcores, and those of Xen's own",
    contract=(1, 1),
)


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    register(NotesHandler())
    register(CorePagesHandler())
    for handler in HANDLERS:
        register(handler)


@hookimpl
def xsave_register_formats(register: Callable[[Format], None]) -> None:
    register(VmcoreFormat())
    register(XenCoreFormat())
