"""Only TLS 1.3 with a right certificate at both ends, and words for what is wrong."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.transports import certificates
from xsave import IdentityError, TryAgainError, UsageError
from xsave.link.connect import connect
from xsave.link.options import LinkOptions
from xsave.link.server import serve
from xsave.testing.transport_suite import in_thread
from xsave_plugins.transports.tls import TlsTransport

TIME_S = 30.0
TLS = TlsTransport()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


def meet(
    folder: Path, near: str = "good", far: str = "good", *, near_trusts: str = "known",
    far_trusts: str = "known", options: str = "", far_options: str = "",
) -> tuple[Any, Any]:  # fmt: skip
    """What each end makes of the other: "" or why not, from its error."""
    near_folder = certificates.write(folder, near, near_trusts)
    far_folder = certificates.write(folder, far, far_trusts)
    outcome: list[Any] = []

    def answer() -> Any:
        channel = listener.accept(TIME_S)
        try:
            channel.handshake(TIME_S)
        except IdentityError as error:
            return str(error)
        else:
            return ""
        finally:
            channel.close()

    with TLS.listen(f"127.0.0.1:0?certs={far_folder}{far_options}") as listener:
        port = listener.address.partition("?")[0].rpartition(":")[2]
        wait = in_thread(answer)
        try:
            TLS.connect(f"localhost:{port}?certs={near_folder}{options}", TIME_S).close()
            outcome.append("")
        except IdentityError as error:
            outcome.append(str(error))
    return outcome[0], wait()


def test_ends_with_right_certificates_meet(folder: Path) -> None:
    assert meet(folder) == ("", "")
    assert meet(folder, near="client only", far="server only") == ("", "")
    assert meet(folder, far="address", options="&name=127.0.0.1") == ("", "")


@pytest.mark.parametrize(
    ("far", "near_says", "far_says"),
    [
        ("expired", r"has expired \(it is \d{4}-.* UTC here\)", "it has expired"),
        ("future", r"is not valid yet \(it is \d{4}-.* UTC here\)", "not valid yet"),
        ("other name", "is for another name than localhost", "not valid there|not accepted"),
        ("unknown issuer", "comes from an unknown issuer", "an issuer that is unknown there"),
        ("signed by itself", "is signed by itself", "unknown there"),
        ("client only", r"is not for a server \(its extended key usage", "not for this use"),
        ("signed by a host", "was signed by one who is no authority", "unknown there"),
    ],
)
def test_what_is_wrong_with_the_certificate_of_who_listens_is_said_at_both_ends(
    folder: Path, far: str, near_says: str, far_says: str
) -> None:
    near, other = meet(folder, far=far)
    assert re.search(f"the other end's certificate ({near_says})", near), near
    assert re.search(f"the other end refuses this end's certificate: .*({far_says})", other), other


@pytest.mark.parametrize(
    ("near", "near_says", "far_says"),
    [
        ("expired", "it has expired", r"has expired \(it is"),
        ("future", "not valid yet", r"is not valid yet \(it is"),
        ("unknown issuer", "an issuer that is unknown there", "comes from an unknown issuer"),
        ("signed by itself", "unknown there", "is signed by itself"),
        ("server only", "not for this use", r"is not for a client \(its extended key usage"),
        ("signed by a host", "unknown there", "was signed by one who is no authority"),
    ],
)
def test_what_is_wrong_with_the_certificate_of_who_connects_is_said_at_both_ends(
    folder: Path, near: str, near_says: str, far_says: str
) -> None:
    this, other = meet(folder, near=near)
    assert re.search(f"the other end refuses this end's certificate: .*({near_says})", this), this
    assert re.search(f"the other end's certificate ({far_says})", other), other


def test_a_key_that_is_too_small_is_not_even_shown(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"host.key cannot be used: ee key too small"):
        meet(folder, near="short key")


def test_who_listens_may_want_one_name_only(folder: Path) -> None:
    assert meet(folder, near="other host", far_options="&peer=other.example") == ("", "")
    near, far = meet(folder, far_options="&peer=other.example")
    assert near.endswith(
        "refuses this end: its certificate is for localhost, and not for other.example"
    )
    assert far.endswith("(localhost): its certificate is for localhost, and not for other.example")


def against(folder: Path, talk: Callable[[socket.socket], Any]) -> str:
    """What our listening end says of one who is not like us."""
    with TLS.listen(f"127.0.0.1:0?certs={certificates.write(folder, 'good')}") as listener:
        port = int(listener.address.partition("?")[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as sock:
            wait = in_thread(lambda: talk(sock))
            channel = listener.accept(TIME_S)
            with pytest.raises((IdentityError, OSError)) as caught:
                channel.handshake(TIME_S)
            channel.close()
            wait()
    return str(caught.value)


def client(folder: Path, **settings: Any) -> Callable[[socket.socket], None]:
    def talk(sock: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(certificates.write(folder, "good") / "ca.pem")
        for name, value in settings.items():
            setattr(context, name, value)
        try:
            with context.wrap_socket(sock, server_hostname="localhost") as secure:
                secure.recv(1)
        except OSError:
            pass

    return talk


def test_one_without_a_certificate_is_refused(folder: Path) -> None:
    assert "the other end showed no certificate, and has to" in against(folder, client(folder))


@pytest.mark.filterwarnings("ignore:.*TLSv1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_1])
def test_one_that_offers_an_older_tls_is_refused(folder: Path, version: ssl.TLSVersion) -> None:
    said = against(folder, client(folder, maximum_version=version, minimum_version=version))
    if version is ssl.TLSVersion.TLSv1_2:
        assert "does not offer TLS 1.3, and nothing weaker is taken" in said


def test_one_that_speaks_no_tls_is_refused(folder: Path) -> None:
    for words in (b"GET / HTTP/1.0\r\n\r\n", b"XL\1\0" + bytes(100)):
        assert "does not speak TLS" in against(
            folder, lambda sock, words=words: sock.sendall(words)
        )  # type: ignore[misc]


def test_one_that_goes_during_the_handshake_is_no_riddle(folder: Path) -> None:
    assert against(folder, lambda sock: sock.shutdown(socket.SHUT_RDWR))


def test_a_server_of_an_older_tls_is_refused(folder: Path) -> None:
    good = certificates.write(folder, "good")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(good / "host.pem", good / "host.key")

    def serve_once() -> None:
        sock, _ = listening.accept()
        with sock, pytest.raises(OSError, match="UNSUPPORTED_PROTOCOL"):
            context.wrap_socket(sock, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        wait = in_thread(serve_once)
        address = f"localhost:{listening.getsockname()[1]}?certs={good}"
        with pytest.raises(
            IdentityError, match=r"does not take TLS 1.3, and nothing weaker is used"
        ):
            TLS.connect(address, TIME_S)
        wait()


def test_one_that_says_nothing_ends_in_time(folder: Path) -> None:
    with TLS.listen(f"127.0.0.1:0?certs={certificates.write(folder, 'good')}") as listener:
        host, port = listener.address.partition("?")[0].split(":")
        with socket.create_connection((host, int(port))):
            channel = listener.accept(TIME_S)
            with pytest.raises(TimeoutError):
                channel.handshake(0.05)
            channel.close()


# Files.


def test_files_that_are_missing_wrong_or_open_to_others_are_named(tmp_path: Path) -> None:
    good = certificates.write(tmp_path, "good")

    def refused(**changed: Any) -> str:
        options = "".join(f"&{name}={value}" for name, value in changed.items())
        with pytest.raises(UsageError) as caught:
            TLS.connect(f"localhost:1?certs={good}{options}", TIME_S)
        return str(caught.value)

    assert "there is no /absent" in refused(ca="/absent")
    assert "xsave certs" in refused(certs="/absent")
    text = tmp_path / "text"
    text.write_text("no certificate")
    text.chmod(0o600)
    assert f"{text} is no certificate" in refused(ca=text)
    assert f"{text} and {good}/host.key cannot be used" in refused(cert=text)
    other = certificates.write(tmp_path, "other host")
    assert "do not belong together" in refused(cert=other / "host.pem")
    (good / "host.key").chmod(0o640)
    assert "others may read the key" in refused()
    assert "(its mode is 0640): chmod 600 " in refused()


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XSAVE_CERTS", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "nowhere/ca.pem"))):
        TLS.connect("localhost:1", TIME_S)
    monkeypatch.setenv("XSAVE_CERTS", str(certificates.write(tmp_path, "good")))
    with pytest.raises(TryAgainError, match="cannot connect to tls:localhost:1: "):
        TLS.connect("localhost:1", TIME_S)


# Links.


@pytest.mark.parametrize("connections", [1, 3])
def test_a_link_over_tls_carries_a_stream_and_comes_back(folder: Path, connections: int) -> None:
    good = certificates.write(folder, "good")
    data = os.urandom(3 << 20) * 3
    options = LinkOptions(connections=connections, frame_bytes=100_000, window_bytes=1 << 20)
    with (
        TLS.listen(f"127.0.0.1:0?certs={good}") as listener,
        serve(listener, options) as server,
    ):
        port = server.address.partition("?")[0].rpartition(":")[2]
        with (
            connect(TLS, f"localhost:{port}?certs={good}", options) as near,
            server.accept(TIME_S) as far,
        ):
            assert near.identity.startswith("sha256:")
            assert far.peer.endswith("(localhost)")
            wait = in_thread(lambda: (near.sink.put([memoryview(data)]), near.sink.finish()))
            source, found = far.source(TIME_S), bytearray()
            while piece := source.read(2 << 20):
                found += piece
                for lane in list(near._lanes.values())[-1:]:
                    lane.channel._shut_down()  # type: ignore[attr-defined]
            wait()
            assert bytes(found) == data
            assert near.counters.nr_reconnections >= 1


def test_a_link_does_not_come_back_with_another_certificate(folder: Path) -> None:
    good, other = certificates.write(folder, "good"), certificates.write(folder, "other host")
    options = LinkOptions(patience_s=TIME_S)
    with (
        TLS.listen(f"127.0.0.1:0?certs={good}") as listener,
        serve(listener, options) as server,
    ):
        port = server.address.partition("?")[0].rpartition(":")[2]
        own = folder / "changing"
        own.mkdir()
        for name in ("ca.pem", "host.pem", "host.key"):
            (own / name).symlink_to(good / name)
        near = connect(TLS, f"localhost:{port}?certs={own}", options)
        far = server.accept(TIME_S)
        for name in ("host.pem", "host.key"):
            (own / name).unlink()
            (own / name).symlink_to(other / name)
        next(iter(near._lanes.values())).channel._shut_down()  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="the link belongs to another end"):
            near.receive(TIME_S)
        near.close()
        far.abandon()
