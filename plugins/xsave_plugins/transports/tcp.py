"""``tcp:HOST:PORT``: TCP as it is, on this machine only."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from xsave import Transport, UsageError

if TYPE_CHECKING:
    import socket

    from .inet import Place
    from .sockets import SocketChannel, SocketListener


class TcpTransport(Transport):
    """Not encrypted, and nobody proves who they are: a guest's memory is not for everyone on
    the way to read. So it stays on loopback addresses."""

    name = "tcp"
    summary = "TCP without encryption, on this machine only: tcp:127.0.0.1:PORT"

    def connect(self, address: str, timeout_s: float) -> SocketChannel:
        from .sockets import SocketChannel

        sock = self._place(address).connect(timeout_s)
        return SocketChannel(sock, f"tcp:{address}")

    def listen(self, address: str) -> SocketListener:
        from .sockets import SocketListener

        sock, found = self._place(address, listening=True).listen()
        return SocketListener(sock, found, _welcome)

    def _place(self, address: str, *, listening: bool = False) -> Place:
        from .inet import resolve, split_address

        host, port = split_address(self.name, address, listening=listening)
        place = resolve(self.name, address, host, port)
        for _family, sockaddr in place.addresses:
            if not ipaddress.ip_address(sockaddr[0].partition("%")[0]).is_loopback:
                raise UsageError(
                    f"tcp:{address}: {sockaddr[0]} is no loopback address, and tcp: would send "
                    "the guest's memory in the clear: use tls: or ssh:"
                )
        return place


def _welcome(sock: socket.socket) -> SocketChannel:
    from .inet import written
    from .sockets import SocketChannel

    return SocketChannel(sock, f"tcp:{written(sock.getpeername())}")
