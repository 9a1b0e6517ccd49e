"""Plugin ``sight``: what lies beside Xen's images and is no image of a guest that is read here.

So that ``xsave identify`` can name it and say why. A plugin that reads one of these claims it
too, and then counts instead; its row here can go.

Source: the programs that write them, as docs/formats/README.md has it.
"""

from __future__ import annotations

from collections.abc import Callable

from xsave import Format, PluginInfo, hookimpl

PLUGIN = PluginInfo(
    name="sight",
    summary="files that are named by 'xsave identify' and not read",
    contract=(1, 1),
)


@hookimpl
def xsave_register_formats(register: Callable[[Format], None]) -> None:
    from .formats import FORMATS

    for format_ in FORMATS:
        register(format_)
