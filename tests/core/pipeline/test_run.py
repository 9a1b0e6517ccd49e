"""From any source to any destination: everything arrives, or nothing is left."""

from __future__ import annotations

import io
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from tests.core import toy
from xsave import (
    CancelledError,
    Event,
    FieldError,
    GuestType,
    ImageInfo,
    MissingPluginError,
    OutputError,
    PageBatch,
    PageMode,
    PluginManager,
    PluginOption,
    Progress,
    RecordError,
    TruncatedError,
    UnknownNameError,
    UsageError,
    WriteOptions,
    run,
)
from xsave.pipeline.run import about_us


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_takes_everything_along(source: Path, folder: Path, manager: PluginManager) -> None:
    dest = folder / "image.toy"
    report = run(source, dest, manager=manager)
    assert dest.read_bytes() == source.read_bytes()
    assert (report.nr_batches, report.nr_pfns, report.nr_pages) == (2, 5, 5)
    assert report.source_bytes == report.dest_bytes == source.stat().st_size
    assert (report.source.format, report.dest_format, report.codec) == ("toy", "toy", "")
    assert report.plugins == ["extra", "toy"]
    assert not report.partial
    assert report.carried == []
    assert names(folder) == ["image.toy"]


@pytest.mark.parametrize("where", ["path", "text", "object", "descriptor", "reader", "compressed"])
def test_any_source_gives_the_same_image(
    where: str, source: Path, folder: Path, manager: PluginManager
) -> None:
    expected = source.read_bytes()
    fd = os.open(source, os.O_RDONLY)
    given: dict[str, Any] = {
        "path": source,
        "text": str(source),
        "object": io.BytesIO(expected),
        "descriptor": fd,
        "reader": toy.Stream(toy.ordinary()),
        "compressed": io.BytesIO(toy.flipped_file(expected)),
    }
    try:
        run(given[where], folder / "image.toy", manager=manager)
    finally:
        os.close(fd)
    assert (folder / "image.toy").read_bytes() == expected


@pytest.mark.parametrize("where", ["path", "text", "object", "descriptor"])
def test_any_destination_gets_the_same_image(
    where: str, source: Path, folder: Path, manager: PluginManager
) -> None:
    dest = folder / "image"
    file = io.BytesIO()
    fd = os.open(folder / "other", os.O_WRONLY | os.O_CREAT)
    given: dict[str, Any] = {"path": dest, "text": str(dest), "object": file, "descriptor": fd}
    try:
        run(source, given[where], to="toy", manager=manager)
    finally:
        os.close(fd)
    found = {"object": file.getvalue(), "descriptor": (folder / "other").read_bytes()}
    assert (found.get(where) or dest.read_bytes()) == source.read_bytes()


def test_a_dash_is_standard_input_and_output(
    source: Path, manager: PluginManager, stand_in: Callable[[int, int], None]
) -> None:
    data = source.read_bytes()
    reading, writing = os.pipe()
    found = bytearray()

    def collect() -> None:
        with os.fdopen(reading, "rb") as file:
            found.extend(file.read())

    collector = threading.Thread(target=collect)
    fd = os.open(source, os.O_RDONLY)
    stand_in(0, fd)
    os.close(fd)
    kept = os.dup(1)
    os.dup2(writing, 1)
    os.close(writing)
    try:
        collector.start()
        report = run("-", "-", to="toy", manager=manager)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        collector.join()
    assert bytes(found) == data
    assert report.dest_bytes == len(data)


# The format and the codec.


def test_the_suffix_names_the_format_unless_one_is_named(source: Path, folder: Path) -> None:
    other = toy.variant(
        toy.Toy, name="other", suffixes=(".other",), sniff=lambda _self, _head: False
    )
    native = toy.variant(toy.Toy, name="native", suffixes=(), sniff=lambda _self, _head: False)
    manager = toy.make_manager(toy.Plugin("formats", other, native))
    to = partial(run, source, manager=manager)
    assert to(folder / "image.other").dest_format == "other"
    assert to(str(folder / "image.toy")).dest_format == "toy"
    assert to(folder / "image.other", to="toy").dest_format == "toy"
    assert to(folder / "image").dest_format == "native"
    assert to(io.BytesIO()).dest_format == "native"


