"""TLS channels: certificates, and what is wrong with them in words."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import os
import select
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from xsave import Buffer, IdentityError, UsageError

from .guard import Guard

if TYPE_CHECKING:
    from .tls import Wanted

T = TypeVar("T")

FOLDER = Path("/etc/xsave/certs")  # where XSAVE_CERTS names no other
FILES = {"ca": "ca.pem", "cert": "host.pem", "key": "host.key"}
RECORD_BYTES = 16 << 10  # of TLS; a shorter one costs as much
REASON_MAX = 255  # bytes of a refusal
WELCOME = b"\0"  # the length of no refusal
# Keys of RSA below 2048 bits and SHA-1 are refused, whatever the system's configuration says.
SECURITY = "@SECLEVEL=2"


# Settings ---------------------------------------------------------------------------------


def context(wanted: Wanted, *, server_side: bool) -> ssl.SSLContext:
    """What both ends insist upon.

    :raises UsageError: a file is missing, is no certificate or key, or others may read it.
    """
    paths = _paths(wanted)
    _check_key(paths["key"])
    protocol = ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
    settings = ssl.SSLContext(protocol)
    settings.minimum_version = ssl.TLSVersion.TLSv1_3
    settings.verify_mode = ssl.CERT_REQUIRED
    settings.check_hostname = not server_side
    settings.set_ciphers(f"DEFAULT:{SECURITY}")
    if server_side:
        settings.num_tickets = 0  # links do not resume TLS: nothing comes after the handshake
    try:
        settings.load_verify_locations(paths["ca"])
    except (OSError, ValueError) as error:
        raise UsageError(f"{paths['ca']} is no certificate: {_reason(error)}") from None
    try:
        settings.load_cert_chain(paths["cert"], paths["key"], password=_no_password)
    except (OSError, ValueError) as error:
        what = f"{paths['cert']} and {paths['key']}"
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise UsageError(f"{what} do not belong together") from None
        raise UsageError(f"{what} cannot be used: {_reason(error)}") from None
    return settings


def _paths(wanted: Wanted) -> dict[str, Path]:
    given = wanted.options.get("certs") or os.environ.get("XSAVE_CERTS") or FOLDER
    folder = Path(given)
    paths = {what: Path(wanted.options.get(what, folder / name)) for what, name in FILES.items()}
    for path in paths.values():
        if not path.is_file():
            raise UsageError(
                f"tls: there is no {path}; both ends need a certificate: 'xsave certs FOLDER' "
                "makes some for a laboratory, and ?certs=FOLDER or XSAVE_CERTS says where they are"
            )
    return paths


def _check_key(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UsageError(
            f"others may read the key {path} (its mode is {mode:04o}): chmod 600 {path}"
        )


def _no_password() -> str:
    raise ValueError("the key is encrypted with a password, which nobody could type")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it holds none").replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)


# The channel ------------------------------------------------------------------------------


class TlsChannel:
    """A :class:`xsave.Channel`. Takes the socket over.

    OpenSSL must not read and write one connection in two threads at once. So each call is
    made under a lock, returns at once, and what it has to wait for is waited for outside.
    """

    def __init__(
        self,
        sock: socket.socket,
        settings: ssl.SSLContext,
        peer: str,
        wanted: Wanted,
        *,
        server_side: bool = False,
    ) -> None:
        self.peer = peer
        self.identity = ""
        self._wanted = wanted
        self._server_side = server_side
        self._name = wanted.options.get("name") or wanted.host
        self._timeout_s: float | None = None
        self._room = bytearray(RECORD_BYTES)
        self._lock = threading.Lock()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self._socket = settings.wrap_socket(
            sock,
            server_side=server_side,
            server_hostname=None if server_side else self._name,
            do_handshake_on_connect=False,
        )
        self._guard = Guard(self._shut_down, self._let_go)

    def handshake(self, timeout_s: float) -> None:
        """Certificates, and then a word of the end that listens: in TLS 1.3 the other one is
        through before anybody has looked at its certificate."""
        deadline = time.monotonic() + timeout_s
        try:
            with self._guard:
                self._complete(self._socket.do_handshake, deadline)
                self._see_certificate()
                if self._server_side:
                    self._judge(deadline)
                else:
                    self._hear_judgement(deadline)
        except ssl.SSLError as error:
            raise IdentityError(f"{self.peer}: {self._explain(error)}") from error

    def set_timeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def write_parts(self, parts: Sequence[Buffer]) -> None:
        with self._guard:
            for view in _records(parts, self._room):
                rest = view
                while rest := self._complete(lambda: self._send(rest)):  # noqa: B023
                    self._wait(select.POLLOUT, None)

    def _send(self, rest: memoryview) -> memoryview:
        """One record after the other, as far as they go; what is left."""
        send = self._socket.send
        try:
            while rest:
                rest = rest[send(rest) :]
        except ssl.SSLWantWriteError:
            pass
        return rest

    def read_into(self, buffer: memoryview) -> int:
        with self._guard:
            return self._complete(lambda: self._receive(buffer))

    def _receive(self, buffer: memoryview) -> int:
        """As many records as there are; the number of bytes."""
        receive = self._socket.recv_into
        done = receive(buffer)
        try:
            while 0 < done < len(buffer) and (got := receive(buffer[done:])):
                done += got
        except ssl.SSLWantReadError:
            pass
        return done

    def close(self) -> None:
        self._guard.close()

    def _complete(self, attempt: Callable[[], T], deadline: float | None = None) -> T:
        """Try until it neither has to read nor to write first."""
        while True:
            with self._lock:
                try:
                    return attempt()
                except ssl.SSLWantReadError:
                    event = select.POLLIN
                except ssl.SSLWantWriteError:
                    event = select.POLLOUT
            self._wait(event, deadline)

    def _wait(self, event: int, deadline: float | None) -> None:
        timeout_s = self._timeout_s if deadline is None else deadline - time.monotonic()
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(None if timeout_s is None else max(timeout_s, 0) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, "nothing moved in time")
        self._guard.check()

    # Who is there

    def _see_certificate(self) -> None:
        certificate = self._socket.getpeercert(binary_form=True)
        assert certificate is not None  # without one there is no handshake
        self.identity = f"sha256:{hashlib.sha256(certificate).hexdigest()}"
        if self._server_side and (names := self._names()):
            self.peer = f"{self.peer} ({names[0]})"

    def _names(self) -> list[str]:
        """Of the other end's certificate: alternative names, or else the subject's."""
        found: Any = self._socket.getpeercert() or {}
        alternative = [
            str(ipaddress.ip_address(value.strip())) if kind == "IP Address" else value
            for kind, value in found.get("subjectAltName", ())
        ]
        subject = [
            value
            for part in found.get("subject", ())
            for kind, value in part
            if kind == "commonName"
        ]
        return alternative or subject

    def _judge(self, deadline: float) -> None:
        """Whether this end, which listens, wants the one that has come."""
        names, wanted = self._names(), self._wanted.options.get("peer")
        refusal = ""
        if wanted is not None and wanted not in names:
            refusal = f"its certificate is for {', '.join(names) or 'nobody'}, and not for {wanted}"
        text = refusal.encode()[:REASON_MAX]
        self._complete(lambda: self._socket.send(bytes([len(text)]) + text), deadline)
        if refusal:
            raise IdentityError(f"{self.peer}: {refusal}")

    def _hear_judgement(self, deadline: float) -> None:
        size = self._read(1, deadline)[0]
        if size:
            text = self._read(size, deadline).decode("utf-8", "replace")
            reason = "".join(each if each.isprintable() else "?" for each in text)
            raise IdentityError(f"{self.peer} refuses this end: {reason}")

    def _read(self, size: int, deadline: float) -> bytes:
        room = memoryview(bytearray(size))
        rest = room
        while rest:
            got = self._complete(lambda: self._socket.recv_into(rest), deadline)  # noqa: B023
            if not got:
                raise ConnectionError(errno.ECONNRESET, "the other end is gone")
            rest = rest[got:]
        return bytes(room)

    def _explain(self, error: ssl.SSLError) -> str:
        side = "client" if self._server_side else "server"
        if isinstance(error, ssl.SSLCertVerificationError):
            return wrong_with_certificate(error, self._name, side)
        reason = error.reason or ""
        if reason in NO_AGREEMENT:
            return NO_AGREEMENT[reason]
        if reason in ALERTS:
            return f"the other end refuses this end's certificate: {ALERTS[reason]}"
        return f"no TLS comes about: {reason.replace('_', ' ').lower() or error}"

    # Letting go

    def _shut_down(self) -> None:
        # The socket below: SSLSocket's own would wait for the lock of whoever reads.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _let_go(self) -> None:
        self._shut_down()
        self._socket.close()


def _records(parts: Sequence[Buffer], room: bytearray) -> Iterator[memoryview]:
    """What is to be sent, so that few records of TLS are short: a short part is put together
    with what follows, in ``room``, which is one record long and is used again for the next."""
    whole, filled = memoryview(room), 0
    for part in parts:
        view = memoryview(part).cast("B")
        while view:
            if not filled and len(view) >= len(whole):
                yield view
                break
            size = min(len(view), len(whole) - filled)
            whole[filled : filled + size] = view[:size]
            view, filled = view[size:], filled + size
            if filled == len(whole):
                yield whole
                filled = 0
    if filled:
        yield whole[:filled]


# In words ---------------------------------------------------------------------------------

# X509_V_ERR_… of OpenSSL's x509_vfy.h.
NOT_YET_VALID, EXPIRED, REVOKED = 9, 10, 23
SIGNED_BY_ITSELF, ROOT_UNKNOWN, ISSUER_UNKNOWN, ISSUER_NOT_THERE = 18, 19, 20, 21
PURPOSE, NAME, ADDRESS = 26, 62, 64
KEY_TOO_SMALL, CA_KEY_TOO_SMALL, DIGEST_TOO_WEAK = 66, 67, 68
INVALID_CA = 79


def wrong_with_certificate(error: ssl.SSLCertVerificationError, name: str, side: str) -> str:
    """What this end has against the other's certificate.

    :param name: that the other end has to have.
    :param side: which it is: "client" or "server".
    """
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    texts = {
        NOT_YET_VALID: f"is not valid yet (it is {now} here)",
        EXPIRED: f"has expired (it is {now} here)",
        REVOKED: "was revoked",
        SIGNED_BY_ITSELF: "is signed by itself, and not by the authority given here as ca",
        ROOT_UNKNOWN: "comes from an unknown issuer: not the authority given here as ca",
        ISSUER_UNKNOWN: "comes from an unknown issuer: not the authority given here as ca",
        ISSUER_NOT_THERE: "comes from an unknown issuer: not the authority given here as ca",
        PURPOSE: f"is not for a {side} (its extended key usage says so)",
        NAME: f"is for another name than {name}",
        ADDRESS: f"is for another address than {name}",
        KEY_TOO_SMALL: "has a key that is too small",
        CA_KEY_TOO_SMALL: "comes from an authority whose key is too small",
        DIGEST_TOO_WEAK: "is signed with a digest that is too weak",
        INVALID_CA: "was signed by one who is no authority",
    }
    text = texts.get(error.verify_code, f"is not accepted: {error.verify_message}")
    return f"the other end's certificate {text}"


# What the other end says of ours, in an alert of RFC 8446, 6.2, as OpenSSL names it.
ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "none was shown",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it has expired, or is not valid yet",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it was revoked",
    "TLSV1_ALERT_UNKNOWN_CA": "it comes from an issuer that is unknown there",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it is not for this use (extended key usage)",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it is not valid there: too weak, not valid yet, or malformed",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it is not accepted there",
    "TLSV1_ALERT_DECRYPT_ERROR": "its signature is wrong",
    "TLSV1_ALERT_ACCESS_DENIED": "it may not come in",
}
NO_AGREEMENT = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other end showed no certificate, and has to",
    "UNSUPPORTED_PROTOCOL": "the other end does not offer TLS 1.3, and nothing weaker is taken",
    "TLSV1_ALERT_PROTOCOL_VERSION": (
        "the other end does not take TLS 1.3, and nothing weaker is used"
    ),
    "NO_SHARED_CIPHER": "there is no cipher of TLS 1.3 that both ends have",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the other end finds no TLS 1.3 that it would take",
    "WRONG_VERSION_NUMBER": "the other end does not speak TLS",
    "HTTP_REQUEST": "the other end does not speak TLS, but HTTP",
    "RECORD_LAYER_FAILURE": "the other end does not speak TLS",
    "UNEXPECTED_EOF_WHILE_READING": "the other end has gone during the handshake",
}
