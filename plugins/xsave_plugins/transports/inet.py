"""Addresses of the internet: HOST:PORT, [::1]:PORT, and what they stand for."""

from __future__ import annotations

import errno
import re
import socket
import time
from collections.abc import Sequence
from typing import Any

from xsave import TryAgainError, UsageError, frozen

from .sockets import BACKLOG, unreachable

HOST_PORT = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})")


def split_address(scheme: str, address: str, *, listening: bool = False) -> tuple[str, int]:
    """:raises UsageError: it is no HOST:PORT. Port 0 is one only to listen at: the system
    chooses."""
    found = HOST_PORT.fullmatch(address)
    lowest = 0 if listening else 1
    if found is None or not lowest <= int(found[3]) <= 65535:
        raise UsageError(
            f"{scheme}:{address}: expected {scheme}:HOST:PORT, such as {scheme}:127.0.0.1:8400 "
            f"or {scheme}:[::1]:8400"
        )
    return found[1] or found[2], int(found[3])


def written(sockaddr: Sequence[Any]) -> str:
    """As in an address."""
    host, port = sockaddr[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@frozen
class Place:
    """What an address stands for: one or more of the system's.

    :ivar name: the whole address, for messages.
    """

    name: str
    addresses: Sequence[tuple[socket.AddressFamily, tuple[Any, ...]]]

    def connect(self, timeout_s: float) -> socket.socket:
        """The first that answers.

        :raises TryAgainError: none does.
        """
        deadline = time.monotonic() + timeout_s
        last: OSError = TimeoutError(errno.ETIMEDOUT, "no answer in time")
        for family, sockaddr in self.addresses:
            if (remaining_s := deadline - time.monotonic()) <= 0:
                break
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(remaining_s)
                sock.connect(sockaddr)
            except OSError as error:
                sock.close()
                last = error
                continue
            return sock
        raise unreachable(self.name, last)

    def listen(self) -> tuple[socket.socket, str]:
        """At the first of them; with the address as it is then.

        :raises TryAgainError: it is taken, or not of this machine.
        """
        family, sockaddr = self.addresses[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(sockaddr)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise TryAgainError(f"cannot listen at {self.name}: {error.strerror}") from error
        return sock, written(sock.getsockname())


def resolve(scheme: str, address: str, host: str, port: int) -> Place:
    """:raises TryAgainError: nobody knows the host now."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise TryAgainError(f"{scheme}:{address}: {host}: {reason}") from error
    addresses = list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))
    return Place(f"{scheme}:{address}", addresses)