def test_a_format_that_is_not_there_is_refused(
    source: Path, folder: Path, manager: PluginManager
) -> None:
    with pytest.raises(UnknownNameError, match="no format is named 'xl'; known: toy"):
        run(source, folder / "image.toy", to="xl", manager=manager)
    with pytest.raises(UnknownNameError, match="no format is named 'native'"):
        run(source, folder / "image", manager=manager)
    assert names(folder) == []


def test_a_format_that_is_only_read_is_refused(source: Path, folder: Path) -> None:
    only = toy.variant(toy.Toy, name="only", suffixes=(".only",), writable=False)
    manager = toy.make_manager(toy.Plugin("only", only))
    with pytest.raises(UnknownNameError, match="no format for writing is named 'only'; known: toy"):
        run(source, folder / "image.only", manager=manager)


@pytest.mark.parametrize(
    ("codec", "level", "told"), [("flip", 3, "flip:3"), ("flip:7", 7, "flip:7")]
)
def test_a_codec_is_chosen_with_its_level(
    codec: str, level: int, told: str, source: Path, folder: Path, manager: PluginManager
) -> None:
    dest = folder / "image.toy"
    report = run(source, dest, codec=codec, manager=manager)
    assert report.codec == told
    data = dest.read_bytes()
    assert data.startswith(b"TOY\n\x01\x04flip")
    assert data[data.index(b"toy.head") + len(b"toy.head")] == level
    run(dest, folder / "back.toy", manager=manager)
    assert (folder / "back.toy").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("codec", ["zstd", "flip:0", "flip:x", "flip:", ""])
def test_a_codec_that_is_not_there_is_refused(
    codec: str, source: Path, folder: Path, manager: PluginManager
) -> None:
    with pytest.raises(UsageError):
        run(source, folder / "image.toy", codec=codec, manager=manager)
    assert names(folder) == []


def test_pages_are_carried_only_where_nothing_changes(source: Path, folder: Path) -> None:
    other = toy.variant(
        toy.Toy, name="other", suffixes=(".other",), sniff=lambda _self, _head: False
    )
    manager = toy.make_manager(toy.Plugin("other", other))

    def mode(dest: str, codec: str | None = None) -> Any:
        return run(source, folder / dest, codec=codec, manager=manager).source.details["pages"]

    assert mode("image.toy") == PageMode.CARRY.value
    assert mode("image.toy", "flip") == PageMode.FULL.value
    assert mode("image.other") == PageMode.FULL.value


def test_the_writer_is_told_what_it_may_need(source: Path) -> None:
    seen: list[WriteOptions] = []

    class Asking(toy.Toy):
        name = "asking"
        suffixes = ()

        def sniff(self, head: bytes) -> bool:
            return False

        def writer(self, sink: Any, info: ImageInfo, options: WriteOptions) -> toy.ToyWriter:
            seen.append(options)
            return super().writer(sink, info, options)

    manager = toy.make_manager(toy.Plugin("asking", Asking()))
    run(source, io.BytesIO(), to="asking", checksum="sha256", workers=3, manager=manager)
    (options,) = seen
    assert options.checksum == "sha256"
    assert options.workers.nr_threads == 3
    assert list(options.codecs) == ["flip"]
    assert options.about.keys() == {"writer", "created"}
    kind = options.identify(toy.text("extra.note", mandatory=False).type)
    assert kind.owner is not None
    assert (kind.owner.plugin, kind.mandatory) == ("extra", False)


def test_the_time_of_writing_can_be_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert about_us()["created"] == "1970-01-02T00:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert about_us()["created"] > "2020"


# Which records.


def test_a_mandatory_record_of_another_plugin_stops_the_run(
    source: Path, folder: Path, manager: PluginManager
) -> None:
    with pytest.raises(
        MissingPluginError, match=r"extra.must is mandatory: .* not among"
    ) as caught:
        run(source, folder / "image.toy", plugins=["toy"], manager=manager)
    assert caught.value.plugin == "extra"
    assert names(folder) == []


