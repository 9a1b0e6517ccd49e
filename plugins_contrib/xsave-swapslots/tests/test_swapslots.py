"""Copies of swap slots arrive as they are at the pause: none is missing, none is stale."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from xsave import Domain, RecordHandler
from xsave.testing import HandlerSuite
from xsave.testing.pytest_plugin import MakeManager

import xsave_swapslots
from xsave_swapslots import PagesHandler, Slots, VoidHandler

Copies = dict[tuple[int, int], bytes]
HANDLERS: dict[str, RecordHandler[Slots]] = {h.name: h for h in (PagesHandler(), VoidHandler())}


class FakeHost:
    """The facet, and the guest that drops copies meanwhile."""

    def __init__(self, copies: Mapping[tuple[int, int], bytes]) -> None:
        self.copies: Copies = dict(copies)
        self.saving = False
        self._dropped: list[tuple[int, int | None]] = []

    def begin(self) -> Mapping[int, Sequence[int]]:
        self.saving = True
        devices = {device for device, _ in self.copies}
        return {one: [slot for device, slot in self.copies if device == one] for one in devices}

    def read(self, device: int, slots: Sequence[int]) -> Sequence[bytes | None]:
        return [self.copies.get((device, slot)) for slot in slots]

    def dropped(self) -> Sequence[tuple[int, int | None]]:
        dropped, self._dropped = self._dropped, []
        return dropped

    def end(self) -> None:
        self.saving = False

    def restore(self, device: int, slot: int, page: bytes) -> None:
        self.copies[device, slot] = page

    def drop(self, device: int, slot: int | None) -> None:
        self.copies = {
            key: page
            for key, page in self.copies.items()
            if key[0] != device or slot not in (None, key[1])
        }
        self._dropped.append((device, slot))


class FakeDomain:
    """As much of a domain as these handlers ask for."""

    def __init__(self, host: FakeHost | None) -> None:
        self._host = host

    def facet(self, name: str) -> Any:
        return self._host if name == "swapslots" else None

    need_facet = facet


def domain(host: FakeHost | None) -> Domain:
    return cast(Domain, FakeDomain(host))


def page(number: int) -> bytes:
    return struct.pack("<I", number) * 1024


def deliver(sent: Sequence[tuple[str, Slots]], dest: FakeHost) -> list[str]:
    """As bodies, as they would travel."""
    for name, state in sent:
        handler = HANDLERS[name]
        body = b"".join(handler.encode(state))
        handler.apply(domain(dest), handler.decode(memoryview(body)))
    return [name for name, _ in sent]


def body(device: int, *slots: int, contents: bytes = b"") -> bytes:
    return struct.pack(f"<II{len(slots)}Q", device, len(slots), *slots) + contents


class TestPages(HandlerSuite):
    handler = HANDLERS["swapslots.pages"]
    bodies = (body(0, 7, contents=page(1)), body(9, 1, 2, contents=page(1) + page(2)))
    refused = (
        b"",
        body(0),
        body(0, 7),
        body(0, 2, 1, contents=page(1) * 2),
        body(0, 1, 1, contents=page(1) * 2),
        body(0, 7, contents=page(1)) + b"\0",
        struct.pack("<II", 0, 1025) + bytes(1025 * 4104),
    )


class TestVoid(HandlerSuite):
    handler = HANDLERS["swapslots.void"]
    bodies = (body(0), body(1, 7), body(1, 3, 4, 1 << 63))
    refused = (b"", body(0, 4, 3), body(0, 3) + b"\0", body(0, 3)[:-1])


drops = st.tuples(st.just("drop"), st.integers(0, 1), st.none() | st.integers(0, 9))
sends = st.tuples(st.just("more"), st.integers(0, 5 * 4096), st.none())


@settings(max_examples=100, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 1), st.integers(0, 9))), st.lists(drops | sends, max_size=20)
)
def test_whatever_is_dropped_between_the_sends_the_destination_has_the_same_copies(
    slots: set[tuple[int, int]], steps: Sequence[tuple[str, int, int | None]]
) -> None:
    source = FakeHost({key: page(place) for place, key in enumerate(sorted(slots))})
    dest = FakeHost({})
    stream = HANDLERS["swapslots.pages"].stream(domain(source))
    assert stream is not None
    for what, number, slot in steps:
        if what == "drop":
            source.drop(number, slot)
        else:
            deliver(stream.more(number), dest)
    while sent := stream.more(1 << 20):
        deliver(sent, dest)
    assert set(deliver(stream.final(), dest)) <= {"swapslots.void"}
    stream.close()
    assert dest.copies == source.copies
    assert not source.saving


def test_a_device_that_goes_is_one_record_in_the_pause() -> None:
    source = FakeHost({(0, slot): page(slot) for slot in range(50)})
    stream = HANDLERS["swapslots.pages"].stream(domain(source))
    assert stream is not None
    stream.more(1 << 20)
    source.drop(0, None)
    assert stream.final() == [("swapslots.void", Slots(0, ()))]


def test_a_domain_without_copies_has_no_stream() -> None:
    assert HANDLERS["swapslots.pages"].stream(domain(None)) is None


def test_the_plugin_loads_and_offers_optional_records(make_manager: MakeManager) -> None:
    manager = make_manager(xsave_swapslots)
    assert manager.record_order() == ["swapslots.pages", "swapslots.void"]
    assert not any(manager.handlers.find(name).mandatory for name in manager.record_order())


def test_a_record_holds_at_most_1024_slots() -> None:
    source = FakeHost({(0, slot): page(0) for slot in range(1025)})
    stream = HANDLERS["swapslots.pages"].stream(domain(source))
    assert stream is not None
    assert [len(state.slots) for _, state in stream.final()] == [1024, 1]
