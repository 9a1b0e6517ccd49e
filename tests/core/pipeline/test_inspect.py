"""What is in an image: its records with their fields, its pages counted, single ones found."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core import toy
from xsave import CancelledError, Event, PluginManager, Progress, RecordError, UsageError
from xsave.pipeline import inspect as module
from xsave.pipeline.inspect import (
    PFNS_MAX,
    MemoryItem,
    PageStatistics,
    RecordItem,
    describe_unknown,
    inspect,
    read_pfns,
    read_record,
)
from xsave.testing.strategies import pages_of


def image_file(events: Sequence[Event]) -> io.BytesIO:
    return io.BytesIO(toy.image(events))


def test_every_record_is_an_item_and_batches_are_taken_together(
    source: Path, manager: PluginManager
) -> None:
    found = inspect(source, manager=manager)
    assert [item.name for item in found.items] == [
        "toy.head", "toy.pages", "extra.note", "toy.text", "extra.must", "toy.end",
    ]  # fmt: skip
    memory = found.items[1]
    assert isinstance(memory, MemoryItem)
    assert (memory.nr_batches, memory.nr_pfns, memory.nr_pages) == (2, 5, 5)
    assert (memory.first_pfn, memory.last_pfn, memory.types) == (0, 4, {"NOTAB": 5})
    assert found.info.details["pages"] == "skip"
    assert found.statistics is None


def test_an_item_says_everything_about_its_record(source: Path, manager: PluginManager) -> None:
    item = inspect(source, manager=manager).items[2]
    assert item == RecordItem(
        name="extra.note", number=0, offset=source.read_bytes().index(b"extra.note") - 12,
        size_bytes=1, plugin="extra", version=1, mandatory=False, understood=True, fields="n",
    )  # fmt: skip


def test_records_of_one_name_are_numbered(manager: PluginManager) -> None:
    events: list[Event] = [
        toy.text("toy.text", "a"),
        toy.text("toy.end"),
        toy.text("toy.text", "b"),
    ]
    items = inspect(image_file(events), manager=manager).items
    assert [(item.name, item.number) for item in items if isinstance(item, RecordItem)] == [
        ("toy.text", 0), ("toy.end", 0), ("toy.text", 1),
    ]  # fmt: skip


def test_a_record_between_batches_parts_them(manager: PluginManager) -> None:
    events: list[Event] = [
        toy.pages(9, 7, types=[0, 0xF]), toy.text("toy.text"), toy.pages(3, types=[1]), toy.pages(),
    ]  # fmt: skip
    items = inspect(image_file(events), manager=manager).items
    first, _, second = items
    assert isinstance(first, MemoryItem) and isinstance(second, MemoryItem)
    assert (first.first_pfn, first.last_pfn, first.nr_pages) == (7, 9, 1)
    assert first.types == {"NOTAB": 1, "XTAB": 1}
    assert (second.nr_batches, second.types) == (2, {"L1TAB": 1})


def test_batches_without_pfns_have_no_first_and_last(manager: PluginManager) -> None:
    (item,) = inspect(image_file([toy.pages()]), manager=manager).items
    assert isinstance(item, MemoryItem)
    assert (item.nr_batches, item.first_pfn, item.last_pfn) == (1, None, None)


def test_a_description_may_look_at_records_before(manager: PluginManager) -> None:
    class Looking(toy.Text):
        name = "looking.text"

        def describe(self, state: str, seen: Mapping[str, Any]) -> Any:
            return {"text": state, "before": dict(seen)}

    looking = toy.make_manager(toy.Plugin("looking", Looking()))
    events: list[Event] = [
        toy.text("looking.text", "a"), toy.text("toy.text", "b"), toy.text("toy.text", "c"),
        toy.text("looking.text", "d"),
    ]  # fmt: skip
    items = inspect(image_file(events), manager=looking).items
    assert isinstance(items[0], RecordItem) and isinstance(items[3], RecordItem)
    assert items[0].fields == {"text": "a", "before": {"looking.text": "a"}}
    assert items[3].fields["before"] == {"looking.text": "d", "toy.text": "c"}


def test_what_nobody_understands_is_shown_as_it_is(manager: PluginManager) -> None:
    (item,) = inspect(image_file([toy.text("who.knows", "ab")]), manager=manager).items
    assert isinstance(item, RecordItem)
    assert (item.plugin, item.understood, item.mandatory) == ("", False, True)
    assert item.fields == {"hex": "6162", "shown_bytes": 2, "size_bytes": 2}


def test_records_of_plugins_that_are_not_chosen_keep_their_plugin(
    source: Path, manager: PluginManager
) -> None:
    items = inspect(source, plugins=["toy"], manager=manager).items
    found = {item.name: item for item in items if isinstance(item, RecordItem)}
    assert found["toy.text"].understood
    assert (found["extra.must"].plugin, found["extra.must"].understood) == ("extra", False)


def test_an_unknown_body_that_is_cbor_is_shown_as_that() -> None:
    value = {"name": "web1", "list": [1, 2]}
    assert describe_unknown(cbor2.dumps(value)) == {"cbor": value}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01",
        cbor2.dumps([1]) + b"x",
        b"\x9f\x01\xff",
        b"\x81" * 40 + b"\x01",
        bytes.fromhex("a201010102"),
    ],
    ids=["nothing", "a number", "more behind", "indefinite", "deep", "a key twice"],
)
def test_an_unknown_body_that_is_not_quite_cbor_is_hexadecimal(body: bytes) -> None:
    assert describe_unknown(body) == {
        "hex": body.hex(), "shown_bytes": len(body), "size_bytes": len(body),
    }  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64) | st.binary(max_size=40).map(lambda rest: b"\xa3" + rest))
def test_any_unknown_body_is_described(body: bytes) -> None:
    assert describe_unknown(body).keys() in ({"cbor"}, {"hex", "shown_bytes", "size_bytes"})


def test_of_a_long_unknown_body_the_beginning_is_shown() -> None:
    found = describe_unknown(b"x" * 10000)
    assert (found["shown_bytes"], found["size_bytes"], len(found["hex"])) == (4096, 10000, 8192)


def test_a_wrong_record_is_told_with_its_place(manager: PluginManager) -> None:
    with pytest.raises(RecordError, match=r"toy.text at offset 0x6: text"):
        inspect(image_file([toy.text("toy.text", "")]), manager=manager)


def test_inspecting_tells_progress_and_can_be_stopped(source: Path, manager: PluginManager) -> None:
    told: list[Progress] = []
    inspect(source, manager=manager, progress=told.append)
    assert told[-1].stage == "inspect"
    assert told[-1].bytes_done == source.stat().st_size
    with pytest.raises(CancelledError):
        inspect(source, manager=manager, cancelled=lambda: True)


# Statistics of pages.


def test_zero_and_equal_pages_are_counted(manager: PluginManager) -> None:
    events: list[Event] = [
        toy.pages(*range(6), seeds=[0, 1, 2, 1, 3, 4]),  # multiples of three are zero pages
        toy.pages(6, 7, 8, seeds=[1, 2, 5], types=[1, 9, 0]),
        toy.pages(9, 10, types=[0xF, 0xE]),
    ]
    found = inspect(image_file(events), page_statistics=True, manager=manager)
    assert found.statistics == PageStatistics(nr_pages=9, nr_zero=2, nr_duplicate=3)
    assert found.info.details["pages"] == "full"


def test_an_image_without_pages_has_none_to_count(manager: PluginManager) -> None:
    found = inspect(image_file([toy.text("toy.text")]), page_statistics=True, manager=manager)
    assert found.statistics == PageStatistics()


def test_more_different_pages_than_can_be_remembered_are_estimated(
    manager: PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 different pages, each there twice; 64 are remembered."""
    seeds = [seed for seed in range(601) if seed % 3][:400]
    events: list[Event] = [
        toy.pages(*range(at, at + 50), seeds=seeds[at : at + 50]) for at in range(0, 400, 50)
    ]
    data = toy.image([*events, *events])
    exact = inspect(io.BytesIO(data), page_statistics=True, manager=manager).statistics
    assert exact == PageStatistics(nr_pages=800, nr_zero=0, nr_duplicate=400)
    monkeypatch.setattr(module, "HASHES_MAX", 64)
    found = inspect(io.BytesIO(data), page_statistics=True, manager=manager).statistics
    assert found is not None
    assert found.estimated
    assert (found.nr_pages, found.nr_zero) == (800, 0)
    assert 200 <= found.nr_duplicate <= 600