def test_an_optional_record_of_another_plugin_is_carried_unchanged(
    folder: Path, manager: PluginManager, caplog: pytest.LogCaptureFixture
) -> None:
    data = toy.image([
        toy.text("toy.text"), toy.text("extra.note", "", mandatory=False),
        toy.text("who.knows", "?", mandatory=False),
    ])  # fmt: skip
    dest = folder / "image.toy"
    with caplog.at_level(logging.WARNING, "xsave.run"):
        report = run(io.BytesIO(data), dest, plugins=["toy"], manager=manager)
    assert dest.read_bytes() == data
    assert report.carried == ["extra.note", "who.knows"]
    assert not report.partial
    assert "who.knows is carried unchanged" in caplog.text


def test_a_plugin_that_is_chosen_brings_what_it_needs(
    source: Path, folder: Path, manager: PluginManager
) -> None:
    report = run(source, folder / "image.toy", plugins=["extra"], manager=manager)
    assert report.plugins == ["extra", "toy"]
    assert report.carried == []


def test_a_plugin_that_is_not_there_is_refused(
    source: Path, folder: Path, manager: PluginManager
) -> None:
    with pytest.raises(UnknownNameError, match="no plugin is named 'pv'; known: extra, toy"):
        run(source, folder / "image.toy", plugins=["pv"], manager=manager)


def test_a_version_that_is_too_high_stops_the_run(folder: Path, manager: PluginManager) -> None:
    data = toy.image([toy.text("toy.text", version=2)])
    with pytest.raises(MissingPluginError, match="its version is 2, and plugin toy here"):
        run(io.BytesIO(data), folder / "image.toy", manager=manager)
    assert names(folder) == []


def test_an_optional_record_of_a_version_too_high_is_carried_unchanged(
    folder: Path, manager: PluginManager
) -> None:
    data = toy.image([toy.text("extra.note", "", mandatory=False, version=2)])
    report = run(io.BytesIO(data), folder / "image.toy", manager=manager)
    assert (folder / "image.toy").read_bytes() == data
    assert report.carried == ["extra.note"]
    assert report.plugins == []


