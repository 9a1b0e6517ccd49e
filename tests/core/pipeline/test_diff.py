"""What is the same is the same however it is written down; what differs is named."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core import toy
from xsave import (
    CodecChoice,
    DiffReport,
    Event,
    FormatError,
    GuestType,
    PluginManager,
    RecordError,
    UsageError,
    diff,
)
from xsave.pipeline.diff import FieldChange, PageRange, changes

XTAB, BROKEN, L1TAB = 0xF, 0xD, 1


def of(events: Sequence[Event] | None = None, **options: Any) -> io.BytesIO:
    return io.BytesIO(toy.image(events, **options))


def compare(manager: PluginManager, a: Sequence[Event], b: Sequence[Event], **options: Any) -> Any:
    """Of files, which can be read again."""
    with tempfile.TemporaryDirectory() as folder:
        sides = [Path(folder) / "a.toy", Path(folder) / "b.toy"]
        for path, events in zip(sides, (a, b), strict=True):
            path.write_bytes(toy.image(events))
        return diff(*sides, manager=manager, **options)


def test_an_image_is_the_same_as_itself(manager: PluginManager) -> None:
    report = diff(of(), of(), manager=manager)
    assert report.equal
    assert (report.nr_same_records, report.memory.same) == (5, 5)
    assert report.records == report.memory.ranges == []


def test_codec_batches_and_order_of_pages_make_no_difference(manager: PluginManager) -> None:
    flip = CodecChoice(toy.Flip(), 1)
    other = of([toy.pages(3, 4, 2, seeds=[3, 4, 2]), toy.pages(1, 0, seeds=[1, 0])], codec=flip)
    assert diff(of([toy.pages(0, 1, 2, 3, 4)]), other, manager=manager).equal


def test_the_last_mention_of_a_page_counts(manager: PluginManager) -> None:
    a = [toy.pages(0, 1, seeds=[1, 2]), toy.pages(1, seeds=[7])]
    assert compare(manager, a, [toy.pages(0, 1, seeds=[1, 7])]).equal
    found = compare(manager, a, [toy.pages(0, 1, seeds=[1, 2])])
    assert found.memory.ranges == [PageRange(1, 1, "contents", "NOTAB", "NOTAB")]


def test_absent_and_not_mentioned_are_the_same(manager: PluginManager) -> None:
    b = [toy.pages(0, 1, types=[0, XTAB], seeds=[0])]
    report = compare(manager, [toy.pages(0, seeds=[0])], b)
    assert report.equal
    assert report.memory.same == 1


def test_pages_that_differ_are_told_by_range_and_kind(manager: PluginManager) -> None:
    a = [toy.pages(0, 1, 2, 3, 4, 5, seeds=[1, 2, 3, 4, 5, 6])]
    b = [
        toy.pages(1, 2, 3, 4, seeds=[8, 10, 4, 5], types=[0, 0, L1TAB, 0]),
        toy.pages(7, 8, seeds=[1, 1]),
    ]
    report = compare(manager, a, b)
    assert not report.equal
    assert report.memory.ranges == [
        PageRange(0, 1, "only_a", "NOTAB", None),
        PageRange(1, 2, "contents", "NOTAB", "NOTAB"),
        PageRange(3, 1, "type", "NOTAB", "L1TAB"),
        PageRange(5, 1, "only_a", "NOTAB", None),
        PageRange(7, 2, "only_b", None, "NOTAB"),
    ]
    memory = report.memory
    assert (memory.same, memory.contents, memory.type, memory.only_a, memory.only_b) == (
        1, 2, 1, 2, 2,
    )  # fmt: skip


def test_a_page_of_zeroes_differs_from_one_that_is_not_there(manager: PluginManager) -> None:
    report = compare(manager, [toy.pages(0, 1, seeds=[0, 0])], [toy.pages(0, seeds=[0])])
    assert report.memory.only_a == 1


@settings(deadline=None)
@given(data=st.data())
def test_windows_are_no_seams(data: st.DataObject) -> None:
    manager = toy.make_manager()
    pfns = st.lists(st.integers(0, 40), unique=True, max_size=12)
    sides = []
    for _ in range(2):
        chosen = data.draw(pfns)
        seeds = data.draw(st.lists(st.integers(0, 2), min_size=len(chosen), max_size=len(chosen)))
        sides.append([toy.pages(*chosen, seeds=seeds)])
    whole = compare(manager, *sides)
    parts = compare(manager, *sides, window_pfns=data.draw(st.integers(1, 8)))
    assert whole == parts
    left, right = (
        dict(zip(s[0].pfns.tolist(), map(bytes, s[0].pages), strict=True)) for s in sides
    )
    expected = {pfn for pfn in left.keys() | right.keys() if left.get(pfn) != right.get(pfn)}
    told = {
        pfn
        for one in whole.memory.ranges
        for pfn in range(one.first_pfn, one.first_pfn + one.nr_pfns)
    }
    assert told == expected


def test_records_that_differ_are_told_by_field(manager: PluginManager) -> None:
    a = [toy.text("toy.text", "one"), toy.text("toy.end", "e")]
    b = [toy.text("toy.text", "two"), toy.text("extra.must", "m")]
    report = compare(manager, a, b)
    told = [(change.name, change.change, change.fields) for change in report.records]
    assert told == [
        ("toy.text", "changed", [FieldChange("value", "changed", "one", "two")]),
        ("toy.end", "only_a", ()),
        ("extra.must", "only_b", ()),
    ]


def test_of_records_that_replace_each_other_the_last_counts(manager: PluginManager) -> None:
    a = [toy.text("toy.text", "early"), toy.text("toy.text", "late")]
    assert compare(manager, a, [toy.text("toy.text", "late")]).equal


def test_records_of_nobody_are_compared_too(manager: PluginManager) -> None:
    kinds = [[toy.text("odd.thing", text, mandatory=False)] for text in ("a", "b")]
    report = compare(manager, *kinds)
    assert [(change.name, change.fields[0].path) for change in report.records] == [
        ("odd.thing", "hex")
    ]
    assert compare(manager, *kinds, ignore=["odd.thing"]).ignored == ["odd.thing"]


def test_guests_of_different_types_are_not_the_same(manager: PluginManager) -> None:
    a, b = (of([], guest=guest) for guest in (GuestType.X86_PV, GuestType.X86_HVM))
    assert not diff(a, b, manager=manager).equal


def test_what_is_wrong_with_an_image_is_told_as_when_it_is_read(manager: PluginManager) -> None:
    with pytest.raises(RecordError, match=r"toy\.text at offset 0x6: text: expected some"):
        diff(of(), of([toy.text("toy.text", "")]), manager=manager)


def test_a_pfn_that_no_guest_has_is_refused(manager: PluginManager) -> None:
    with pytest.raises(FormatError, match=r"expected below 0x100000000, got 0x100000000"):
        diff(of(), of([toy.pages(1 << 32, seeds=[1])]), manager=manager)


def test_a_guest_of_several_windows_needs_images_that_can_be_read_again(
    manager: PluginManager,
) -> None:
    with pytest.raises(UsageError, match="more than 4 pfns is read several times: give files"):
        diff(of([toy.pages(0, 9, seeds=[1, 1])]), of(), manager=manager, window_pfns=4)


def test_values_are_compared_from_the_top_down() -> None:
    a = {"same": 1, "list": [1, 2], "bits": {"value": 3, "bits": {"x": 1}}, "gone": None}
    b = {"same": 1, "list": [1, 3, 4], "bits": {"value": 2, "bits": {"x": 0}}, "new": "n"}
    assert list(changes(a, b)) == [
        FieldChange("list/1", "changed", 2, 3),
        FieldChange("list/2", "only_b", None, 4),
        FieldChange("bits", "changed", a["bits"], b["bits"]),
        FieldChange("gone", "only_a", None, None),
        FieldChange("new", "only_b", None, "n"),
    ]
    assert list(changes(True, 1)) == [FieldChange("value", "changed", True, 1)]


def test_the_report_starts_equal() -> None:
    empty = toy.Stream([]).info
    assert DiffReport(empty, empty).equal
