"""Inputs are recognised and unwrapped; events find their handlers; checks watch them go by."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from tests.core import toy
from xsave import (
    CancelledError,
    FieldError,
    GuestType,
    ImageInfo,
    MissingPluginError,
    Owner,
    PageBatch,
    PageMode,
    PluginError,
    PluginManager,
    Progress,
    Record,
    RecordError,
    RecordType,
    Remark,
    RunReport,
    StreamError,
    TruncatedError,
    UnrecognisedError,
    Workers,
    build_manager,
)
from xsave.io.source import open_source
from xsave.pipeline import stream


def opened(data: bytes, manager: PluginManager) -> stream.OpenedStream:
    with Workers(1) as pool:
        return stream.open_stream(
            io.BytesIO(data), manager, pool, pages=lambda _format: PageMode.FULL
        )


def watch(
    events: Any, manager: PluginManager, plugins: list[str] | None = None, **options: Any
) -> stream.Watch:
    reader = events if isinstance(events, toy.Stream) else toy.Stream(events)
    handlers = manager.handler_table(plugins)
    report = RunReport(reader.info)
    return stream.Watch(manager, handlers, reader, report, lambda: (7, 7), **options)


# Recognising.


def test_an_input_is_recognised_by_its_beginning(manager: PluginManager) -> None:
    with open_source(io.BytesIO(toy.image())) as source:
        format_, same = stream.recognise(source, manager)
        assert format_.name == "toy"
        assert same is source
        assert source.offset == 0


@pytest.mark.parametrize(
    ("data", "begins"),
    [(b"", "it is empty"), (b"\x7fELF and so on", "it begins with 7f 45 4c 46")],
)
def test_an_unknown_input_says_how_it_begins_and_what_is_known(
    data: bytes, begins: str, manager: PluginManager
) -> None:
    with pytest.raises(UnrecognisedError, match=f"{begins}.*; known formats: toy$"):
        opened(data, manager)


def test_a_plugin_that_failed_is_remembered_when_no_format_is_found() -> None:
    manager = build_manager([])
    with pytest.raises(RuntimeError):
        manager.register(toy.Broken("broken"))
    with pytest.raises(UnrecognisedError, match=r"known formats: none; plugin broken failed to"):
        opened(toy.image(), manager)


def test_two_formats_that_claim_one_input_are_both_named() -> None:
    other = toy.variant(toy.Toy, name="other", suffixes=())
    manager = toy.make_manager(toy.Plugin("other", other))
    with pytest.raises(PluginError, match="formats toy and other both claim this input"):
        opened(toy.image(), manager)


def test_an_input_that_is_compressed_as_a_whole_is_unwrapped(manager: PluginManager) -> None:
    found = opened(toy.flipped_file(toy.image()), manager)
    assert [event.name for event in found.reader] == [event.name for event in toy.ordinary()]
    assert found.source.size_bytes is None


def test_an_unwrapped_input_that_is_no_image_is_told(manager: PluginManager) -> None:
    with pytest.raises(UnrecognisedError, match="it begins with 6e 6f"):
        opened(toy.flipped_file(b"no image"), manager)


def test_an_input_may_be_compressed_several_times_over(manager: PluginManager) -> None:
    data = toy.image()
    for layers in range(1, stream.WRAPPERS_MAX + 1):
        data = toy.flipped_file(data)
        with open_source(io.BytesIO(data)) as source:
            _head, _inner, codecs = stream.unwrap(source, manager)
            assert codecs == ["flip"] * layers
    assert list(opened(data, manager).reader)
    with pytest.raises(StreamError, match=r"compressed more than 4 times over: flip, flip"):
        opened(toy.flipped_file(data), manager)


def test_a_format_without_a_magic_is_asked_last() -> None:
    anything = toy.variant(
        toy.Toy, name="anything", suffixes=(), has_magic=False, sniff=lambda _self, _head: True
    )
    manager = toy.make_manager(toy.Plugin("anything", anything))
    for data, name in ((toy.image(), "toy"), (b"whatever", "anything")):
        with open_source(io.BytesIO(data)) as source:
            assert stream.recognise(source, manager)[0].name == name


def test_what_is_only_known_by_sight_is_named_and_not_read() -> None:
    seen = toy.variant(
        toy.Toy, name="seen", summary="a picture of a toy: it cannot be played with",
        suffixes=(), readable=False, writable=False,
        sniff=lambda _self, head: head.startswith(b"PIC"),
    )  # fmt: skip
    manager = toy.make_manager(toy.Plugin("seen", seen))
    with pytest.raises(UnrecognisedError, match=r"recognised, and not read: a picture of a toy"):
        opened(b"PICTURE", manager)
    also = toy.variant(toy.Toy, name="also", suffixes=(), sniff=lambda _self, head: head == b"PIC")
    manager = toy.make_manager(toy.Plugin("seen", seen, also))
    with open_source(io.BytesIO(b"PIC")) as source:
        assert stream.recognise(source, manager)[0].name == "also"


def test_a_readers_remarks_are_taken_over_when_all_was_read(manager: PluginManager) -> None:
    remarks = [Remark("odd"), Remark("gone", is_loss=True)]
    watched = watch(toy.Stream(toy.ordinary(), remarks=remarks), manager)
    assert list(watched.events())
    assert [remark.text for remark in watched.report.remarks] == ["odd", "gone"]
    assert watched.report.is_source_partial
    assert not watched.report.partial


def test_a_file_is_closed_when_its_headers_are_wrong(
    tmp_path: Path, manager: PluginManager
) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    for data in (toy.MAGIC, b"unknown", toy.Flip.magic):
        path = tmp_path / "image"
        path.write_bytes(data)
        with Workers(1) as pool, pytest.raises((TruncatedError, UnrecognisedError)):
            stream.open_stream(path, manager, pool, pages=lambda _format: PageMode.FULL)
    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_the_format_decides_what_is_done_with_pages(manager: PluginManager) -> None:
    asked = []

    def mode(format_: Any) -> PageMode:
        asked.append(format_.name)
        return PageMode.SKIP

    with Workers(1) as pool:
        found = stream.open_stream(io.BytesIO(toy.image()), manager, pool, pages=mode)
    assert asked == ["toy"]
    assert found.reader.info.details["pages"] == "skip"


# Dispatch.


def test_events_are_dispatched_by_name(manager: PluginManager) -> None:
    looking = watch(toy.ordinary(), manager)
    found = [(event.name, state) for event, state in looking.events()]
    assert found == [
        ("toy.head", "h"), ("toy.pages", None), ("toy.pages", None), ("extra.note", "n"),
        ("toy.text", "t"), ("extra.must", "m"), ("toy.end", "e"),
    ]  # fmt: skip


def test_what_went_by_is_counted(manager: PluginManager) -> None:
    events = [
        toy.pages(0, 1, 2, types=[0, 0xF, 0]),
        toy.pages(3),
        toy.text("toy.text", "four"),
        toy.text("toy.text", "fives"),
        toy.text("who.knows", "?", mandatory=False, version=4),
    ]
    looking = watch(events, manager)
    list(looking.events())
    report = looking.report
    assert (report.nr_batches, report.nr_pfns, report.nr_pages) == (2, 4, 3)
    counts = {name: (count.count, count.body_bytes) for name, count in report.records.items()}
    assert counts == {"toy.pages": (2, 0), "toy.text": (2, 9), "who.knows": (1, 1)}
    unknown = report.records["who.knows"]
    assert (unknown.plugin, unknown.understood, unknown.mandatory, unknown.version) == (
        "", False, False, 4,
    )  # fmt: skip
    assert report.carried == ["who.knows"]
    assert report.source_bytes == 7
    assert stream.used_plugins(report.records.values()) == ["toy"]


def test_an_unknown_mandatory_record_stops_the_stream(manager: PluginManager) -> None:
    looking = watch([toy.text("toy.text"), toy.text("who.knows")], manager)
    with pytest.raises(MissingPluginError, match=r"who.knows is mandatory: no plugin") as caught:
        list(looking.events())
    assert caught.value.plugin == ""


def test_an_unknown_mandatory_record_can_be_tolerated(manager: PluginManager) -> None:
    looking = watch([toy.text("who.knows")], manager, tolerate_missing=True)
    assert [state for _, state in looking.events()] == [None]
    assert not looking.report.records["who.knows"].understood


@pytest.mark.parametrize(
    ("kind", "plugins", "reason"),
    [
        (
            RecordType("acme.x", owner=Owner("acme", "acme-xsave 2.0")),
            None,
            r"plugin acme \(acme-xsave 2.0\), which is not installed",
        ),
        (RecordType("extra.must"), ["toy"], r"plugin extra, .* not among those chosen \(toy\)"),
        (RecordType("toy.text", version=2), None, "its version is 2, and plugin toy here unders"),
        (RecordType("x", owner=Owner("broken", "")), None, "which failed to load: .*not today"),
    ],
)
def test_a_missing_plugin_comes_with_its_reason(
    kind: RecordType, plugins: list[str] | None, reason: str
) -> None:
    manager = toy.make_manager()
    with pytest.raises(RuntimeError):
        manager.register(toy.Broken("broken"))
    looking = watch([Record(kind, b"x")], manager, plugins)
    with pytest.raises(MissingPluginError, match=reason) as caught:
        list(looking.events())
    assert caught.value.record == kind.name
    assert caught.value.plugin == (kind.owner.plugin if kind.owner else kind.name.split(".")[0])


def test_plugins_that_failed_are_named_when_nobody_knows_a_record() -> None:
    manager = toy.make_manager()
    with pytest.raises(RuntimeError):
        manager.register(toy.Broken("broken"))
    with pytest.raises(MissingPluginError, match="failed to load: broken"):
        list(watch([toy.text("who.knows")], manager).events())


def test_the_chosen_plugins_bring_what_they_need(manager: PluginManager) -> None:
    looking = watch(toy.ordinary(), manager, ["extra"])
    assert all(state is not None or isinstance(e, PageBatch) for e, state in looking.events())


def test_an_error_carries_record_and_offset(manager: PluginManager) -> None:
    data = toy.image([toy.text("toy.head"), toy.text("toy.text", "")])
    found = opened(data, manager)
    looking = stream.Watch(
        manager, manager.handler_table(), found.reader, RunReport(found.reader.info),
        lambda: (0, None),
    )  # fmt: skip
    with pytest.raises(
        RecordError, match=r"toy.text at offset 0x1b: text: expected some"
    ) as caught:
        list(looking.events())
    assert (caught.value.record, caught.value.offset) == ("toy.text", 0x1B)
    assert isinstance(caught.value.__cause__, FieldError)
    assert data[0x1B + toy.HEAD.size :].startswith(b"toy.text")


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (toy.pages(4, 5, types=[0, 0xD]), "type: expected a sound page, got pfn 0x5"),
        (Record(RecordType("toy.pages"), b"x"), "record: expected pages, got a record without"),
        (
            PageBatch(RecordType("toy.text"), toy.pages(1).entries, None, 1),
            "record: expected a record without pages, got pages",
        ),
        (toy.text("pv.only"), "guest type: expected x86_pv, got x86_hvm"),
    ],
)
def test_what_does_not_fit_is_refused(event: Any, reason: str) -> None:
    only = toy.variant(toy.Text, name="pv.only", guest_types=frozenset({GuestType.X86_PV}))
    manager = toy.make_manager(toy.Plugin("pv", only))
    with pytest.raises(RecordError, match=reason):
        list(watch([event], manager).events())


# Checks.


def test_checks_see_every_event_in_order_once_for_each_stream() -> None:
    made: list[toy.Witness] = []

    def check(info: ImageInfo) -> toy.Witness:
        made.append(toy.Witness(info))
        return made[-1]

    manager = toy.make_manager(
        toy.Plugin("one", check=check), toy.Plugin("two", check=check),
        toy.Plugin("three", check=lambda _info: None),
    )  # fmt: skip
    events = [*toy.ordinary(), toy.text("who.knows", mandatory=False)]
    for nr_streams in (1, 2):
        looking = watch(events, manager)
        list(looking.events())
        assert len(made) == 2 * nr_streams
    for witness in made:
        assert witness.info == looking.reader.info
        assert witness.seen == [
            ("toy.head", "h"), ("toy.pages", 3), ("toy.pages", 2), ("extra.note", "n"),
            ("toy.text", "t"), ("extra.must", "m"), ("toy.end", "e"), ("finish", None),
        ]  # fmt: skip


def test_checks_of_plugins_that_are_not_chosen_are_not_asked() -> None:
    asked: list[ImageInfo] = []
    manager = toy.make_manager(toy.Plugin("checking", check=asked.append))
    list(watch([toy.text("toy.text")], manager, ["toy"]).events())
    assert asked == []
    list(watch([toy.text("toy.text")], manager, ["toy", "checking"]).events())
    assert len(asked) == 1


@pytest.mark.parametrize("where", ["toy.text", "toy.pages"])
def test_what_a_check_refuses_carries_record_and_offset(where: str) -> None:
    manager = toy.make_manager(
        toy.Plugin("checking", check=lambda info: toy.Witness(info, frozenset({where})))
    )
    found = opened(toy.image(), manager)
    looking = stream.Watch(
        manager, manager.handler_table(), found.reader, RunReport(found.reader.info),
        lambda: (0, None),
    )  # fmt: skip
    with pytest.raises(RecordError, match="rule: expected it kept, got it broken") as caught:
        list(looking.events())
    assert caught.value.record == where
    assert caught.value.offset > 0


def test_a_check_may_refuse_the_whole_at_its_end() -> None:
    manager = toy.make_manager(
        toy.Plugin("checking", check=lambda info: toy.Witness(info, frozenset({"finish"})))
    )
    looking = watch(toy.ordinary(), manager)
    seen = []
    with pytest.raises(FieldError, match="rule"):
        for event, _ in looking.events():
            seen.append(event.name)
    assert len(seen) == len(toy.ordinary())


# Progress and stopping.


def test_progress_is_told_at_the_beginning_and_at_the_end(manager: PluginManager) -> None:
    told: list[Progress] = []
    positions = iter([(0, 900), (900, 900), (900, 900)])
    looking = watch(toy.ordinary(), manager, progress=told.append, stage="trying")
    looking.position = lambda: next(positions)
    list(looking.events())
    first, last = told
    assert (first.stage, first.bytes_done, first.bytes_total, first.nr_pages) == (
        "trying", 0, 900, 0,
    )  # fmt: skip
    assert (last.bytes_done, last.bytes_total, last.nr_pages) == (900, 900, 5)
    assert last.elapsed_s >= first.elapsed_s >= 0
    assert last.remaining_s == 0


def test_progress_is_told_in_between_when_it_takes_longer(
    manager: PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PROGRESS_INTERVAL_S", 0.0)
    told: list[Progress] = []
    list(watch(toy.ordinary(), manager, progress=told.append).events())
    assert [progress.nr_pages for progress in told] == [0, 0, 3, 5, 5, 5, 5, 5, 5]


def test_a_stream_ends_when_it_is_asked_to(manager: PluginManager) -> None:
    answers = iter([False, False, True])
    looking = watch(toy.ordinary(), manager, cancelled=lambda: next(answers))
    seen = []
    with pytest.raises(CancelledError):
        for event, _ in looking.events():
            seen.append(event.name)
    assert seen == ["toy.head", "toy.pages"]