def test_what_the_destination_has_no_place_for_is_told(
    source: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = toy.variant(
        toy.Toy, name="narrow", suffixes=(".narrow",), sniff=lambda _self, _head: False,
        no_place=frozenset({"toy.head", "extra.note", "who.knows"}),
    )  # fmt: skip
    manager = toy.make_manager(toy.Plugin("narrow", narrow))
    unknown = toy.text("who.knows", mandatory=False)
    data = toy.image([*toy.ordinary(), unknown, unknown])
    with caplog.at_level(logging.INFO, "xsave.run"):
        report = run(io.BytesIO(data), folder / "image.narrow", manager=manager)
    assert report.headers_left_out == ["toy.head"]
    assert report.left_out == {"extra.note": 1, "who.knows": 2}
    assert report.partial
    assert "who.knows was left out 2 times: narrow has no place for it" in caplog.text
    assert "toy.head is not part of format narrow" in caplog.text
    found = toy.names((folder / "image.narrow").read_bytes())
    assert found == ["toy.pages", "toy.pages", "toy.text", "extra.must", "toy.end"]


def test_headers_alone_left_out_make_no_partial_image(source: Path, folder: Path) -> None:
    narrow = toy.variant(
        toy.Toy, name="narrow", suffixes=(), sniff=lambda _self, _head: False,
        no_place=frozenset({"toy.head"}),
    )  # fmt: skip
    manager = toy.make_manager(toy.Plugin("narrow", narrow))
    report = run(source, folder / "image", to="narrow", manager=manager)
    assert report.headers_left_out == ["toy.head"]
    assert not report.partial


# Additions.


def test_additions_stand_where_the_declared_order_places_them(
    folder: Path, manager: PluginManager
) -> None:
    data = toy.image(
        [toy.text("toy.head"), toy.pages(1), toy.text("toy.text"), toy.text("toy.end")]
    )
    dest = folder / "image.toy"
    run(
        io.BytesIO(data), dest, manager=manager,
        add={"extra.must": b"m", "extra.note": b"n"},
    )  # fmt: skip
    assert toy.names(dest.read_bytes()) == [
        "toy.head", "toy.pages", "extra.note", "toy.text", "extra.must", "toy.end",
    ]  # fmt: skip


def test_additions_after_everything_stand_at_the_end(folder: Path, manager: PluginManager) -> None:
    dest = folder / "image.toy"
    run(
        toy.Stream([toy.pages(1), toy.text("who.knows", mandatory=False)]), dest, manager=manager,
        add={"toy.end": b"e", "toy.text": b"t"},
    )  # fmt: skip
    assert toy.names(dest.read_bytes()) == ["toy.pages", "who.knows", "toy.text", "toy.end"]


def test_an_addition_keeps_what_its_handler_says_of_it(
    folder: Path, manager: PluginManager
) -> None:
    dest = folder / "image.toy"
    run(toy.Stream([]), dest, manager=manager, add={"extra.note": b"n", "extra.must": b"m"})
    expected = [toy.text("extra.note", "n", mandatory=False), toy.text("extra.must", "m")]
    assert dest.read_bytes() == toy.image(expected)


@pytest.mark.parametrize(
    ("name", "body", "plugins", "reason"),
    [
        ("who.knows", b"x", None, "no record in the chosen plugins is named 'who.knows'"),
        ("extra.note", b"x", ["toy"], "known: toy.end, toy.head, toy.pages, toy.text"),
        ("toy.pages", b"x", None, "toy.pages cannot be added to an image of this kind"),
        ("pv.only", b"x", None, "pv.only cannot be added to an image of this kind"),
        ("toy.text", b"", None, "the body given for toy.text is wrong: text: expected some"),
        ("toy.text", b"\xff", None, "the body given for toy.text is wrong"),
    ],
)  # fmt: skip
def test_an_addition_that_makes_no_sense_is_refused(
    name: str, body: bytes, plugins: list[str] | None, reason: str, source: Path, folder: Path
) -> None:
    only = toy.variant(toy.Text, name="pv.only", guest_types=frozenset({GuestType.X86_PV}))
    manager = toy.make_manager(toy.Plugin("pv", only))
    with pytest.raises(UsageError, match=reason):
        run(source, folder / "image.toy", plugins=plugins, add={name: body}, manager=manager)
    assert names(folder) == []


# Failing.


def test_a_wrong_record_carries_its_place_and_leaves_nothing(
    folder: Path, manager: PluginManager
) -> None:
    data = toy.image([*toy.ordinary(), toy.text("toy.text", "")])
    with pytest.raises(RecordError) as caught:
        run(io.BytesIO(data), folder / "image.toy", manager=manager)
    assert caught.value.record == "toy.text"
    assert data[caught.value.offset + toy.HEAD.size :].startswith(b"toy.text")
    assert caught.value.offset == data.rindex(b"toy.text") - toy.HEAD.size
    assert names(folder) == []


@pytest.mark.parametrize("older", [None, b"older"])
def test_a_cut_image_leaves_nothing_new(
    older: bytes | None, folder: Path, manager: PluginManager
) -> None:
    dest = folder / "image.toy"
    if older is not None:
        dest.write_bytes(older)
    data = toy.image()
    for size_bytes in (5, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(TruncatedError):
            run(io.BytesIO(data[:size_bytes]), dest, manager=manager)
        assert names(folder) == ([] if older is None else ["image.toy"])
    assert older is None or dest.read_bytes() == older


def test_what_a_check_refuses_at_the_end_leaves_nothing(source: Path, folder: Path) -> None:
    refusing = toy.Plugin("checking", check=lambda info: toy.Witness(info, frozenset({"finish"})))
    with pytest.raises(FieldError):
        run(source, folder / "image.toy", manager=toy.make_manager(refusing))
    assert names(folder) == []


def test_the_memory_of_pages_is_free_when_the_next_ones_are_read(
    folder: Path, manager: PluginManager
) -> None:
    was_free: list[bool] = []

    class Watching(toy.Stream):
        def __iter__(self) -> Iterator[Event]:
            events = toy.ordinary()
            while events:
                event = events.pop(0)
                watched = weakref.ref(event)
                is_pages = isinstance(event, PageBatch)
                yield event
                del event
                if is_pages:
                    was_free.append(watched() is None)

    run(Watching([]), folder / "image.toy", manager=manager)
    assert was_free == [True, True]


def test_a_reader_of_ones_own_may_fail_as_it_likes(folder: Path, manager: PluginManager) -> None:
    class Failing(toy.Stream):
        def __iter__(self) -> Iterator[Event]:
            yield from self.events
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Failing(toy.ordinary()), folder / "image.toy", manager=manager)
    assert names(folder) == []


def test_a_destination_that_fails_is_told(source: Path, manager: PluginManager) -> None:
    with pytest.raises(OutputError, match="No space left on device"):
        run(source, "/dev/full", to="toy", manager=manager)


@pytest.mark.parametrize("limit", range(8))
def test_a_cancelled_run_leaves_nothing(
    limit: int, source: Path, folder: Path, manager: PluginManager
) -> None:
    asked = count()
    dest = folder / "image.toy"
    if limit < len(toy.ordinary()):
        with pytest.raises(CancelledError):
            run(source, dest, manager=manager, cancelled=lambda: next(asked) >= limit)
        assert names(folder) == []
    else:
        run(source, dest, manager=manager, cancelled=lambda: next(asked) >= limit)
        assert names(folder) == ["image.toy"]


@pytest.mark.parametrize("link", ["none", "symbolic", "hard"])
def test_source_and_destination_must_not_be_the_same_file(
    link: str, source: Path, tmp_path: Path, manager: PluginManager
) -> None:
    before = source.read_bytes()
    dest = source if link == "none" else tmp_path / "link.toy"
    if link == "symbolic":
        dest.symlink_to(source)
    elif link == "hard":
        dest.hardlink_to(source)
    for given in (dest, str(dest)):
        with pytest.raises(UsageError, match="is both source and destination"):
            run(source, given, manager=manager)
    assert source.read_bytes() == before


def test_the_null_device_may_be_both(manager: PluginManager) -> None:
    with pytest.raises(Exception, match="it is empty"):
        run("/dev/null", "/dev/null", to="toy", manager=manager)


# Progress, and several at once.


def test_progress_begins_with_nothing_and_ends_with_everything(
    source: Path, manager: PluginManager
) -> None:
    told: list[Progress] = []
    run(source, io.BytesIO(), to="toy", manager=manager, progress=told.append)
    size_bytes = source.stat().st_size
    assert {(progress.stage, progress.bytes_total) for progress in told} == {("run", size_bytes)}
    assert told[0].nr_pages == 0
    assert told[0].bytes_done < size_bytes
    assert (told[-1].bytes_done, told[-1].nr_pages) == (size_bytes, 5)
    done = [progress.bytes_done for progress in told]
    assert done == sorted(done)


def test_of_a_pipe_the_total_is_not_known(manager: PluginManager) -> None:
    told: list[Progress] = []
    data = toy.image()
    run(io.BytesIO(data), io.BytesIO(), to="toy", manager=manager, progress=told.append)
    assert {progress.bytes_total for progress in told} == {None}
    assert told[-1].bytes_done == len(data)
    assert told[-1].remaining_s is None


def test_several_may_run_at_once(folder: Path, tmp_path: Path, manager: PluginManager) -> None:
    images = {}
    for at in range(8):
        events = [toy.pages(*range(20), seeds=[at * 20 + n for n in range(20)])] * 5
        images[at] = toy.image([*events, toy.text("toy.text", str(at))])
        (tmp_path / f"{at}.toy").write_bytes(images[at])

    def convert(at: int) -> None:
        packed = folder / f"{at}.packed.toy"
        run(tmp_path / f"{at}.toy", packed, codec="flip", workers=2, manager=manager)
        run(packed, folder / "same.toy", manager=manager)
        run(packed, folder / f"{at}.toy", codec=None, manager=manager)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(convert, images))
    for at, data in images.items():
        assert (folder / f"{at}.toy").read_bytes() == data
    assert (folder / "same.toy").read_bytes() in images.values()
    assert len(names(folder)) == 17


def test_an_option_that_could_do_nothing_is_refused_before_anything_is_begun(
    source: Path, folder: Path
) -> None:
    plugin = toy.Plugin("horn")
    plugin.PLUGIN = evolve(plugin.PLUGIN, options=(PluginOption("volume", "", ("low", "high")),))
    with pytest.raises(UsageError, match=r"option horn.volume is about a domain as source, and"):
        run(
            source, folder / "image.toy", options={"horn.volume": "low"},
            manager=toy.make_manager(plugin),
        )  # fmt: skip
    assert names(folder) == []
