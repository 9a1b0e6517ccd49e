"""Tmem goes from a running guest to another host: all of it that is valid at the pause, each
page once, and nothing but invalidations in the pause."""

from __future__ import annotations

import itertools
import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsave
from tests.plugins.fake_domain import FakeDomain
from xsave import (
    FieldError,
    GuestType,
    PluginManager,
    Record,
    RecordHandler,
    RecordType,
    XsaveError,
    build_manager,
)
from xsave_plugins.sim_host.host import Host
from xsave_plugins.sim_host.tmem import COMPRESS, FROZEN, PERSISTENT, SHARED, Tmem
from xsave_plugins.sim_host.tmem_workload import NR_WRONG
from xsave_plugins.tmem.check import TmemCheck
from xsave_plugins.tmem.client import TmemClientHandler
from xsave_plugins.tmem.handles import as_handles
from xsave_plugins.tmem.invalidate import TmemInvalidate, TmemInvalidateHandler
from xsave_plugins.tmem.live import VOIDS_WORTH_A_RECORD, TmemStream
from xsave_plugins.tmem.options import DEFAULTS, TmemOptions
from xsave_plugins.tmem.pages import TmemPages, TmemPagesHandler
from xsave_plugins.tmem.pool import TmemPoolHandler
from xsave_plugins.tmem.settled import TmemSettledHandler

ONES = 0xFFFFFFFFFFFFFFFF
CORE = Path(xsave.__file__).parent
HOSTS = Host("x", 4 << 20), Host("y", 4 << 20)
HANDLERS: dict[str, RecordHandler[Any]] = {
    handler.name: handler
    for handler in (
        TmemClientHandler(), TmemPoolHandler(), TmemPagesHandler(), TmemInvalidateHandler(),
        TmemSettledHandler(),
    )
}  # fmt: skip
WITH_EPHEMERAL = TmemOptions(ephemeral=True)
Sent = Sequence[tuple[str, Any]]
Contents = dict[tuple[int, tuple[int, ...], int], bytes]


def make(host: Host = HOSTS[0], codec: str = "") -> tuple[Tmem, FakeDomain]:
    tmem = Tmem(SimpleNamespace(host=host, name="guest"), codec)  # type: ignore[arg-type]  # as much of a guest as it looks at
    return tmem, FakeDomain(GuestType.X86_HVM, 1, facets={"tmem": tmem})


def source(codec: str = "", *, abi: int = 1, pools: Iterable[int] = (PERSISTENT,)) -> tuple[
    Tmem, FakeDomain
]:  # fmt: skip
    tmem, domain = make(codec=codec)
    tmem.create_client(abi, 16, COMPRESS if codec else 0, 7, 0)
    for flags in pools:
        tmem.new_pool(flags)
    return tmem, domain


def page(number: int) -> bytes:
    return number.to_bytes(4, "little") * 1024


def noise(number: int) -> bytes:
    """That no codec makes smaller."""
    made = b"".join(zlib.crc32(bytes([number, place & 255, place >> 8])).to_bytes(4, "little")
                    for place in range(1024))  # fmt: skip
    assert len(zlib.compress(made, 1)) > 4096
    return made


def contents(tmem: Tmem) -> Contents:
    """Of persistent pools, by what the guest would get."""
    found: Contents = {}
    for pool_id, flags, *_ in tmem.pools():
        if flags & PERSISTENT:
            for oid, index in tmem.handles(pool_id):
                got = tmem.get(pool_id, oid, index)
                assert got is not None
                found[pool_id, oid, index] = got
    return found


def everything(tmem: Tmem) -> Contents:
    """Of all pools, looked at without asking for it as the guest does."""
    found: Contents = {}
    for pool_id, *_ in tmem.pools():
        handles = tmem.handles(pool_id)
        for (oid, index), held in zip(handles, tmem.read_pages(pool_id, handles), strict=True):
            assert held is not None
            found[pool_id, oid, index] = held if len(held) == 4096 else zlib.decompress(held)
    return found


def announce(domain: FakeDomain, options: TmemOptions = DEFAULTS) -> Sent:
    handlers = TmemClientHandler(), TmemPoolHandler(options)
    return [(handler.name, state) for handler in handlers for state in handler.collect(domain)]


def stream_of(domain: FakeDomain, options: TmemOptions = DEFAULTS) -> TmemStream:
    stream = TmemPagesHandler(options).stream(domain)
    assert isinstance(stream, TmemStream)
    return stream


