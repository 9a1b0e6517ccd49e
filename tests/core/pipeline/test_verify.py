"""A good image is found good, and what is wrong is told with its place."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tests.core import toy
from xsave import (
    CancelledError,
    CodecChoice,
    FormatError,
    PluginManager,
    Progress,
    RecordError,
    TruncatedError,
    verify,
)


def test_a_good_image_is_found_good(source: Path, manager: PluginManager) -> None:
    report = verify(source, manager=manager)
    assert not report.partial
    assert (report.nr_batches, report.nr_pages) == (2, 5)
    assert report.source.format == "toy"
    assert report.source_bytes == source.stat().st_size
    assert report.plugins == ["extra", "toy"]


@pytest.mark.parametrize("where", ["path", "object", "compressed"])
def test_the_digest_is_that_of_all_bytes(where: str, source: Path, manager: PluginManager) -> None:
    data = source.read_bytes()
    if where == "compressed":
        data = toy.flipped_file(data)
    given: Any = source if where == "path" else io.BytesIO(data)
    assert verify(given, manager=manager).digest == xxhash.xxh3_128_hexdigest(data)


def test_contents_are_passed_over_when_it_is_to_be_fast(
    source: Path, manager: PluginManager
) -> None:
    report = verify(source, fast=True, manager=manager)
    assert report.fast
    assert report.digest == ""
    assert report.source.details["pages"] == "skip"
    assert report.nr_pages == 5
    whole = verify(source, manager=manager)
    assert not whole.fast
    assert whole.source.details["pages"] == "check"


def test_damage_in_pages_is_seen_unless_it_is_fast(manager: PluginManager) -> None:
    data = toy.image([toy.pages(1)], codec=CodecChoice(toy.Flip(), 1))
    at = data.index(b"toy.pages") - 4  # the stored size, one too small; a byte of it left out
    size_bytes = int.from_bytes(data[at : at + 4], "little")
    broken = data[:at] + (size_bytes - 1).to_bytes(4, "little") + data[at + 4 : -13] + data[-12:]
    with pytest.raises(Exception, match="expected 4096, got 4095"):
        verify(io.BytesIO(broken), manager=manager)
    assert verify(io.BytesIO(broken), fast=True, manager=manager).nr_pages == 1


@pytest.mark.parametrize("fast", [False, True])
def test_an_image_cut_anywhere_is_refused(fast: bool, manager: PluginManager) -> None:
    data = toy.image([toy.text("toy.text"), toy.pages(1), toy.text("toy.end")])
    for size_bytes in {*range(4, 70), *range(len(data) - 60, len(data))}:
        with pytest.raises(TruncatedError):
            verify(io.BytesIO(data[:size_bytes]), fast=fast, manager=manager)


def test_more_behind_the_end_is_refused(manager: PluginManager) -> None:
    with pytest.raises(FormatError, match="end at offset"):
        verify(io.BytesIO(toy.image() + b"x"), manager=manager)


def test_a_wrong_record_is_told_with_its_place(manager: PluginManager) -> None:
    with pytest.raises(RecordError, match=r"toy.text at offset 0x6: text"):
        verify(io.BytesIO(toy.image([toy.text("toy.text", "")])), manager=manager)


def test_what_nobody_understands_makes_it_partial(manager: PluginManager) -> None:
    events = [
        toy.text("who.knows"),
        toy.text("who.cares", mandatory=False),
        toy.text("toy.text", version=2),
    ]
    report = verify(io.BytesIO(toy.image(events)), manager=manager)
    assert report.partial
    assert report.not_understood == ["who.knows", "toy.text"]
    assert report.carried == ["who.knows", "who.cares", "toy.text"]
    assert report.plugins == []


def test_one_mandatory_record_among_optional_ones_of_its_name_is_enough(
    manager: PluginManager,
) -> None:
    events = [toy.text("who.knows", mandatory=False), toy.text("who.knows")]
    assert verify(io.BytesIO(toy.image(events)), manager=manager).not_understood == ["who.knows"]


def test_only_the_chosen_plugins_look(source: Path, manager: PluginManager) -> None:
    report = verify(source, plugins=["toy"], manager=manager)
    assert report.not_understood == ["extra.must"]
    assert report.plugins == ["toy"]


def test_checks_watch(source: Path) -> None:
    made: list[toy.Witness] = []

    def check(info: Any) -> toy.Witness:
        made.append(toy.Witness(info))
        return made[-1]

    verify(source, manager=toy.make_manager(toy.Plugin("checking", check=check)))
    (witness,) = made
    assert witness.seen[-1] == ("finish", None)
    assert len(witness.seen) == len(toy.ordinary()) + 1


def test_progress_ends_with_everything(source: Path, manager: PluginManager) -> None:
    told: list[Progress] = []
    verify(source, manager=manager, progress=told.append)
    size_bytes = source.stat().st_size
    assert {(progress.stage, progress.bytes_total) for progress in told} == {("verify", size_bytes)}
    assert told[-1].bytes_done == size_bytes


def test_it_stops_when_it_is_asked_to(source: Path, manager: PluginManager) -> None:
    with pytest.raises(CancelledError):
        verify(source, manager=manager, cancelled=lambda: True)
