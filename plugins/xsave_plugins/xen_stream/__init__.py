"""Xen's own framing: the xl file, the libxl stream, the libxc stream, one in the other.

``framing.py`` has the numbers and header layouts, ``reader.py`` and ``writer.py`` mirror
each other, ``formats.py`` names the nestings, ``records.py`` has the handlers of the
records that frame a stream. What is inside the other records belongs to other plugins.

Sources: libxc migration stream specification, revision 3; libxl migration stream
specification, revision 2; checked against images of Xen 4.17 (docs/formats/xen.md).
"""

from __future__ import annotations

from collections.abc import Callable

from xsave import Format, Handler, PluginInfo, hookimpl

PLUGIN = PluginInfo(
    name="xen",
    summary="Xen's stream framing: xl, libxl and libxc formats",
    contract=(1, 1),
)


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    from .records import HANDLERS

    for handler in HANDLERS:
        register(handler)


@hookimpl
def xsave_register_formats(register: Callable[[Format], None]) -> None:
    from .formats import FORMATS

    for format_ in FORMATS:
        register(format_)