def deliver(sent: Sent, dest: FakeDomain) -> None:
    """As bodies, as they would travel."""
    for name, state in sent:
        handler = HANDLERS[name]
        body = b"".join(handler.encode(state))
        handler.apply(dest, handler.decode(memoryview(body)))


def drain(stream: TmemStream, size_bytes: int = 1 << 20) -> Sent:
    sent: list[tuple[str, Any]] = []
    while more := stream.more(size_bytes):
        sent += more
    return sent


# -- any interleaving ------------------------------------------------------------------

oids = st.sampled_from([(1, ONES, 0), (ONES, ONES, 0), (2, 0, 0)])
places = st.tuples(st.integers(0, 2), oids, st.integers(0, 3))
puts = st.tuples(places, st.integers(1, 200), st.booleans())
operations = (
    st.tuples(st.just("put"), places, st.integers(0, 1 << 31))
    | st.tuples(st.just("get"), places, st.just(0))
    | st.tuples(st.just("flush"), places, st.just(0))
    | st.tuples(st.just("flush object"), places, st.just(0))
    | st.tuples(st.just("more"), st.none(), st.integers(0, 6 * 4096))
)
codecs = st.sampled_from(["", "zlib"])


options = st.builds(TmemOptions, st.booleans(), st.booleans())


def do(tmem: Tmem, steps: Sequence[Any], stream: TmemStream) -> Iterator[tuple[str, Any]]:
    """What a guest does while it is being saved, and what is sent meanwhile."""
    for what, place, number in steps:
        match what:
            case "put":
                pool_id, oid, index = place
                assert not tmem.put(pool_id, oid, index, page(number))
            case "get":
                tmem.get(*place)
            case "flush":
                tmem.flush(*place)
            case "flush object":
                tmem.flush_object(*place[:2])
            case "more":
                yield from stream.more(number)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(puts, max_size=30), st.lists(operations, max_size=30),
    st.lists(operations, max_size=9), codecs, codecs, options,
)  # fmt: skip
def test_whatever_a_guest_does_meanwhile_the_destination_has_what_it_has(
    before: Sequence[Any], steps: Sequence[Any], late: Sequence[Any], codec: str,
    dest_codec: str, options: TmemOptions,
) -> None:  # fmt: skip
    tmem, domain = source(codec, pools=(PERSISTENT, PERSISTENT, 0))
    for place, number, compressible in before:
        pool_id, oid, index = place
        assert tmem.put(pool_id, oid, index, page(number) if compressible else noise(number))
    arrived, dest = make(HOSTS[1], dest_codec)
    stream = stream_of(domain, options)
    announced = announce(domain, options)
    deliver(announced, dest)
    sent = [*do(tmem, steps, stream), *drain(stream)]
    sent += do(tmem, late, stream)
    last = stream.final()
    deliver([*sent, *last], dest)
    stream.close()
    assert {name for name, _ in last} <= {"xen.tmem.invalidate", "xen.tmem.settled"}
    assert contents(arrived) == contents(tmem)
    assert arrived.fingerprint() == tmem.fingerprint()
    if not options.ephemeral:  # by existence alone
        assert not list(arrived.handles(2))
    assert everything(arrived).items() <= everything(tmem).items()
    seen = TmemCheck()
    for name, state in [*announced, *sent, *last]:
        seen.see_record(Record(RecordType(name), b""), state)
    seen.finish()
    handles = [
        (state.pool_id, *handle)
        for _, state in sent
        if isinstance(state, TmemPages)
        for handle in as_handles(state.oids, state.indexes)
    ]
    assert len(handles) == len(set(handles)) == stream.traffic.nr_pages
    assert stream.traffic.nr_pages_paused == 0
    assert not options.recode or not any(
        state.codec for _, state in sent if isinstance(state, TmemPages)
    )


# -- one promise each ------------------------------------------------------------------