# Single records.


def test_one_record_is_found_by_name_and_number(manager: PluginManager) -> None:
    events: list[Event] = [toy.text("toy.text", "a"), toy.pages(1), toy.text("toy.text", "b")]
    found = read_record(image_file(events), "toy.text", 1, manager=manager)
    assert bytes(found.record.body) == b"b"
    assert found.state == "b"
    assert (found.item.number, found.item.fields) == (1, "b")


def test_a_record_that_nobody_understands_is_found_too(manager: PluginManager) -> None:
    found = read_record(image_file([toy.text("who.knows", "?")]), "who.knows", manager=manager)
    assert found.state is None
    assert bytes(found.record.body) == b"?"


def test_a_record_that_is_not_there_is_told_with_those_that_are(manager: PluginManager) -> None:
    events: list[Event] = [
        toy.text("toy.text"), toy.pages(1), toy.text("toy.text"),
        toy.text("who.marks", "", mandatory=False),
    ]  # fmt: skip
    there = r"has no toy.end#0; it has: toy.text \(2\), who.marks \(1\)$"
    with pytest.raises(UsageError, match=there):
        read_record(image_file(events), "toy.end", manager=manager)
    with pytest.raises(UsageError, match=r"has no toy.text#2"):
        read_record(image_file(events), "toy.text", 2, manager=manager)
    with pytest.raises(UsageError, match=r"has no toy.pages#0"):
        read_record(image_file(events), "toy.pages", manager=manager)


