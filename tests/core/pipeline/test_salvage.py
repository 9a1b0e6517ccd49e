"""Of an image without sums of its own, what comes before the damage is saved."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.core import toy
from xsave import Loss, PluginManager, StreamError, salvage
from xsave.pipeline import salvage as module


@pytest.fixture(autouse=True)
def _toy_is_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_FORMAT", "toy")


def saved(manager: PluginManager, source: Any, dest: Path) -> tuple[Any, list[str]]:
    report = salvage(source, dest, manager=manager)
    return report, toy.names(dest.read_bytes())


def test_of_a_whole_image_all_is_saved_and_nothing_lost(
    manager: PluginManager, source: Path, tmp_path: Path
) -> None:
    report, names = saved(manager, source, tmp_path / "saved.toy")
    assert names == toy.names(source.read_bytes())
    assert (report.partial, report.losses, report.nr_pages) == (False, [], 5)


@pytest.mark.parametrize("where", ["file", "pipe"])
def test_what_comes_before_a_cut_is_saved(
    manager: PluginManager, tmp_path: Path, where: str
) -> None:
    data = toy.image()[:-60]
    path = tmp_path / "cut.toy"
    path.write_bytes(data)
    given: Any = path if where == "file" else io.BytesIO(data)
    report, names = saved(manager, given, tmp_path / "saved.toy")
    assert names == toy.names(toy.image())[: len(names)]
    assert len(names) >= 3
    (loss,) = report.losses
    assert loss.what == "everything from here on"
    assert not loss.is_exact
    assert 0 < loss.offset < len(data)
    assert "the image is cut" in loss.reason


def test_a_record_that_its_handler_refuses_is_lost_and_the_rest_is_not(
    manager: PluginManager, tmp_path: Path
) -> None:
    events = [toy.text("toy.text", ""), toy.pages(1, types=[0xD], seeds=[]), toy.text("toy.end")]
    report, names = saved(manager, io.BytesIO(toy.image(events)), tmp_path / "saved.toy")
    assert names == ["toy.end"]
    assert [(loss.what, loss.reason) for loss in report.losses] == [
        ("toy.text", "text: expected some, got none"),
        ("toy.pages", "type: expected a sound page, got pfn 0x1"),
    ]


def test_nothing_is_left_where_not_even_the_headers_are_whole(
    manager: PluginManager, tmp_path: Path
) -> None:
    with pytest.raises(StreamError):
        salvage(io.BytesIO(b"TOY\nx"), tmp_path / "saved.toy", manager=manager)
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_can_reads_on_behind_the_damage(tmp_path: Path, source: Path) -> None:
    class Mending(toy.Toy):
        name = "mending"
        suffixes = ()

        def salvage(self, image: Any, options: Any) -> Any:
            class Reader:
                info = toy.Stream([]).info

                def __iter__(self) -> Iterator[Any]:
                    yield toy.text("toy.text")
                    yield Loss("toy.pages", 7, 9, "gone", ((1, 3),))
                    yield Loss("toy.pages", 17, 9, "gone", ((5, 9),), is_exact=False)
                    yield toy.text("toy.end")

            return Reader()

        def sniff(self, head: bytes) -> bool:
            return head.startswith(b"MEND")

    manager = toy.make_manager(toy.Plugin("mending", Mending()))
    path = tmp_path / "damaged"
    path.write_bytes(b"MEND")
    report, names = saved(manager, path, tmp_path / "saved.toy")
    assert names == ["toy.text", "toy.end"]
    assert (report.nr_losses, report.nr_lost_pages) == (2, 3)


def test_only_so_many_losses_are_listed(
    manager: PluginManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOSSES_MAX", 2)
    wrong: Sequence[Any] = [toy.text("toy.text", "")] * 5
    report, _ = saved(manager, io.BytesIO(toy.image(wrong)), tmp_path / "saved.toy")
    assert (report.nr_losses, len(report.losses)) == (5, 2)
