"""A mandatory record without a place stops the run, unless its loss was allowed by name."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from tests.core import toy
from xsave import LossError, PluginManager, TruncatedError, UnknownNameError, run


@pytest.fixture
def manager() -> PluginManager:
    narrow = toy.variant(
        toy.Toy, name="narrow", suffixes=(".narrow",), sniff=lambda _self, _head: False,
        loses=frozenset({"toy.text", "extra.must"}),
    )  # fmt: skip
    return toy.make_manager(toy.Plugin("narrow", narrow))


def twice() -> bytes:
    return toy.image([*toy.ordinary(), toy.text("toy.text", "again")])


def test_all_that_would_be_lost_is_named_and_nothing_is_written(
    tmp_path: Path, manager: PluginManager
) -> None:
    with pytest.raises(LossError) as refused:
        run(io.BytesIO(twice()), tmp_path / "image.narrow", manager=manager)
    assert refused.value.losses == {"toy.text": 2, "extra.must": 1}
    assert str(refused.value) == (
        "toy.text (2 of them), extra.must are mandatory, and this format has no place for them; "
        "convert to toy instead, or allow the loss: --allow-loss toy.text,extra.must"
    )
    assert list(tmp_path.iterdir()) == []


def test_no_byte_is_put_after_the_first_refusal(manager: PluginManager) -> None:
    out, whole = io.BytesIO(), io.BytesIO()
    with pytest.raises(LossError):
        run(io.BytesIO(twice()), out, to="narrow", manager=manager)
    run(io.BytesIO(twice()), whole, to="narrow", allow_loss=["toy", "extra"], manager=manager)
    first = whole.getvalue().index(b"toy.end")
    assert len(out.getvalue()) < first
    assert whole.getvalue().startswith(out.getvalue())


@pytest.mark.parametrize("allowed", [["toy.text", "extra.must"], ["toy", "extra"]])
def test_what_is_allowed_is_lost_and_told(
    allowed: list[str], tmp_path: Path, manager: PluginManager, caplog: pytest.LogCaptureFixture
) -> None:
    dest = tmp_path / "image.narrow"
    with caplog.at_level(logging.WARNING, "xsave.run"):
        report = run(io.BytesIO(twice()), dest, allow_loss=allowed, manager=manager)
    assert report.lost == {"toy.text": 2, "extra.must": 1}
    assert report.partial
    assert "toy.text is lost, as allowed, 2 times: narrow has no place for it" in caplog.text
    found = toy.names(dest.read_bytes())
    assert found == ["toy.head", "toy.pages", "toy.pages", "extra.note", "toy.end"]


def test_allowing_some_does_not_allow_others(tmp_path: Path, manager: PluginManager) -> None:
    with pytest.raises(LossError) as refused:
        run(io.BytesIO(twice()), tmp_path / "a.narrow", allow_loss=["toy"], manager=manager)
    assert refused.value.losses == {"extra.must": 1}
    assert str(refused.value).startswith("extra.must is mandatory")


def test_allowing_changes_nothing_where_there_is_a_place(
    tmp_path: Path, manager: PluginManager
) -> None:
    dest = tmp_path / "image.toy"
    report = run(io.BytesIO(twice()), dest, allow_loss=["toy"], manager=manager)
    assert dest.read_bytes() == twice()
    assert not report.partial


@pytest.mark.parametrize("name", ["toy.tex", "xt", "toy.text.more", ""])
def test_a_name_that_stands_for_no_record_is_refused(name: str, manager: PluginManager) -> None:
    with pytest.raises(UnknownNameError, match=r"no record is named .*known: .*toy.text"):
        run(io.BytesIO(twice()), io.BytesIO(), allow_loss=[name], manager=manager)


def test_a_wrong_image_is_told_of_first(manager: PluginManager) -> None:
    with pytest.raises(TruncatedError):
        run(io.BytesIO(twice()[:-1]), io.BytesIO(), to="narrow", manager=manager)