@pytest.mark.parametrize("abi", [0, 1])
def test_client_pools_and_pages_arrive_with_object_ids_of_either_width(abi: int) -> None:
    tmem, domain = source(abi=abi, pools=(PERSISTENT, 0, SHARED, PERSISTENT))
    tmem.destroy_pool(1)  # gaps are real
    tmem.set_cap(999)
    oid = (5, 6, 7) if abi else (5,)
    tmem.put(3, oid, 0xFFFFFFFF, page(1))
    arrived, dest = make(HOSTS[1])
    stream = stream_of(domain)
    deliver([*announce(domain), *drain(stream)], dest)
    assert arrived.client() == tmem.client() == (abi, 16, 0, 7, 999)
    assert arrived.pools() == tmem.pools()
    assert [pool_id for pool_id, *_ in arrived.pools()] == [0, 2, 3]
    assert contents(arrived) == {(3, oid, 0xFFFFFFFF): page(1)}


def test_a_frozen_client_arrives_with_its_pages_and_frozen() -> None:
    tmem, domain = source()
    tmem.put(0, (1, 2, 3), 4, page(1))
    tmem.freeze(True)
    arrived, dest = make(HOSTS[1])
    stream = stream_of(domain)
    deliver([*announce(domain), *drain(stream)], dest)
    stream.close()
    assert contents(arrived) == {(0, (1, 2, 3), 4): page(1)}
    assert (arrived.client() or (0, 0, 0))[2] == FROZEN
    assert not arrived.put(0, (1, 2, 3), 5, page(1))


def test_records_hold_at_most_1024_pages_of_one_pool() -> None:
    tmem, domain = source(pools=(PERSISTENT, PERSISTENT))
    for pool_id, index in itertools.product((0, 1), range(1100)):
        tmem.put(pool_id, (1, 2, 3), index, page(index))
    states = [state for _, state in drain(stream_of(domain), 1 << 30)]
    assert [(state.pool_id, len(state.indexes)) for state in states] == [
        (0, 1024), (0, 76), (1, 948), (1, 152),
    ]  # fmt: skip


def test_each_call_sends_about_as_much_as_it_is_asked_for() -> None:
    tmem, domain = source()
    for index in range(300):
        tmem.put(0, (1, 2, 3), index, page(index))
    stream = stream_of(domain)
    sizes = [sum(len(state.indexes) for _, state in stream.more(400_000)) for _ in range(5)]
    assert sizes == [97 + 1, 97 + 1, 97 + 1, 300 - 3 * 98, 0]


def test_a_few_voids_wait_for_the_pause_and_many_do_not() -> None:
    tmem, domain = source()
    for index in range(2 * VOIDS_WORTH_A_RECORD):
        tmem.put(0, (1, 2, 3), index, page(index))
    stream = stream_of(domain)
    drain(stream)
    for index in range(VOIDS_WORTH_A_RECORD - 1):
        tmem.flush(0, (1, 2, 3), index)
    assert stream.more(1 << 20) == []
    tmem.flush(0, (1, 2, 3), 1000)  # nothing there
    assert stream.more(1 << 20) == []
    tmem.flush(0, (1, 2, 3), 400)
    [(name, state)] = stream.more(1 << 20)
    assert (name, len(state.indexes)) == ("xen.tmem.invalidate", VOIDS_WORTH_A_RECORD)
    tmem.flush_object(0, (1, 2, 3))
    [(_, state)] = stream.final()
    assert isinstance(state, TmemInvalidate)
    assert (state.oids.tolist(), state.indexes) == ([[1, 2, 3]], None)
    assert stream.traffic.nr_void == VOIDS_WORTH_A_RECORD + 1
    assert stream.traffic.nr_void_paused == 1


def test_pages_that_nobody_asked_for_in_time_are_not_lost() -> None:
    tmem, domain = source()
    tmem.put(0, (1, 2, 3), 4, page(1))
    stream = stream_of(domain)
    [(name, _)] = stream.final()
    assert (name, stream.traffic.nr_pages_paused) == ("xen.tmem.pages", 1)


def test_a_page_flushed_just_before_it_is_read_is_left_out() -> None:
    tmem, domain = source()
    for index in range(3):
        tmem.put(0, (1, 2, 3), index, page(index))
    stream = stream_of(domain)
    read_pages = tmem.read_pages

    def flushed_meanwhile(pool_id: int, handles: Any) -> Any:
        tmem.flush(0, (1, 2, 3), 1)
        return read_pages(pool_id, handles)

    tmem.read_pages = flushed_meanwhile  # type: ignore[method-assign]  # a race, repeatable
    [(_, state)] = stream.more(1 << 20)
    assert state.indexes.tolist() == [0, 2]
    assert stream.traffic.nr_gone == 1


