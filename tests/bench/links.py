"""Measure links against bare sockets: the same bytes, between two processes, over loopback.

    python tests/bench/links.py tcp --size 2G --pairs 5
    python tests/bench/links.py tls
    python tests/bench/links.py break

``tcp`` and ``tls`` print, as JSON, what it takes from the first byte to the other end's word that
it has all of them, in seconds of both processes' processor time, and by the clock: over a link,
and over a bare pair that does nothing but ``sendall`` and ``recv_into``; in turn, the other way
round each time. ``break`` prints how many bytes were sent
again after each of some breaks in the middle of the stream.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PIECE_BYTES = 4 << 20  # a batch
GUEST_BYTES = 64 << 20  # of memory, which is sent again and again
NR_BREAKS = 10
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
TIME_S = 60.0

Send = Callable[[Iterator[memoryview]], None]


def cpu_s() -> float:
    """Of this process, all its threads, user and system."""
    return time.process_time()


def guest_memory() -> memoryview:
    """Pages that differ."""
    memory = mmap.mmap(-1, GUEST_BYTES)
    for offset in range(0, GUEST_BYTES, 4096):
        memory[offset : offset + 8] = offset.to_bytes(8, "little")
    return memoryview(memory)


def pieces(memory: memoryview, size_bytes: int) -> Iterator[memoryview]:
    for start in range(0, size_bytes, PIECE_BYTES):
        offset = start % GUEST_BYTES
        yield memory[offset : offset + min(PIECE_BYTES, size_bytes - start)]


# Bare ------------------------------------------------------------------------------------


def tls_context(certs: Path, *, server_side: bool) -> ssl.SSLContext:
    protocol = ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    folder = certs / ("destination" if server_side else "source")
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "host.pem", folder / "host.key")
    return context


def receive_bare(kind: str, certs: Path, size_bytes: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        sock, _ = listening.accept()
    if kind == "tls":
        sock = tls_context(certs, server_side=True).wrap_socket(sock, server_side=True)
    with sock:
        before_s = cpu_s()
        room = bytearray(PIECE_BYTES)
        left = size_bytes
        while left and (got := sock.recv_into(room)):
            left -= got
        print(cpu_s() - before_s, flush=True)
        sock.sendall(b"x")
        sock.recv(1)  # the other end closes first


def send_bare(kind: str, certs: Path, port: int) -> Send:
    sock = socket.create_connection(("127.0.0.1", port))
    if kind == "tls":
        context = tls_context(certs, server_side=False)
        sock = context.wrap_socket(sock, server_hostname="127.0.0.1")

    def send(data: Iterator[memoryview]) -> None:
        with sock:
            for piece in data:
                sock.sendall(piece)
            sock.recv(1)

    return send


# Links -----------------------------------------------------------------------------------


def link_address(kind: str, certs: Path, port: int, end: str) -> str:
    return f"127.0.0.1:{port}" + (f"?certs={certs / end}" if kind == "tls" else "")


def receive_link(kind: str, certs: Path, size_bytes: int) -> None:
    from xsave import build_manager
    from xsave.link.server import serve

    transport = build_manager().transports.find(kind)
    address = link_address(kind, certs, 0, "destination")
    with transport.listen(address) as listener, serve(listener) as server:
        print(server.address.partition("?")[0].rpartition(":")[2], flush=True)
        with server.accept(TIME_S) as link:
            source = link.source(TIME_S)
            room = memoryview(bytearray(PIECE_BYTES))
            got_bytes, before_s = 0, cpu_s()
            while got := source.readinto(room):
                got_bytes += got
            assert got_bytes == size_bytes, "not all of it came"
            print(cpu_s() - before_s, flush=True)
            link.send({"got": got_bytes})


def send_link(kind: str, certs: Path, port: int) -> Send:
    from xsave import build_manager
    from xsave.link.connect import connect

    transport = build_manager().transports.find(kind)
    link = connect(transport, link_address(kind, certs, port, "source"))

    def send(data: Iterator[memoryview]) -> None:
        for piece in data:
            link.sink.put([piece])
        link.sink.finish()
        link.receive(TIME_S)

    # Closing is no part of what is measured: both ends have everything.
    send.close = link.close  # type: ignore[attr-defined]
    return send


# In turn ---------------------------------------------------------------------------------


def run_once(
    how: str, kind: str, certs: Path, size_bytes: int, memory: memoryview
) -> tuple[float, float]:  # fmt: skip
    """Seconds of processor time at both ends, and by the clock."""
    argv = [sys.executable, __file__, kind, "--receive", how, "--certs", str(certs)]
    with subprocess.Popen(
        [*argv, "--size", str(size_bytes)], stdout=subprocess.PIPE, text=True
    ) as receiver:
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())
        send = (send_link if how == "link" else send_bare)(kind, certs, port)
        start_s, before_s = time.perf_counter(), cpu_s()
        send(pieces(memory, size_bytes))
        wall_s, used_s = time.perf_counter() - start_s, cpu_s() - before_s
        used_s += float(receiver.stdout.readline())
        getattr(send, "close", int)()
    assert receiver.returncode == 0
    return used_s, wall_s


def measure_pairs(kind: str, certs: Path, size_bytes: int, nr_pairs: int) -> dict[str, Any]:
    memory = guest_memory()
    times: dict[str, list[tuple[float, float]]] = {"link": [], "bare": []}
    for number in range(nr_pairs):
        for how in ("link", "bare")[:: 1 if number % 2 else -1]:
            times[how].append(run_once(how, kind, certs, size_bytes, memory))
    return {
        "size_bytes": size_bytes,
        "ours_s": [used_s for used_s, _ in times["link"]],
        "theirs_s": [used_s for used_s, _ in times["bare"]],
        "wall_ours_s": [wall_s for _, wall_s in times["link"]],
        "wall_theirs_s": [wall_s for _, wall_s in times["bare"]],
    }


def measure_breaks(size_bytes: int) -> dict[str, Any]:
    """In one process: what is sent again is no matter of speed."""
    import threading

    from xsave import build_manager
    from xsave.link.connect import connect
    from xsave.link.server import serve

    transport = build_manager().transports.find("tcp")
    found: list[int] = []
    with transport.listen("127.0.0.1:0") as listener, serve(listener) as server:
        link = connect(transport, server.address)
        far = server.accept(TIME_S)
        source = far.source(TIME_S)

        def read() -> None:
            room = memoryview(bytearray(PIECE_BYTES))
            while source.readinto(room):
                pass

        reader = threading.Thread(target=read)
        reader.start()
        before = 0
        memory = guest_memory()
        every = max(size_bytes // PIECE_BYTES // NR_BREAKS, 1)
        for number, piece in enumerate(pieces(memory, size_bytes)):
            link.sink.put([piece])
            if number % every == every - 1:
                for lane in list(link._lanes.values()):
                    with contextlib.suppress(OSError):
                        lane.channel._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
                link.sink.put([piece])
                link.flush(TIME_S)
                now = link.counters.resent_bytes
                found.append(now - before)
                before = now
        link.sink.finish()
        reader.join()
        nr_reconnections = link.counters.nr_reconnections
        link.close()
        far.close()
    return {"resent_bytes": found, "nr_reconnections": nr_reconnections}


def parse_size(text: str) -> int:
    factor = UNITS.get(text[-1:].upper(), 1)
    return int(float(text[:-1] if factor > 1 else text) * factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("what", choices=["tcp", "tls", "break"])
    parser.add_argument("--size", type=parse_size, default=2 << 30)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--receive", choices=["link", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--certs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        receive = receive_link if arguments.receive == "link" else receive_bare
        receive(arguments.what, arguments.certs, arguments.size)
        return
    if arguments.what == "break":
        print(json.dumps(measure_breaks(arguments.size)))
        return
    with tempfile.TemporaryDirectory() as folder:
        certs = Path(folder) / "certs"
        if arguments.what == "tls":
            from xsave.io.certs import EVERYWHERE, make_certificates

            make_certificates(certs, {"source": EVERYWHERE, "destination": EVERYWHERE}, 1)
        found = measure_pairs(arguments.what, certs, arguments.size, arguments.pairs)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
