"""Xenstore, as much of it as a backend needs: reading, writing, listing, waiting.

Source: Xen's public io/xs_wire.h: a head of type, request, transaction and length, all u32,
then up to 4096 bytes; strings end with a NUL.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence

from xsave import XsaveError

HEAD = struct.Struct("<IIII")
MAX_BYTES = 4096
(DIRECTORY, READ, WATCH, UNWATCH, WRITE, WATCH_EVENT, ERROR, RESUME) = 1, 2, 4, 5, 11, 15, 16, 18
SOCKETS = ("/run/xenstored/socket", "/var/run/xenstored/socket")
RELEASE_DOMAIN = "@releaseDomain"  # changes when a domain stops, or is no more
ANSWER_S = 60.0


class XenstoreError(XsaveError):
    """Xenstore refused.

    :ivar reason: its word, such as ``ENOENT``.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"xenstore: {what}: {reason}")
        self.reason = reason


class Xenstore:
    """:param link: a connected stream socket to the daemon. A context manager is not needed:
    :meth:`close`.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._events: list[str] = []
        self._number = 0
        self._buffer = b""

    @classmethod
    def connect(cls, paths: Sequence[str] = SOCKETS) -> Xenstore:
        """:raises XsaveError: no daemon answers."""
        said = ""
        for path in paths:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                link.connect(path)
            except OSError as error:
                link.close()
                said = said or f"{path}: {error.strerror}"
            else:
                return cls(link)
        raise XsaveError(f"xenstore does not answer ({said})")

    def close(self) -> None:
        self._link.close()

    def read(self, path: str) -> str | None:
        """None where there is nothing."""
        try:
            return self._ask(READ, f"reading {path}", path).decode("utf-8", "replace")
        except XenstoreError as error:
            if error.reason == "ENOENT":
                return None
            raise

    def list(self, path: str) -> list[str]:
        """Names below it; none if it is not there."""
        try:
            found = self._ask(DIRECTORY, f"listing {path}", path)
        except XenstoreError as error:
            if error.reason == "ENOENT":
                return []
            raise
        return [name.decode("utf-8", "replace") for name in found.split(b"\0") if name]

    def write(self, path: str, value: str) -> None:
        self._exchange(WRITE, f"writing {path}", path.encode() + b"\0" + value.encode())

    def resumed(self, domid: int) -> None:
        """A domain that had stopped goes on: the daemon believes it gone otherwise."""
        self._ask(RESUME, f"resuming domain {domid}", str(domid))

    def wait_until(self, done: Callable[[], bool], paths: Sequence[str], limit_s: float) -> bool:
        """Ask again whenever one of these paths has changed.

        :returns: whether it was done within the limit.
        """
        for path in paths:
            self._exchange(WATCH, f"watching {path}", f"{path}\0{path}\0".encode())
        end = time.monotonic() + limit_s
        try:
            while not done():
                if (left := end - time.monotonic()) <= 0 or not self._event(left):
                    return done()
            return True
        finally:
            for path in paths:
                self._exchange(UNWATCH, f"watching {path}", f"{path}\0{path}\0".encode())
            self._events.clear()

    # -- the wire ------------------------------------------------------------------------

    def _ask(self, kind: int, what: str, path: str) -> bytes:
        return self._exchange(kind, what, path.encode() + b"\0")

    def _exchange(self, kind: int, what: str, body: bytes) -> bytes:
        if len(body) > MAX_BYTES:
            raise XenstoreError(what, f"more than {MAX_BYTES} bytes")
        self._number += 1
        try:
            self._link.sendall(HEAD.pack(kind, self._number, 0, len(body)) + body)
            end = time.monotonic() + ANSWER_S
            while True:
                found = self._receive(end - time.monotonic())
                if found is None:
                    raise XenstoreError(what, f"no answer within {ANSWER_S:.0f} s")
                got, number, answer = found
                if got != WATCH_EVENT and number == self._number:
                    break
        except OSError as error:
            raise XenstoreError(what, error.strerror or str(error)) from None
        if got == ERROR:
            raise XenstoreError(what, answer.rstrip(b"\0").decode("ascii", "replace"))
        if got != kind:
            raise XenstoreError(what, f"expected an answer of type {kind}, got {got}")
        return answer

    def _event(self, limit_s: float) -> bool:
        """Wait for one, or take one that came meanwhile."""
        if self._events:
            self._events.pop()
            return True
        try:
            found = self._receive(limit_s)
        except OSError as error:
            raise XenstoreError("waiting", error.strerror or str(error)) from None
        if found is None:
            return False
        self._events.clear()
        return True

    def _receive(self, limit_s: float) -> tuple[int, int, bytes] | None:
        """The next message; None if none came in time. Events are noted as well."""
        if limit_s <= 0 or not self._fill(HEAD.size, limit_s):
            return None
        kind, number, _, size = HEAD.unpack_from(self._buffer)
        if size > MAX_BYTES:
            raise XenstoreError("its daemon", f"sent a message of {size} bytes")
        if not self._fill(HEAD.size + size, limit_s):
            return None
        body = self._buffer[HEAD.size : HEAD.size + size]
        self._buffer = self._buffer[HEAD.size + size :]
        if kind == WATCH_EVENT:
            self._events.append(body.partition(b"\0")[0].decode("utf-8", "replace"))
        return kind, number, body

    def _fill(self, size_bytes: int, limit_s: float) -> bool:
        """:returns: False if so many bytes did not come in time; what came is kept."""
        end = time.monotonic() + limit_s
        while len(self._buffer) < size_bytes:
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._link.settimeout(left)
            try:
                piece = self._link.recv(MAX_BYTES)
            except TimeoutError:
                return False
            if not piece:
                raise XenstoreError("its daemon", "closed the connection")
            self._buffer += piece
        return True