@pytest.mark.parametrize("what", ["closed", "broken"])
def test_the_client_is_as_before_after_a_save_however_it_ended(what: str) -> None:
    tmem, domain = source()
    tmem.put(0, (1, 2, 3), 4, page(1))
    if what == "closed":
        stream_of(domain).close()
    else:

        def broken(pool_id: int) -> Any:
            raise ZeroDivisionError

        tmem.handles = broken  # type: ignore[method-assign]  # a broken host
        with pytest.raises(ZeroDivisionError):
            HANDLERS["xen.tmem.pages"].stream(domain)
    assert tmem.put(0, (1, 2, 3), 4, page(2))


def test_a_guest_without_tmem_has_no_records() -> None:
    for domain in (make()[1], FakeDomain(GuestType.X86_PV, 1)):
        assert announce(domain) == []
        assert HANDLERS["xen.tmem.pages"].stream(domain) is None


def test_a_client_without_pools_arrives_too() -> None:
    tmem, domain = source(pools=())
    arrived, dest = make(HOSTS[1])
    assert HANDLERS["xen.tmem.pages"].stream(domain) is None
    deliver(announce(domain), dest)
    assert arrived.client() == tmem.client()


def test_a_destination_without_tmem_refuses() -> None:
    _, domain = source()
    with pytest.raises(XsaveError, match="has no 'tmem' state here"):
        deliver(announce(domain), FakeDomain(GuestType.X86_PV, 1))


# -- pages of ephemeral pools ----------------------------------------------------------


def ephemeral_source() -> tuple[Tmem, FakeDomain]:
    """With pages 0 to 3 of one object in ephemeral pool 1, and in shared pool 2."""
    tmem, domain = source(pools=(PERSISTENT, 0, SHARED))
    for pool_id, index in itertools.product((1, 2), range(4)):
        tmem.put(pool_id, (1, 2, 3), index, page(index))
    return tmem, domain


def test_ephemeral_pages_stay_behind_unless_they_are_asked_for() -> None:
    _, domain = ephemeral_source()
    assert [state.n_pages for _, state in announce(domain)[1:]] == [0, 0, 0]
    assert drain(stream_of(domain)) == []
    assert [state.n_pages for _, state in announce(domain, WITH_EPHEMERAL)[1:]] == [0, 4, 0]
    [(_, state)] = drain(stream_of(domain, WITH_EPHEMERAL))
    assert (state.pool_id, state.indexes.tolist()) == (1, [0, 1, 2, 3])


def test_ephemeral_pages_that_the_guest_lost_meanwhile_are_void_though_no_host_tells() -> None:
    tmem, domain = ephemeral_source()
    arrived, dest = make(HOSTS[1])
    stream = stream_of(domain, WITH_EPHEMERAL)
    deliver([*announce(domain, WITH_EPHEMERAL), *drain(stream)], dest)
    assert tmem.get(1, (1, 2, 3), 0) == page(0)  # given back for good
    tmem.flush(1, (1, 2, 3), 1)
    tmem.put(1, (1, 2, 3), 2, page(99))  # not taken, and the other goes
    assert tmem.voids() == []
    last = stream.final()
    assert [name for name, _ in last] == ["xen.tmem.invalidate", "xen.tmem.settled"]
    deliver(last, dest)
    assert everything(arrived) == {(1, (1, 2, 3), 3): page(3)}
    settled = last[-1][1]
    assert (settled.nr_pages, settled.nr_valid) == (4, 1)
    figures = {figure.name: figure.value for figure in stream.figures()}
    assert (figures["ephemeral"], figures["invalidations"]) == (4, 3)


def test_a_void_that_was_lost_on_the_way_stops_the_restore() -> None:
    tmem, domain = ephemeral_source()
    _, dest = make(HOSTS[1])
    stream = stream_of(domain, WITH_EPHEMERAL)
    deliver([*announce(domain, WITH_EPHEMERAL), *drain(stream)], dest)
    tmem.flush(1, (1, 2, 3), 1)
    with pytest.raises(
        XsaveError, match="has 4 pages after the restore, of which only 3 are valid"
    ):
        deliver([last for last in stream.final() if last[0] == "xen.tmem.settled"], dest)


