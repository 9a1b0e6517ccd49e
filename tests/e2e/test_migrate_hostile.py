"""A peer that does not keep to the protocol: one clear error, within bounded time, and the guest
stays where it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from xsave import LinkError, OtherEndError, PeerError, SilentPeerError, XsaveError, build_manager
from xsave.link.link import Link
from xsave.negotiation import HostDescription, host_as_data, offer_as_data
from xsave.pipeline.migrate import migrate
from xsave.pipeline.negotiate import offer_domain
from xsave.testing import memory_links

from .ends import GUEST, QUICK, Ends, make_ends

ends = make_ends
ID = b"0123456789abcdef"

Say = dict[str, Any]
RECORDS = [entry.item.name for entry in build_manager().handlers]


def hello_back(**changes: Any) -> Say:
    host = HostDescription(
        formats=("native",), host="b", memory_free_bytes=1 << 40, codecs=("zstd",),
        records=dict.fromkeys(RECORDS, 9), facts={"tmem": {
            "supported": True, "enabled": True, "abi_version": 1, "max_pools": 16, "codecs": [],
        }},
    )  # fmt: skip
    return {
        "kind": "hello", "protocol": 1, "host": host_as_data(host), "refusals": [], "notices": [],
        **changes,
    }  # fmt: skip


def answer(link: Link, *says: Say | Callable[[Link], None]) -> None:
    """A destination that says these one after the other, whatever it hears."""
    try:
        link.receive(5)  # hello
        for say in says:
            if callable(say):
                say(link)
            else:
                link.send(say)
        link.source(5).read()
    except XsaveError:
        pass


def wait_for_stream(link: Link) -> None:
    link.source(5).read()


COMPLETE: Say = {"kind": "complete", "counts": {
    "records": {}, "nr_pages": 1, "nr_pfns": 1, "stream_bytes": 1,
}}  # fmt: skip


@pytest.mark.parametrize(
    ("says", "error"),
    [
        ([{"kind": "complete"}], "expected hello or abandoned, got 'complete'"),
        ([{"no": "kind"}], "message.kind: expected text"),
        ([{"kind": 7}], "message.kind"),
        ([{"kind": "x" * 5000}], "message.kind"),
        ([hello_back(host={"schema": "xsave/host/1"})], "wrong host.speaks"),
        ([hello_back(host=None)], "wrong host"),
        ([hello_back(refusals="no")], "wrong refusals"),
        ([hello_back(refusals=[["a", "b"]])], "wrong refusals"),
        ([hello_back(refusals=[["a", "b", "c"]] * 300)], "wrong refusals"),
        ([hello_back(notices=[["a", "b", [["c", 1.5]]]])], "wrong notices"),
        ([hello_back(), {"kind": "runs"}], "expected abandoned, got 'runs'"),
        ([hello_back(), hello_back()], "got 'hello'"),
        ([hello_back(), wait_for_stream, {"kind": "runs"}], "got 'runs'"),
        ([hello_back(), wait_for_stream, {"kind": "complete"}], "wrong counts"),
        ([hello_back(), wait_for_stream, COMPLETE], "count of what came"),
        ([hello_back(), {"kind": "abandoned", "code": "no", "reason": 1}], "wrong message.code"),
        ([hello_back(), {"kind": "abandoned", "code": 3, "reason": "x" * 5000}], "message.reason"),
    ],
)
def test_a_destination_that_talks_nonsense_leaves_the_guest_running_here(
    ends: Ends, says: list[Any], error: str
) -> None:
    with pytest.raises(LinkError) as caught:
        moved_to(ends, *says)
    assert error in str(caught.value)
    assert ends.guests("a") == {"web": True}
    assert all(entry.state == "kept" for entry in ends.here.entries())


def test_what_a_destination_says_of_its_failure_is_passed_on_with_its_exit_code(
    ends: Ends,
) -> None:
    told = {"kind": "abandoned", "code": 3, "reason": "xen.pv.info is wrong"}
    with pytest.raises(OtherEndError, match=r"memory:far: xen\.pv\.info is wrong") as caught:
        moved_to(ends, hello_back(), told)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("code", [0, 9, 77, 1 << 40])
def test_an_exit_code_that_no_failure_has_is_not_passed_on(ends: Ends, code: int) -> None:
    with pytest.raises(OtherEndError) as caught:
        moved_to(ends, hello_back(), {"kind": "abandoned", "code": code, "reason": "no"})
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("says", [[], [hello_back], [hello_back, wait_for_stream]])
def test_a_destination_that_says_nothing_is_given_up(ends: Ends, says: list[Any]) -> None:
    done = threading.Event()
    spoken = [say() if say is hello_back else say for say in says]
    try:
        with pytest.raises(SilentPeerError):
            moved_to(ends, *spoken, lambda _link: done.wait(20), answer_s=0.5, ended=done)
    finally:
        done.set()
    assert ends.guests("a") == {"web": True}


def moved_to(
    ends: Ends, *says: Any, answer_s: float = 5, ended: threading.Event | None = None
) -> None:
    with memory_links(QUICK) as pair:
        thread = threading.Thread(target=answer, args=(pair.far, *says))
        thread.start()
        try:
            migrate(GUEST, lambda: pair.near, manager=ends.manager, journal=ends.here,
                    answer_s=answer_s, ask_s=0)  # fmt: skip
        finally:
            if ended is not None:
                ended.set()
            pair.close()
            thread.join()


# -- a hostile source ------------------------------------------------------------------------


def hello(ends: Ends, **changes: Any) -> Say:
    domain = ends.sim.open(GUEST.removeprefix("sim:"))
    offer = offer_domain(domain, ends.manager, ends.manager.handler_table())
    domain.close()
    return {
        "kind": "hello", "protocol": [1, 1], "purpose": "migrate", "id": ID,
        "guest": offer_as_data(offer), **changes,
    }  # fmt: skip


INFO: Say = {
    "guest_type": "x86_pv", "page_size": 4096, "xen_version": "4.17", "word_size": 8,
    "details": {"name": "web", "p2m_size": 2048},
}  # fmt: skip
BEGIN: Say = {"kind": "begin", "info": INFO}


def stream(data: bytes) -> Callable[[Link], None]:
    def put(link: Link) -> None:
        link.sink.put([data])
        link.sink.finish()

    return put


@pytest.mark.parametrize(
    ("says", "state"),
    [
        ([{"kind": "begin"}], None),
        ([{"kind": "yours"}], None),
        ([{}], None),
        ([{"kind": "ask", "id": b"short"}], None),
        (["hello", {"kind": "yours"}], None),
        (["hello", {"kind": "begin", "info": 7}], None),
        (["hello", {"kind": "begin", "info": {**INFO, "guest_type": "z80"}}], None),
        (["hello", {"kind": "begin", "info": {**INFO, "details": {"a": b"bytes"}}}], None),
        (["hello", BEGIN, {"kind": "yours"}], "cleared"),
        (["hello", BEGIN, stream(b"")], "cleared"),
        (["hello", BEGIN, stream(b"nonsense" * 1000)], "cleared"),
        (["hello", BEGIN, stream(b"\x89XSV\r\n\x1a\n" + bytes(64))], "cleared"),
        (["hello", BEGIN, BEGIN, stream(b"x")], "cleared"),
    ],
)
def test_a_source_that_talks_nonsense_leaves_nothing_here(
    ends: Ends, says: list[Any], state: str | None
) -> None:
    receiver = ends.receiver()
    receiver.answer_s = 0.5
    with memory_links(QUICK) as pair:
        thread = threading.Thread(target=receiver.take, args=(pair.far,))
        thread.start()
        for say in says:
            if callable(say):
                say(pair.near)
            else:
                pair.near.send(hello(ends) if say == "hello" else say)
        thread.join(30)
        assert not thread.is_alive()
    assert ends.guests("b") == {}
    assert [entry.state for entry in ends.there.entries()] == ([state] if state else [])


def test_a_migration_that_was_here_before_is_not_begun_again(ends: Ends) -> None:
    report = ends.migrate()
    with memory_links(QUICK) as pair:
        receiver = ends.receiver("sim:?host=c")
        thread = threading.Thread(target=receiver.take, args=(pair.far,))
        thread.start()
        pair.near.send(hello(ends, id=bytes.fromhex(report.id)))
        pair.near.receive(5)
        pair.near.send(BEGIN)
        said = pair.near.receive(5)
        assert said["kind"] == "abandoned"
        assert "has been here before" in said["reason"]
        pair.near.close()
        thread.join(30)
    assert ends.guests("c") == {}
    assert ends.there.entries()[0].state == "closed"


@pytest.mark.parametrize("purpose", ["nothing", 7, None])
def test_a_hello_for_something_else_is_an_error(ends: Ends, purpose: object) -> None:
    with memory_links(QUICK) as pair:
        thread = threading.Thread(target=ends.receiver().take, args=(pair.far,))
        thread.start()
        pair.near.send(hello(ends, purpose=purpose))
        assert pair.near.receive(5)["kind"] == "abandoned"
        thread.join(30)


def test_peer_errors_are_link_errors() -> None:
    assert issubclass(PeerError, LinkError)
