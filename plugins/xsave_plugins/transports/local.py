"""Unix-domain sockets: made with rights for one user, taken over when nobody listens."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from pathlib import Path

from xsave import TryAgainError

from .sockets import BACKLOG, SocketChannel, SocketListener

UCRED = struct.Struct("=iII")  # pid, uid, gid of SO_PEERCRED, see unix(7)
ROOT = 0


def channel_of(sock: socket.socket, peer: str) -> SocketChannel:
    """:raises PermissionError: at the other end is neither root nor the user of this process."""
    _, uid, _ = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    if uid not in {ROOT, os.geteuid()}:
        raise PermissionError(errno.EACCES, f"a process of user {uid} is at the other end")
    return SocketChannel(sock, peer, f"user {uid}")


def listen(path: str) -> SocketListener:
    """:raises TryAgainError: somebody listens there, or something else is there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_left_over(path)
        before = os.umask(0o177)  # made so, there is no moment at which others may connect
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
        made = Path(path).stat().st_ino
    except OSError as error:
        sock.close()
        raise TryAgainError(f"cannot listen at unix:{path}: {error.strerror}") from error

    def remove() -> None:
        with contextlib.suppress(OSError):
            if Path(path).stat().st_ino == made:
                Path(path).unlink()

    return SocketListener(sock, path, lambda other: channel_of(other, f"unix:{path}"), remove)


def _remove_left_over(path: str) -> None:
    """The socket of a process that was killed: nobody listens at it."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "something else has that name")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError(errno.EADDRINUSE, "somebody listens there")
