"""The native image (``.xsv``): self-identifying, checksummed, sealed, indexed.

``spec.py`` says what the bytes are (docs/formats/native.md says it for strangers),
``writer.py`` and ``reader.py`` mirror each other, ``pieces.py`` takes an image apart,
``window.py`` is the bounded memory of pages that both keep, ``finder.py`` reads single pages
by the index.
"""

from __future__ import annotations

from collections.abc import Callable

from xsave import Format, PluginInfo, hookimpl

PLUGIN = PluginInfo(name="native", summary="xsave's own image format (.xsv)", contract=(1, 1))


@hookimpl
def xsave_register_formats(register: Callable[[Format], None]) -> None:
    from .format import NativeFormat

    register(NativeFormat())
