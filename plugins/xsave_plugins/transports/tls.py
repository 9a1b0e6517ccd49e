"""``tls:HOST:PORT``: TLS 1.3 between two ends that both show a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from xsave import Transport, UsageError, frozen

if TYPE_CHECKING:
    import socket

    from .secure import TlsChannel
    from .sockets import SocketListener

OPTIONS = ("certs", "ca", "cert", "key", "name", "peer")


class TlsTransport(Transport):
    """Nothing weaker: neither an older TLS, nor an end without a certificate, nor one that
    is signed by somebody else than the authority that both were given."""

    name = "tls"
    summary = "TLS 1.3 with certificates at both ends: tls:HOST:PORT[?certs=FOLDER&name=NAME]"

    def connect(self, address: str, timeout_s: float) -> TlsChannel:
        import time

        from .inet import resolve
        from .secure import TlsChannel, context

        deadline = time.monotonic() + timeout_s
        wanted = _parse(address)
        settings = context(wanted, server_side=False)
        place = resolve(self.name, wanted.host_port, wanted.host, wanted.port)
        sock = place.connect(timeout_s)
        channel = TlsChannel(sock, settings, f"tls:{wanted.host_port}", wanted)
        try:
            channel.handshake(max(deadline - time.monotonic(), 0))
        except OSError as error:
            channel.close()
            from .sockets import unreachable

            raise unreachable(channel.peer, error) from error
        except BaseException:
            channel.close()
            raise
        return channel

    def listen(self, address: str) -> SocketListener:
        from .inet import resolve, written
        from .secure import TlsChannel, context
        from .sockets import SocketListener

        wanted = _parse(address, listening=True)
        settings = context(wanted, server_side=True)
        sock, found = resolve(self.name, wanted.host_port, wanted.host, wanted.port).listen()
        _, question, options = address.partition("?")

        def welcome(other: socket.socket) -> TlsChannel:
            peer = f"tls:{written(other.getpeername())}"
            return TlsChannel(other, settings, peer, wanted, server_side=True)

        return SocketListener(sock, f"{found}{question}{options}", welcome)


@frozen
class Wanted:
    """An address taken apart.

    :ivar options: as given.
    """

    host_port: str
    host: str
    port: int
    options: dict[str, str]


def _parse(address: str, *, listening: bool = False) -> Wanted:
    from .inet import split_address

    host_port, question, text = address.partition("?")
    host, port = split_address("tls", host_port, listening=listening)
    options: dict[str, str] = {}
    if question:
        try:
            options = dict(parse_qsl(text, strict_parsing=True, max_num_fields=len(OPTIONS)))
        except ValueError as error:
            raise UsageError(f"tls:{address}: after the question mark: {error}") from None
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise UsageError(
            f"tls:{address}: no option is called {unknown[0]!r}; known: {', '.join(OPTIONS)}"
        )
    return Wanted(host_port, host, port, options)
