"""Ways to carry bytes between two ends: what ``pipe:``, ``unix:``, ``tcp:`` mean."""

from __future__ import annotations

from collections.abc import Callable

from xsave import PluginInfo, Transport, hookimpl

from .pipe import PipeTransport
from .tcp import TcpTransport
from .unix import UnixTransport

PLUGIN = PluginInfo(
    name="transports",
    summary="transports: pipes, Unix-domain sockets, TCP on this machine",
    contract=(1, 1),
)


@hookimpl
def xsave_register_transports(register: Callable[[Transport], None]) -> None:
    for transport in (PipeTransport(), UnixTransport(), TcpTransport()):
        register(transport)