# Single pages.


MEMORY: list[Event] = [
    toy.pages(1, 2, 3, seeds=[1, 2, 4]),
    toy.text("toy.text"),
    toy.pages(2, 9, 5, seeds=[5, 7], types=[1, 0xF, 0]),
]


@pytest.mark.parametrize("where", ["path", "object", "compressed"])
def test_without_an_index_pages_are_found_by_reading_everything(
    where: str, tmp_path: Path, manager: PluginManager
) -> None:
    data = toy.image(MEMORY)
    path = tmp_path / "image"
    path.write_bytes(toy.flipped_file(data) if where == "compressed" else data)
    given: Any = io.BytesIO(data) if where == "object" else path
    found = read_pfns(given, [1, 2, 9, 5, 77, 2], manager=manager)
    expected = pages_of([1, 5, 7])
    assert {pfn: kind for pfn, (kind, _) in found.items()} == {1: 0, 2: 1, 9: 0xF, 5: 0}
    for pfn, page in zip((1, 2, 5), expected, strict=True):
        contents = found[pfn][1]
        assert contents is not None
        assert contents.shape == (1, 4096)
        assert (contents[0] == page).all()
    assert found[9][1] is None


def test_with_an_index_only_that_is_asked(tmp_path: Path) -> None:
    class Index:
        def find(self, pfns: Sequence[int]) -> dict[int, tuple[int, None]]:
            return dict.fromkeys(pfns, (0xF, None))

    indexed = toy.variant(
        toy.Toy, name="indexed", suffixes=(), index=Index(), sniff=lambda _self, head: head == b"I"
    )
    manager = toy.make_manager(toy.Plugin("indexed", indexed))
    path = tmp_path / "image"
    path.write_bytes(b"I")
    assert read_pfns(str(path), [3, 4], manager=manager) == {3: (0xF, None), 4: (0xF, None)}


def test_too_many_pfns_at_once_are_refused(source: Path, manager: PluginManager) -> None:
    with pytest.raises(UsageError, match=f"at most {PFNS_MAX} pfns at once"):
        read_pfns(source, range(PFNS_MAX + 1), manager=manager)


def test_no_pfns_find_nothing(source: Path, manager: PluginManager) -> None:
    assert read_pfns(source, [], manager=manager) == {}


@pytest.mark.parametrize("pfn", [-1, 1 << 52, 1 << 64])
def test_a_pfn_that_cannot_be_is_not_there(pfn: int, source: Path, manager: PluginManager) -> None:
    assert read_pfns(source, [pfn, 1], manager=manager).keys() == {1}


def test_looking_for_pages_can_be_stopped(source: Path, manager: PluginManager) -> None:
    with pytest.raises(CancelledError):
        read_pfns(source, [1], manager=manager, cancelled=lambda: True)
