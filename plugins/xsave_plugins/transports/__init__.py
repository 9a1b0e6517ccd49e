"""Ways to carry bytes between two ends: what ``pipe:``, ``unix:``, ``tcp:``, ``tls:`` and
``ssh:`` mean."""

from __future__ import annotations

from collections.abc import Callable

from xsave import PluginInfo, Transport, hookimpl

from .pipe import PipeTransport
from .ssh import SshTransport
from .tcp import TcpTransport
from .tls import TlsTransport
from .unix import UnixTransport

PLUGIN = PluginInfo(
    name="transports",
    summary="transports: pipes, Unix-domain sockets, TCP on this machine, TLS, ssh",
    contract=(1, 1),
)


@hookimpl
def xsave_register_transports(register: Callable[[Transport], None]) -> None:
    for kind in (PipeTransport, UnixTransport, TcpTransport, TlsTransport, SshTransport):
        register(kind())


@hookimpl
def xsave_doctor(report: Callable[[str, bool, str], None]) -> None:
    import ssl

    from .client import find_client

    report("tls", ssl.HAS_TLSv1_3, ssl.OPENSSL_VERSION)
    client = find_client()
    report("ssh", True, client or "there is no ssh: install the OpenSSH client to use ssh:")
