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
