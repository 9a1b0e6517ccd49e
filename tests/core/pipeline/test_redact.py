"""What nobody speaks for is gone; what is kept is listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core import toy
from xsave import Phase, PluginManager, Record, Redaction, UsageError, redact
from xsave.testing import MemorySource

SECRET = b"the guest's secret"


class Kept(toy.Text):
    name = "plain.kept"
    redaction = Redaction.KEPT


class Cleaned(toy.Text):
    name = "plain.cleaned"
    redaction = Redaction.CLEANED

    def redact(self, state: str, seen: Mapping[str, Any]) -> str:
        return state.replace(SECRET.decode(), "*")


class Pages(toy.Pages):
    """The page that plain.kept names as a number is structure, and so are tables."""

    name = "plain.pages"
    structural_types = frozenset({1})
    structure_from = frozenset({"plain.kept"})

    def structure(self, states: Mapping[str, Sequence[Any]], find: Any) -> Mapping[str, Any]:
        named = np.array([int(text) for text in states.get("plain.kept", ())], np.uint64)
        there, pages = find(named)
        assert len(there) == len(pages)
        return {"maps": there}

    def redact(self, kind: str, pages: Any) -> None:
        if kind == "maps":
            pages[:, :8] = 0xEE


@pytest.fixture
def manager() -> PluginManager:
    plugin = toy.Plugin("plain", Kept(), Cleaned(), Pages(), needs=["toy"])
    return toy.make_manager(plugin)


def batch(*pfns: int, types: Sequence[int] | None = None, seeds: Sequence[int]) -> Any:
    made = toy.pages(*pfns, types=types, seeds=seeds)
    made.type = toy.RecordType("plain.pages")
    return made


def redacted(
    manager: PluginManager, folder: Path, events: Sequence[Any]
) -> tuple[Any, list[Any], bytes]:
    source, dest = folder / "guest.toy", folder / "shown.toy"
    source.write_bytes(toy.image(events))
    report = redact(source, dest, manager=manager)
    data = dest.read_bytes()
    reader = toy.Toy().reader(MemorySource(data), toy.ReadOptions(codecs={"flip": toy.Flip()}))
    return report, list(reader), data


def test_records_are_kept_cleaned_or_left_out_as_their_handlers_say(
    manager: PluginManager, tmp_path: Path
) -> None:
    secret = SECRET.decode()
    events = [
        toy.text("toy.text", secret),
        toy.text("plain.kept", "7"),
        toy.text("plain.cleaned", f"x {secret}"),
        toy.text("odd.thing", secret, mandatory=False),
    ]
    report, left, data = redacted(manager, tmp_path, events)
    assert [(record.name, bytes(record.body)) for record in left] == [
        ("plain.kept", b"7"),
        ("plain.cleaned", b"x *"),
    ]
    assert (report.kept, report.cleaned) == (["plain.kept"], {"plain.cleaned": ["value"]})
    assert report.left_out == {"toy.text": 1, "odd.thing": 1}
    assert SECRET not in data


def test_pages_are_erased_but_for_those_that_are_structure(
    manager: PluginManager, tmp_path: Path
) -> None:
    events = [
        batch(0, 1, 2, 3, types=[0, 1, 0, 0xF], seeds=[1, 2, 4]),
        toy.text("plain.kept", "2"),
    ]
    report, left, _ = redacted(manager, tmp_path, events)
    before, after = events[0].pages, left[0].pages
    assert left[0].entries.tolist() == events[0].entries.tolist()
    assert not after[0].any()
    assert (after[1] == before[1]).all()
    assert (after[2, 8:] == before[2, 8:]).all()
    assert (after[2, :8] == 0xEE).all()
    assert report.pages == {"page tables": 1, "maps": 1}
    assert report.nr_erased == 1


def test_only_the_last_contents_of_a_page_are_the_structure(
    manager: PluginManager, tmp_path: Path
) -> None:
    events = [
        batch(2, 2, 5, seeds=[1, 2, 7]),
        batch(2, 9, 2, seeds=[4, 5, 8]),
        toy.text("plain.kept", "2"),
    ]
    _, left, _ = redacted(manager, tmp_path, events)
    assert not left[0].pages.any()
    assert not left[1].pages[:2].any()
    assert (left[1].pages[2, 8:] == events[1].pages[2, 8:]).all()


def test_bits_that_mean_nothing_go(manager: PluginManager, tmp_path: Path) -> None:
    made = batch(1, seeds=[1])
    made.entry_list = toy.RawEntries((1 | 0x5A << 52).to_bytes(8, "little"))
    _, left, _ = redacted(manager, tmp_path, [made])
    assert left[0].entries.tolist() == [1]


def test_padding_goes(manager: PluginManager, tmp_path: Path) -> None:
    record = toy.text("plain.kept", "7")
    stream = toy.Stream([Record(record.type, record.body, padding=b"data")])
    with pytest.raises(UsageError, match="read several times: give a file"):
        redact(stream, tmp_path / "shown.toy", manager=manager)
    assert not (tmp_path / "shown.toy").exists()


def test_a_state_handler_says_nothing_unless_it_is_asked() -> None:
    assert toy.Text.redaction is Redaction.LEFT_OUT
    assert Cleaned().phase is Phase.END_OF_CHECKPOINT