def test_a_stream_that_goes_on_after_a_pause_settles_again() -> None:
    tmem, domain = ephemeral_source()
    arrived, dest = make(HOSTS[1])
    stream = stream_of(domain, WITH_EPHEMERAL)
    deliver([*announce(domain, WITH_EPHEMERAL), *drain(stream), *stream.final()], dest)
    assert len(everything(arrived)) == 4
    tmem.flush_object(1, (1, 2, 3))
    last = stream.final()
    deliver(last, dest)
    assert everything(arrived) == {}
    assert [(state.nr_pages, state.nr_valid) for _, state in last[1:]] == [(4, 0)]


# -- pages that the host holds compressed ----------------------------------------------


@pytest.mark.parametrize("dest_codec", ["", "zlib"])
def test_pages_travel_as_held_and_are_recoded_only_where_they_must_be(
    dest_codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    tmem, domain = source("zlib")
    for index in range(10):
        tmem.put(0, (1, 2, 3), index, page(index) if index else noise(0))
    arrived, dest = make(HOSTS[1], dest_codec)
    stream = stream_of(domain)
    with caplog.at_level(logging.INFO, "xsave.tmem"):
        deliver([*announce(domain), *drain(stream)], dest)
        stream.close()
    assert contents(arrived) == contents(tmem)
    handles = tmem.handles(0)
    as_held = arrived.read_pages(0, handles) == tmem.read_pages(0, handles)
    assert as_held == bool(dest_codec)
    pages = HANDLERS["xen.tmem.pages"]
    assert isinstance(pages, TmemPagesHandler)
    there, here = stream.traffic, pages.arrivals(dest)
    assert (there.nr_pages, there.nr_compressed) == (here.nr_pages, here.nr_compressed) == (10, 9)
    assert here.nr_recoded == (0 if dest_codec else 9)
    assert there.saved_bytes == here.saved_bytes > 9 * 4000
    said = "are held so" if dest_codec else "are recoded"
    assert f"arrive compressed with zlib and {said}" in caplog.text
    assert f"sent 10 pages, 9 of them as the host holds them ({there.saved_bytes}" in caplog.text


def test_pages_are_recoded_before_they_go_when_that_is_asked_for() -> None:
    tmem, domain = source("zlib")
    for index in range(10):
        tmem.put(0, (1, 2, 3), index, page(index) if index else noise(0))
    _, dest = make(HOSTS[1], "zlib")
    stream = stream_of(domain, TmemOptions(recode=True))
    sent = drain(stream)
    assert [(state.codec, state.contents.shape) for _, state in sent] == [("", (10, 4096))]
    deliver([*announce(domain), *sent], dest)
    figures = {figure.name: figure.value for figure in stream.figures()}
    assert (figures["as_held"], figures["recoded"], figures["plain"]) == (0, 9, 1)
    assert (figures["page_bytes"], figures["saved_bytes"]) == (40960, 0)


def test_a_codec_that_nobody_here_has_is_named() -> None:
    _, dest = source()
    made = TmemPages.of(0, [((1, 2, 3), 4)], [b"abc"], "lzo1x")
    with pytest.raises(XsaveError, match=r"compressed with 'lzo1x'.* recoded only from zlib"):
        HANDLERS["xen.tmem.pages"].apply(dest, made)


@pytest.mark.parametrize(
    "data", [b"junk", zlib.compress(bytes(4095)), zlib.compress(bytes(4097)),
             zlib.compress(bytes(1 << 20))[:1000], zlib.compress(bytes(4096))[:-1]],
)  # fmt: skip
@pytest.mark.parametrize("codec", ["", "zlib"])
def test_a_damaged_page_is_not_restored(data: bytes, codec: str) -> None:
    tmem, dest = source(codec)
    made = TmemPages.of(0, [((1, 2, 3), 4)], [data], "zlib")
    with pytest.raises((FieldError, XsaveError)):
        HANDLERS["xen.tmem.pages"].apply(dest, made)
    assert contents(tmem) == {}


# -- end to end ------------------------------------------------------------------------


@pytest.fixture
def manager() -> Iterator[PluginManager]:
    manager = build_manager()
    yield manager
    backend: Any = manager.backends.find("sim")
    for guest in [guest for host in "ab" for guest in backend.host(host).guests.values()]:
        guest.destroy()


def guest_on(manager: PluginManager, host: str) -> Any:
    """The only one there."""
    backend: Any = manager.backends.find("sim")
    (guest,) = backend.host(host).guests.values()
    return guest


def tmem_on(manager: PluginManager, host: str) -> Tmem:
    facet = guest_on(manager, host).facets["tmem"]
    assert isinstance(facet, Tmem)
    return facet


def test_an_idle_guests_tmem_goes_through_an_image(tmp_path: Path, manager: PluginManager) -> None:
    image = tmp_path / "guest.xsv"
    saved = xsave.run("sim:pvh?memory=32M&tmem=500", image, manager=manager)
    assert saved.records["xen.tmem.pages"].body_bytes > 500 * 4096
    xsave.run(image, "sim:pvh?host=b", manager=manager)
    before, after = tmem_on(manager, "a"), tmem_on(manager, "b")
    assert contents(after) == contents(before)
    assert len(contents(after)) == 500
    assert before.put(0, (0, ONES, 0), 0, page(0)), "the source's client is not thawed"


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
@pytest.mark.parametrize("through_image", [True, False])
def test_a_busy_guests_tmem_arrives_and_goes_on_there(
    kind: str, through_image: bool, tmp_path: Path, manager: PluginManager
) -> None:
    source = (
        f"sim:{kind}?name=g&memory=32M&clock=reads&dirty=20M/s&tmem=1500&tmem_rate=6000"
        "&tmem_pools=persistent,ephemeral,shared,persistent&tmem_codec=zlib"
    )
    dest = f"sim:{kind}?name=g&host=b&clock=manual"
    image = tmp_path / "guest.xsv"
    if through_image:
        saved = xsave.run(source, image, manager=manager, then="pause")
        xsave.run(image, dest, manager=manager)
    else:
        saved = xsave.run(source, dest, manager=manager, then="pause")
    before, after = tmem_on(manager, "a"), tmem_on(manager, "b")
    assert contents(after) == contents(before)
    assert len(contents(after)) > 100
    assert saved.records["xen.tmem.invalidate"].count > 0
    assert after.fingerprint() == before.fingerprint()
    as_known = [(pool_id, flags, uuid) for pool_id, flags, _, *uuid in before.pools()]
    assert [(pool_id, flags, uuid) for pool_id, flags, _, *uuid in after.pools()] == as_known
    guest = guest_on(manager, "b")
    guest.resume()
    guest.step(1)
    assert contents(after) != contents(before)  # it takes pages again


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ids", [64, 192])
@pytest.mark.parametrize("workload", ["sequential", "random", "hungry", "ballooning"])
def test_under_load_every_valid_page_arrives_and_no_other(
    workload: str, ids: int, seed: int, manager: PluginManager
) -> None:
    kind = ("pv", "pvh", "hvm")[seed]
    source = (
        f"sim:{kind}?name=g&memory=16M&clock=reads&dirty=20M/s&workload={workload}&seed={seed}"
        f"&tmem=600&tmem_rate=9000&tmem_ids={ids}&tmem_pools=ephemeral,persistent,shared"
        f"&tmem_codec=zlib"
    )
    saved = xsave.run(
        source, f"sim:{kind}?name=g&host=b&clock=manual&tmem_codec=zlib", manager=manager,
        then="pause", options={"tmem.ephemeral": "yes"},
    )  # fmt: skip
    before, after = tmem_on(manager, "a"), tmem_on(manager, "b")
    assert contents(after) == contents(before)
    valid = everything(before)
    shared = {handle for handle in valid if handle[0] == 2}
    assert everything(after) == {key: valid[key] for key in valid.keys() - shared}
    assert saved.save is not None
    [beside] = saved.save.beside
    assert beside.plugin == "tmem"
    assert (beside.passes[-1].name, beside.passes[-1].figures["pages"]) == ("paused", 0)
    assert sum(one.figures["invalidations"] for one in beside.passes) > 0
    [arrived] = saved.arrived
    sent = {figure.name: figure.value for figure in beside.figures}
    came = {figure.name: figure.value for figure in arrived.figures}
    assert came["pages"] == sent["pages"]
    assert came["as_held"] == sent["as_held"] > 0
    assert came["recoded"] == 0
    assert came["invalidations"] == sent["invalidations"]
    guest = guest_on(manager, "b")
    guest.resume()
    guest.step(1)
    assert guest.peek(1)[NR_WRONG] == 0


def test_the_core_knows_nothing_of_tmem() -> None:
    for file in CORE.rglob("*.py"):
        text = file.read_text().lower()
        for other in ("--plugins tmem,hvm", "guestmemory"):  # the command line's examples; a word
            text = text.replace(other, "")
        assert "tmem" not in text, file
