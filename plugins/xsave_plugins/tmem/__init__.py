"""Plugin ``tmem``: transcendent memory, which a guest keeps with Xen 4.0 to 4.12.

Five records with layouts of our own, since no stream after the legacy one has any; see
docs/formats/tmem.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from xsave import Handler, ImageInfo, PluginInfo, StreamCheck, hookimpl

from .check import TmemCheck
from .client import TmemClientHandler
from .invalidate import TmemInvalidateHandler
from .options import OPTIONS
from .pages import TmemPagesHandler
from .pool import TmemPoolHandler
from .settled import TmemSettledHandler

if TYPE_CHECKING:
    from xsave import GuestOffer, Host, HostDescription, Refuse, Stay

PLUGIN = PluginInfo(
    name="tmem",
    summary="transcendent memory of Xen 4.0 to 4.12",
    contract=(1, 1),
    needs=frozenset({"xen"}),
    options=OPTIONS,
)


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    register(TmemClientHandler())
    register(TmemPoolHandler())
    register(TmemPagesHandler())
    register(TmemInvalidateHandler())
    register(TmemSettledHandler())


@hookimpl
def xsave_make_check(info: ImageInfo) -> StreamCheck | None:
    return TmemCheck()


@hookimpl
def xsave_describe_host(host: Host, tell: Callable[[Mapping[str, Any]], None]) -> None:
    from .examine import describe_host

    tell(describe_host(host))


@hookimpl
def xsave_examine(guest: GuestOffer, host: HostDescription, refuse: Refuse, stay: Stay) -> None:
    from .examine import examine

    examine(guest, host, refuse, stay)
