"""The relay does to connections what it is told to, at the byte it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from .proxy import Relay


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def converse(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(4096):
                    client.sendall(data)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=converse, args=[client]))
            threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def connect(relay: Relay) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", relay.port))
    made.settimeout(60)
    return made


def read(client: socket.socket, size_bytes: int) -> bytes:
    found = b""
    while len(found) < size_bytes and (part := client.recv(size_bytes - len(found))):
        found += part
    return found


def test_what_is_said_passes_and_is_counted(echo: tuple[str, int]) -> None:
    data = bytes(range(256)) * 1000
    with Relay(echo) as relay, connect(relay) as client:
        sender = threading.Thread(target=client.sendall, args=[data])
        sender.start()
        assert read(client, len(data)) == data
        sender.join()
        assert relay.passed == {"there": len(data), "back": len(data)}
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_a_connection_is_cut_at_a_byte_and_others_get_through(echo: tuple[str, int]) -> None:
    with Relay(echo) as relay:
        relay.when("back", 5, relay.cut)
        with connect(relay) as client:
            client.sendall(b"0123456789")
            with pytest.raises(ConnectionError):
                while client.recv(10):
                    pass
                raise ConnectionResetError
        assert relay.passed["back"] == 5
        with connect(relay) as client:
            client.sendall(b"again")
            assert read(client, 5) == b"again"
        assert relay.nr_connections == 2


def test_what_stalls_waits_and_goes_on(echo: tuple[str, int]) -> None:
    with Relay(echo) as relay, connect(relay) as client:
        relay.stall()
        client.sendall(b"waits")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(60)
        relay.go_on()
        assert read(client, 5) == b"waits"


def test_whoever_connects_is_refused_until_that_is_mended(echo: tuple[str, int]) -> None:
    with Relay(echo) as relay:
        relay.cut(for_good=True)
        with connect(relay) as client:
            assert client.recv(1) == b""
        relay.mend()
        with connect(relay) as client:
            client.sendall(b"x")
            assert read(client, 1) == b"x"
