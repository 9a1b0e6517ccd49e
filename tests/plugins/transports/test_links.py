"""Links over real transports: what is said arrives, also when the channel is cut."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from xsave import Transport
from xsave.link.connect import connect
from xsave.link.options import LinkOptions
from xsave.link.server import serve
from xsave.testing.transport_suite import in_thread
from xsave_plugins.transports.pipe import PipeTransport
from xsave_plugins.transports.tcp import TcpTransport
from xsave_plugins.transports.unix import UnixTransport

TIME_S = 30.0
DATA = bytes(range(256)) * (40 << 10)  # 10 MiB
SMALL = LinkOptions(window_bytes=1 << 20, frame_bytes=100_000)
STRIPED = LinkOptions(window_bytes=1 << 20, frame_bytes=100_000, connections=3)


@pytest.fixture(params=["tcp", "unix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Transport, str]]:
    if request.param == "tcp":
        yield TcpTransport(), "127.0.0.1:0"
    else:
        yield UnixTransport(), str(tmp_path / "socket")


@pytest.mark.parametrize("options", [SMALL, STRIPED], ids=["one", "three"])
def test_a_stream_and_messages_arrive(place: tuple[Transport, str], options: LinkOptions) -> None:
    transport, address = place
    with (
        transport.listen(address) as listener,
        serve(listener) as server,
        connect(transport, server.address, options) as near,
        server.accept(TIME_S) as far,
    ):
        wait = in_thread(lambda: (near.sink.put([DATA]), near.sink.finish()))
        assert far.source(TIME_S).read() == DATA
        wait()
        far.send({"complete": True})
        assert near.receive(TIME_S) == {"complete": True}
        assert near.counters.nr_reconnections == 0


@pytest.mark.parametrize("options", [SMALL, STRIPED], ids=["one", "three"])
def test_a_stream_goes_on_after_its_sockets_were_cut(
    place: tuple[Transport, str], options: LinkOptions
) -> None:
    transport, address = place
    with (
        transport.listen(address) as listener,
        serve(listener) as server,
        connect(transport, server.address, options) as near,
        server.accept(TIME_S) as far,
    ):
        wait = in_thread(lambda: (near.sink.put([memoryview(DATA)]), near.sink.finish()))
        source, found = far.source(TIME_S), bytearray()
        while piece := source.read(2 << 20):
            found += piece
            link = (near, far)[len(found) // (2 << 20) % 2]
            for lane in list(link._lanes.values()):
                with contextlib.suppress(OSError):  # it is cut already
                    lane.channel._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
        wait()
        assert bytes(found) == DATA
        counters = near.counters
        assert counters.nr_reconnections >= 1
        assert counters.resent_bytes <= counters.nr_reconnections * (1 << 20)


def test_a_long_stream_never_waits_for_a_sign_of_life() -> None:
    """Threads hand each other what is to be written: none may be left asleep beside it."""
    options = LinkOptions(ping_s=1000, silence_s=1000)
    transport = TcpTransport()
    nr_pieces, piece = 64, memoryview(bytearray(DATA[: 4 << 20]))
    with (
        transport.listen("127.0.0.1:0") as listener,
        serve(listener, options) as server,
        connect(transport, server.address, options) as near,
        server.accept(TIME_S) as far,
    ):

        def write() -> None:
            for _ in range(nr_pieces):
                near.sink.put([b"head", piece, b"tail"])
            near.sink.finish()

        wait = in_thread(write)
        source, room, got_bytes = far.source(TIME_S), memoryview(bytearray(4 << 20)), 0
        while got := source.readinto(room):
            got_bytes += got
        wait()
        assert got_bytes == nr_pieces * ((4 << 20) + 8)


def test_a_link_over_pipes_ends_with_them() -> None:
    (there, in_there), (back, in_back) = os.pipe(), os.pipe()
    transport = PipeTransport()
    with transport.listen(f"{there},{in_back}") as listener, serve(listener) as server:
        near = connect(transport, f"{back},{in_there}")
        far = server.accept(TIME_S)
        for fd in (there, in_there, back, in_back):
            os.close(fd)
        near.send({"hello": 1})
        assert far.receive(TIME_S) == {"hello": 1}
        far.abandon()
        with pytest.raises(Exception, match=r"the link with pipe:\S+ broke: "):
            near.receive(TIME_S)
        near.close()
