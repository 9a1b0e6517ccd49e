"""Hosts served over a socket: the same guests, whatever their clients do."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xsave import DomainInfo, GuestType, TryAgainError, UsageError, XsaveError
from xsave_plugins.sim_host import SimBackend
from xsave_plugins.sim_host.calls import DOMAIN, FACETS
from xsave_plugins.sim_host.connection import MAX_PATH_BYTES, listen
from xsave_plugins.sim_host.domain import SimDomain
from xsave_plugins.sim_host.remote import Hosts, RemoteDomain
from xsave_plugins.sim_host.server import MAX_CLIENTS, MAX_PAGES
from xsave_plugins.sim_host.wire import HEAD, MAGIC, Message, WireError, encode

from .conftest import Served

INFO = DomainInfo(name="g", guest_type=GuestType.X86_PV, p2m_size=1024, nr_vcpus=1)


def u64(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def open_remote(served: Served, address: str) -> RemoteDomain:
    domain = SimBackend().open(f"{address}&at={served.path}")
    assert isinstance(domain, RemoteDomain)
    return domain


def test_only_the_owner_can_reach_the_socket(served: Served) -> None:
    assert stat.S_IMODE(Path(served.path).stat().st_mode) == 0o600


def test_a_served_guest_is_the_guest_of_that_host(served: Served) -> None:
    domain = open_remote(served, "pv?memory=8M&name=web&vcpus=2")
    local = SimDomain(served.backend.host("one").guests["web"])
    assert domain.info == local.info
    every = np.arange(domain.info.p2m_size, dtype=np.uint64)
    assert (domain.page_types(every) == local.page_types(every)).all()
    there, here = (np.empty((len(every), 4096), np.uint8) for _ in range(2))
    assert (domain.read_pages(every, there) == local.read_pages(every, here)).all()
    assert (there == here).all()
    assert domain.fingerprint() == local.fingerprint()
    domain.close()


def test_more_pages_than_one_message_holds_are_read_and_written(served: Served) -> None:
    domain = open_remote(served, "pvh?memory=64M&name=big")
    pfns = np.arange(0x200, 0x200 + MAX_PAGES + 5, dtype=np.uint64)
    pages = np.random.default_rng(1).integers(0, 255, (len(pfns), 4096), np.uint8)
    domain.write_pages(pfns, pages)
    out = np.empty_like(pages)
    assert domain.read_pages(pfns, out).all()
    assert (out == pages).all()
    with pytest.raises(WireError, match="at most 4096 pfns, got 4101"):
        domain._ask("read_pages", pfns)
    domain.close()


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_facets_answer_as_they_do_on_the_spot(served: Served, kind: str) -> None:
    domain = open_remote(served, f"{kind}?memory=8M&name=web&tmem=20")
    local = served.backend.host("one").guests["web"]
    assert {name for name in FACETS if domain.facet(name) is not None} == set(local.facets)
    assert domain.facet("swap") is None
    for name, calls in FACETS.items():
        if name not in local.facets:
            continue
        here, there = local.facets[name], domain.facet(name)
        for method, call in calls.items():
            if call.takes or method in {"end", "state", "p2m_frame_pfns"}:
                continue
            one, two = getattr(here, method), getattr(there, method)
            if not call.is_property:
                one, two = one(), two()
            assert (list(one) == list(two)) if isinstance(one, list) else (one == two), method
        with pytest.raises(AttributeError, match="has no 'boot'"):
            _ = there.boot
    domain.close()


def test_tmem_is_saved_over_the_socket_as_on_the_spot(served: Served) -> None:
    domain = open_remote(served, "pv?memory=8M&name=web&tmem=20&tmem_codec=zlib")
    here, there = served.backend.host("one").guests["web"].facets["tmem"], domain.facet("tmem")
    assert there.begin(live=True) is True
    handles = there.handles(0)
    assert list(handles) == here.handles(0)
    assert list(there.read_pages(0, handles[:7])) == here.read_pages(0, handles[:7])
    oid, index = handles[0]
    here.flush(0, oid, index)
    assert there.voids() == ((0, oid, index),)
    there.end()
    domain.close()


def test_one_who_is_killed_changes_nothing(served: Served) -> None:
    """Its connection ends; that is all that a host hears of it."""
    domain = open_remote(served, "pvh?memory=8M&name=web&workload=random&prove=yes")
    domain.step(0.1)
    domain.start_dirty_log()
    domain.throttle(0.5)
    domain.step(0.1)
    domain.pause()
    before, dirty = domain.fingerprint(), domain.read_dirty_log(clean=False)
    locator = domain.locator
    domain._hosts._connection._socket.close()
    with served.connect() as hosts:
        status = hosts.guest("web")
    assert status is not None
    assert (status["state"], status["is_logged"], status["share"]) == ("paused", True, 0.5)
    again = SimBackend().find(locator)
    assert again is not None
    assert again.fingerprint() == before
    assert (again.read_dirty_log(clean=False) == dirty).all()
    assert dirty.any()
    again.stop_dirty_log()
    again.resume()
    with served.connect() as hosts:
        assert [one["state"] for one in hosts.guests()] == ["running"]
    again.destroy()
    again.destroy()  # harmless
    again.close()
    with served.connect() as hosts:
        assert hosts.guest("web") is None
        assert set(hosts.proofs()["left"]) == {"web"}
    assert SimBackend().find(locator) is None


def test_a_host_remembers_when_a_guest_ran(served: Served) -> None:
    domain = open_remote(served, "pvh?memory=4M&name=web&prove=yes")
    domain.pause()
    domain.pause()
    domain.resume()
    domain.destroy()
    domain.close()
    with served.connect() as hosts:
        history = hosts.history("web")
        assert hosts.history("other") == ()
    assert [what for _, _, _, what in history] == ["runs", "stands", "runs", "ended"]
    assert len({guest_id for _, guest_id, _, _ in history}) == 1
    assert list(history) == sorted(history)


def test_what_was_half_built_is_found_by_its_locator_and_can_be_destroyed(served: Served) -> None:
    backend = SimBackend()
    domain = backend.create(f"?name=web&at={served.path}", INFO)
    domain.populate(u64(1, 2, 3))
    locator = domain.locator
    domain.close()
    with served.connect() as hosts:
        (status,) = hosts.guests()
    assert (status["state"], status["nr_pages"], status["nr_ticks"]) == ("being built", 3, None)
    found = backend.find(locator)
    assert found is not None
    found.destroy()
    found.close()
    assert backend.find(locator) is None
    # another guest of that name is another guest
    backend.create(f"?name=web&at={served.path}", INFO).close()
    assert backend.find(locator) is None


def test_a_guest_is_known_before_it_is_made(served: Served) -> None:
    backend = SimBackend()
    address, locator = backend.reserve(f"?at={served.path}")
    assert backend.reserve(address) == (address, "")  # it has one
    assert backend.reserve("?host=b") == ("?host=b", "")  # ends with this process
    assert backend.find(locator) is None
    domain = backend.create(address, INFO)
    assert domain.locator == locator
    with pytest.raises(UsageError, match="of this id is there already"):
        backend.create(address, INFO)
    domain.destroy()
    domain.close()


def test_an_address_without_a_type_never_makes_a_guest(served: Served) -> None:
    with pytest.raises(UsageError, match=r"host one has no guest 'web' \(it has: none\)"):
        SimBackend().open(f"?name=web&at={served.path}")
    open_remote(served, "pv?memory=8M&name=web").close()
    found = SimBackend().open(f"?name=web&at={served.path}")
    assert found.info.name == "web"
    found.close()
    assert len(served.backend.guests()) == 1


def test_errors_come_back_as_what_they_are(served: Served) -> None:
    with pytest.raises(UsageError, match="no option 'colour'"):
        open_remote(served, "pv?colour=red")
    with pytest.raises(XsaveError, match="host tiny has not enough memory"):
        open_remote(served, "pv?memory=16M&host=tiny&host_memory=4M")
    domain = open_remote(served, "pv?memory=8M&name=web")
    with pytest.raises(XsaveError, match="pfn 0x5000 has no memory"):
        domain.write_pages(u64(0x5000), np.zeros((1, 4096), np.uint8))
    with pytest.raises(XsaveError, match="has no 'hvm' state here"):
        domain._ask("hvm.params")
    with pytest.raises(UsageError, match="passes nothing on to another socket"):
        domain._hosts.call("open", "pv?at=/other.sock")
    with pytest.raises(UsageError, match="a locator has the id"):
        SimBackend().find("pv?name=web")
    other = served.connect()
    served.backend.host("one").guests["web"].destroy()
    with pytest.raises(XsaveError, match="this guest is no more"):
        domain.pause()
    other.close()
    domain.close()


def test_a_host_that_goes_away_is_a_condition_that_may_pass(tmp_path: Path) -> None:
    with pytest.raises(TryAgainError, match="no simulated hosts are served at"):
        SimBackend().find(f"?id={'0' * 32}&at={tmp_path / 'none.sock'}")
    path = str(tmp_path / "short.sock")
    listener = listen(path)
    hosts = Hosts(path)
    listener.accept()[0].close()
    with pytest.raises(TryAgainError, match="does not answer"):
        hosts.call("guests")
    hosts.close()
    listener.close()


def test_a_guest_is_resumed_although_the_answer_is_lost(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = open_remote(served, "pvh?memory=4M&name=web&prove=yes")
    domain.pause()
    connection = domain._hosts._connection
    send = connection.send

    def send_and_be_cut_off(message: Message) -> None:
        send(message)
        assert connection.receive() is not None
        connection.close()

    monkeypatch.setattr(connection, "send", send_and_be_cut_off)
    domain.resume()
    with served.connect() as hosts:
        assert [what for *_, what in hosts.history("web")] == ["runs", "stands", "runs"]
    domain._hosts._connection.close()
    served.backend.host("one").guests["web"].destroy()
    with pytest.raises(TryAgainError):  # it may have run: nobody can know
        domain.resume()
    domain.close()


def test_a_socket_that_was_left_behind_gives_way_and_one_in_use_does_not(
    served: Served, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="served here already"):
        listen(served.path)
    path = tmp_path / "left.sock"
    listen(str(path)).close()
    assert path.is_socket()
    listen(str(path)).close()
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        listen(str(file))
    assert file.read_text() == "mine"
    with pytest.raises(UsageError, match="no socket can be made here: No such file"):
        listen(str(tmp_path / "nowhere" / "x.sock"))
    with pytest.raises(UsageError, match="1 to 107 bytes"):
        listen("x" * (MAX_PATH_BYTES + 1))


def strange(served: Served, data: bytes) -> bytes:
    """What a host says to a client that sends these bytes and no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(60)
        client.connect(served.path)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        said = b""
        while part := client.recv(1 << 16):
            said += part
    return said


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "expected magic"),
        (HEAD.pack(MAGIC, (1 << 32) - 1, 0), "at most 16777216 bytes of CBOR"),
        (HEAD.pack(MAGIC, 50, 0) + b"\x83", "cut: expected 50 bytes, got 1"),
        (b"".join(encode(Message("explode", []))), "no verb 'explode'"),
        (b"".join(encode(Message("open", [7]))), "argument 1: expected text, got a int"),
        (b"".join(encode(Message("create", ["", {"name": 1}]))), "told of the guest is wrong"),
        (b"".join(encode(Message("pause", []))), "this guest is no more"),
        (b"".join(encode(Message("pause", ["x", "y"]))), "expected 0 arguments, got 1"),
    ],
)
def test_hostile_bytes_end_in_one_clear_error(served: Served, data: bytes, says: str) -> None:
    assert says in strange(served, data).decode(errors="replace")
    with served.connect() as hosts:
        assert hosts.guests() == ()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*DOMAIN, *(f"pv.{name}" for name in FACETS["pv"])]),
            st.lists(
                st.integers(0, (1 << 64) - 1)
                | st.booleans()
                | st.binary(max_size=9)
                | st.sampled_from(["pv", "basic", u64(1, 2), u64((1 << 64) - 1),
                                   np.ones((2, 4096), np.uint8)]),
                max_size=3,
            ),
        ).filter(lambda call: call[0] not in {"destroy", "step"}),
        max_size=8,
    )
)  # fmt: skip
def test_whatever_one_client_calls_the_guests_of_others_run_on(served: Served, calls: list) -> None:
    if not served.backend.guests():
        open_remote(served, "pvh?memory=4M&name=mine").close()
        open_remote(served, "pv?memory=4M&name=other").close()
    mine = served.backend.host("one").guests["mine"]
    other = served.backend.host("one").guests["other"]
    for verb, arguments in calls:
        hosts = served.connect()
        try:
            hosts.call(verb, other.id, *arguments)
        except XsaveError as error:
            assert str(error)
        hosts.close()
    before = mine.status["nr_ticks"]
    mine.step(0.01)
    assert mine.status["nr_ticks"] == before + 1  # type: ignore[operator]


def test_too_many_clients_are_told_to_try_again(served: Served) -> None:
    clients = [served.connect() for _ in range(MAX_CLIENTS)]
    for client in clients:
        client.guests()
    with pytest.raises(TryAgainError, match="32 clients already"), served.connect() as late:
        late.call("guests")
    for client in clients:
        client.close()
