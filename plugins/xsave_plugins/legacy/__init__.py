"""Plugin ``legacy``: what Xen wrote before 4.6, read and never written.

Fenced off: nothing else needs it, and the day nobody has such images any more this folder
goes as a whole. What it reads becomes the records of the streams of today
(docs/formats/legacy.md), so it has no handlers but for what only its containers have.
"""

from __future__ import annotations

from collections.abc import Callable

from xsave import Format, Handler, PluginInfo, hookimpl

PLUGIN = PluginInfo(
    name="legacy",
    summary="images of Xen 3.0 to 4.5: bare, xl, xend, xapi, libvirt (read only)",
    contract=(1, 1),
    needs=frozenset({"xen"}),
)


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    from .xend_config import XendConfigHandler

    register(XendConfigHandler())


@hookimpl
def xsave_register_formats(register: Callable[[Format], None]) -> None:
    from .formats import FORMATS

    for format_ in FORMATS:
        register(format_)
