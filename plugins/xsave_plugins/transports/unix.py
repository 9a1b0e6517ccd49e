"""``unix:PATH``: a socket in the file system, for its owner only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsave import Transport, UsageError

if TYPE_CHECKING:
    from .sockets import SocketChannel, SocketListener

PATH_MAX = 107  # bytes of sun_path, without its end


class UnixTransport(Transport):
    """The kernel says who is at the other end, and only root and the same user are taken."""

    name = "unix"
    summary = "a socket in the file system: unix:PATH"

    def connect(self, address: str, timeout_s: float) -> SocketChannel:
        import socket

        from .local import channel_of
        from .sockets import unreachable

        _check(address)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(address)
            return channel_of(sock, f"unix:{address}")
        except OSError as error:
            sock.close()
            raise unreachable(f"unix:{address}", error) from error

    def listen(self, address: str) -> SocketListener:
        from .local import listen

        _check(address)
        return listen(address)


def _check(address: str) -> None:
    if not address or "\0" in address or len(address.encode()) > PATH_MAX:
        raise UsageError(f"unix:{address}: expected unix:PATH, of at most {PATH_MAX} bytes")
