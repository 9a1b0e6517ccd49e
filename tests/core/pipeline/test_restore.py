"""A stream with checkpoints becomes a guest round by round, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tests.core import toy
from xsave import (
    Buffer,
    Closes,
    Domain,
    DomainInfo,
    EmptyHandler,
    Entries,
    GuestType,
    PageBatch,
    Pages,
    Phase,
    Record,
    RecordError,
    RecordHandler,
    RecordType,
    XsaveError,
)
from xsave.io.spool import Spool
from xsave.pipeline import partial
from xsave.pipeline.partial import PartialRound
from xsave.pipeline.restore import DomainWriter, SeenPages

PAGE = 4096
LIMIT = 64  # pages that its host has


class Ledger(Domain):
    """A guest as a dictionary. :ivar state: what was applied, in order."""

    info = DomainInfo("ledger", GuestType.X86_HVM, 8, 1)

    def __init__(self) -> None:
        self.memory: dict[int, bytes] = {}
        self.state: list[Any] = []
        self.fails_at: Any = None

    def populate(self, pfns: Entries) -> None:
        for pfn in pfns.tolist():
            self.memory.setdefault(pfn, bytes(PAGE))
        if len(self.memory) > LIMIT:
            raise XsaveError("the host has not enough memory")

    def depopulate(self, pfns: Entries) -> None:
        for pfn in pfns.tolist():
            self.memory.pop(pfn, None)

    def write_pages(self, pfns: Entries, pages: Pages) -> None:
        for pfn, page in zip(pfns.tolist(), pages, strict=True):
            assert pfn in self.memory
            self.memory[pfn] = page.tobytes()

    def read_pages(self, pfns: Entries, out: Pages) -> Any: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def destroy(self) -> None: ...
    def page_types(self, pfns: Entries) -> Any: ...
    def start_dirty_log(self) -> None: ...
    def read_dirty_log(self, *, clean: bool) -> Any: ...
    def stop_dirty_log(self) -> None: ...
    def facet(self, name: str) -> Any: ...
    def close(self) -> None: ...


class Applied(RecordHandler[str]):
    """Text that goes into the ledger."""

    def decode(self, body: memoryview) -> str:
        return bytes(body).decode()

    def encode(self, state: str) -> Sequence[Buffer]:
        return (state.encode(),)

    def apply(self, domain: Domain, state: str) -> None:
        assert isinstance(domain, Ledger)
        if state == domain.fails_at:
            raise XsaveError(f"cannot apply {state}")
        domain.state.append(state)


def mark(name: str, closes: Closes, phase: Phase, *after: str) -> Any:
    return toy.variant(EmptyHandler, name=name, closes=closes, phase=phase, after=frozenset(after))


HANDLERS = (
    toy.variant(Applied, name="ledger.streamed", phase=Phase.MEMORY),
    toy.variant(Applied, name="ledger.cpu", phase=Phase.END_OF_CHECKPOINT),
    mark("ledger.inner", Closes.CHECKPOINT, Phase.END_OF_CHECKPOINT, "ledger.cpu"),
    mark("ledger.inner_end", Closes.STREAM, Phase.END_OF_CHECKPOINT, "ledger.inner"),
    toy.variant(Applied, name="ledger.device", phase=Phase.DEVICE_MODEL),
    mark("ledger.outer", Closes.CHECKPOINT, Phase.DEVICE_MODEL, "ledger.device"),
    mark("ledger.outer_end", Closes.STREAM, Phase.END),
)
INNER = [("ledger.inner", "")]
BOTH = [*INNER, ("ledger.device", "d"), ("ledger.outer", "")]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def writer(ledger: Ledger) -> Iterator[DomainWriter]:
    manager = toy.make_manager(toy.Plugin("ledger", *HANDLERS))
    made = DomainWriter(ledger, manager, manager.handler_table())
    yield made
    made.close()


def pages(*pfns: int, filled: int, types: int = 0) -> PageBatch:
    entries = np.array([types << 60 | pfn for pfn in pfns], np.uint64)
    contents = np.full((0 if types == 15 else len(pfns), PAGE), filled, np.uint8)
    return PageBatch(RecordType("toy.pages"), entries, contents, len(contents))


def put(writer: DomainWriter, *events: Any) -> None:
    for event in events:
        if isinstance(event, PageBatch):
            writer.put(event)
        else:
            name, body = event
            writer.put(Record(RecordType(name), body.encode()))


def contents(ledger: Ledger) -> dict[int, int]:
    return {pfn: page[0] for pfn, page in ledger.memory.items()}


def test_a_round_is_the_guests_only_when_its_checkpoint_has_come(
    ledger: Ledger, writer: DomainWriter
) -> None:
    put(writer, pages(0, 1, filled=1), ("ledger.streamed", "s0"), ("ledger.cpu", "c0"), *BOTH)
    assert (writer.nr_checkpoints, contents(ledger)) == (1, {0: 1, 1: 1})
    put(writer, pages(1, 2, filled=2), ("ledger.streamed", "s1"), ("ledger.cpu", "c1"))
    assert contents(ledger) == {0: 1, 1: 1, 2: 0}  # room for page 2, and no more
    assert ledger.state == ["s0"]
    put(writer, *BOTH)
    assert (writer.nr_checkpoints, contents(ledger)) == (2, {0: 1, 1: 2, 2: 2})
    assert ledger.state == ["s0", "s1"]
    writer.finish()
    assert ledger.state == ["s0", "s1", "c1", "d"]


def test_what_came_after_the_last_checkpoint_is_forgotten(
    ledger: Ledger, writer: DomainWriter
) -> None:
    put(writer, pages(0, 1, filled=1), ("ledger.cpu", "c0"), *BOTH)
    put(writer, pages(1, 2, filled=2), pages(0, filled=0, types=15), ("ledger.streamed", "s1"),
        ("ledger.cpu", "c1"), *INNER, ("ledger.device", "d1"))  # fmt: skip
    assert writer.fall_back()
    assert contents(ledger) == {0: 1, 1: 1}
    assert ledger.state == ["c0", "d"]


def test_before_the_first_checkpoint_there_is_nothing_to_fall_back_to(
    ledger: Ledger, writer: DomainWriter
) -> None:
    put(writer, pages(0, filled=1), ("ledger.cpu", "c0"), *INNER, ("ledger.device", "d"))
    assert not writer.fall_back()
    assert ledger.state == []


def test_with_one_layer_a_round_ends_with_that_layers_mark(
    ledger: Ledger, writer: DomainWriter
) -> None:
    put(writer, pages(0, filled=1), *INNER)
    assert writer.nr_checkpoints == 0  # perhaps another layer has to close it, too
    put(writer, pages(0, filled=2))
    assert writer.nr_checkpoints == 1
    put(writer, *INNER)
    assert writer.nr_checkpoints == 2  # now that is known
    assert contents(ledger) == {0: 2}
    put(writer, pages(0, filled=3))
    assert writer.fall_back()
    assert contents(ledger) == {0: 2}


def test_a_stream_that_stops_after_its_first_mark_was_whole(
    ledger: Ledger, writer: DomainWriter
) -> None:
    put(writer, pages(0, filled=1), ("ledger.cpu", "c0"), *INNER)
    writer.finish()
    assert (writer.nr_checkpoints, writer.ended) == (1, False)
    assert ledger.state == ["c0"]


@pytest.mark.parametrize("ends", [True, False])
def test_a_last_round_counts_if_the_end_closes_it(
    ledger: Ledger, writer: DomainWriter, ends: bool
) -> None:
    put(writer, pages(0, filled=1), ("ledger.cpu", "c0"), *BOTH)
    put(writer, pages(0, filled=2), ("ledger.cpu", "c1"))
    if ends:
        put(writer, ("ledger.inner_end", ""), ("ledger.outer_end", ""))
    writer.finish()
    assert writer.ended == ends
    assert contents(ledger) == {0: 1 + ends}
    assert ledger.state == [f"c{ends:d}", "d"]


def test_a_round_that_cannot_be_applied_leaves_no_guest(
    ledger: Ledger, writer: DomainWriter
) -> None:
    put(writer, pages(0, filled=1), *BOTH)
    put(writer, pages(0, filled=2), ("ledger.streamed", "bad"))
    ledger.fails_at = "bad"
    with pytest.raises(XsaveError, match="cannot apply bad"):
        put(writer, *BOTH)
    assert not writer.fall_back()


def test_a_round_for_which_the_host_has_no_room_fails_before_it_is_applied(
    ledger: Ledger, writer: DomainWriter
) -> None:
    put(writer, pages(0, filled=1), *BOTH)
    with pytest.raises(XsaveError, match="not enough memory"):
        put(writer, pages(*range(1, 1 + LIMIT), filled=2))
    assert writer.fall_back()
    assert contents(ledger) == {0: 1}


def test_a_round_without_end_is_refused(
    ledger: Ledger, writer: DomainWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(writer, pages(0, 1, 2, filled=1), *BOTH)
    put(writer, pages(0, 1, filled=2), pages(0, 1, filled=3))
    with pytest.raises(RecordError, match=r"pages of a round: .* 6 pages of 2 pfns"):
        put(writer, pages(0, 1, filled=4))
    monkeypatch.setattr(partial, "STREAMED_MAX", 5)
    put(writer, ("ledger.streamed", "12345"))
    with pytest.raises(RecordError, match="streamed state of a round"):
        put(writer, ("ledger.streamed", "6"))
    assert writer.fall_back()
    assert contents(ledger) == {0: 1, 1: 1, 2: 1}


def test_within_a_round_the_last_page_wins(ledger: Ledger, writer: DomainWriter) -> None:
    put(writer, pages(0, 1, filled=1), *BOTH)
    put(writer, pages(0, 1, filled=2), pages(1, filled=3), pages(0, filled=0, types=15), *BOTH)
    writer.finish()
    assert contents(ledger) == {1: 3}


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_what_is_kept_apart_comes_back_as_it_was(memory_bytes: int) -> None:
    kept = PartialRound(Spool(memory_bytes))
    handler, memory = HANDLERS[0], toy.Pages()
    assert not kept
    batch = pages(3, 5, filled=7)
    kept.keep_batch(batch, memory)
    kept.keep_record(Record(RecordType("ledger.streamed"), b"text", 77), handler)
    kept.keep_batch(pages(4, filled=0, types=15), memory)
    assert kept

    def replayed() -> Iterator[Any]:
        for event, of in kept.replay():
            assert of in (handler, memory)
            if isinstance(event, Record):
                yield event.name, bytes(event.body), event.offset
            else:
                assert event.pages is not None
                yield event.entries.tolist(), event.pages.tobytes()

    assert list(replayed()) == [
        (batch.entries.tolist(), b"\x07" * 2 * PAGE),
        ("ledger.streamed", b"text", 77),
        ([15 << 60 | 4], b""),
    ]
    kept.clear()
    assert not kept
    assert list(replayed()) == []
    kept.close()


def test_marks_of_pfns_that_come_in_ascending_order_are_seldom_moved() -> None:
    """An HVM guest mentions a million pfns, a batch after another."""
    seen, sizes = SeenPages(), set()
    for start in range(0, 1 << 20, 1024):
        pfns = np.arange(start, start + 1024, dtype=np.uint64)
        seen.remember(pfns, np.zeros(1024, np.uint8), np.full(1024, start == 0))
        assert seen._marks is not None
        sizes.add(len(seen._marks))
    assert len(sizes) <= 6
    assert (seen.p2m_size, seen.nr_populated) == (1 << 20, 1024)


def test_the_latest_type_of_a_page_says_whether_it_was_given_up_or_is_a_table() -> None:
    seen = SeenPages()

    def see(pfn: int, kind: int) -> None:
        carries = kind not in (0xD, 0xF)
        seen.remember(np.array([pfn], np.uint64), np.array([kind], np.uint8), np.array([carries]))

    see(3, 0xF)  # never had memory
    for kind in (0, 0xF):
        see(5, kind)
    assert (seen.given_up().tolist(), seen.page_tables().tolist()) == ([5], [])
    for pfn, kind in ((5, 0), (6, 1), (7, 0xC), (8, 4), (8, 0), (9, 2), (9, 0xF)):
        see(pfn, kind)
    assert seen.given_up().tolist() == [9]
    assert seen.page_tables().tolist() == [1 << 60 | 6, 0xC << 60 | 7]
    assert seen.nr_populated == 4  # 5 to 8
