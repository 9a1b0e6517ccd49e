"""``xsave report``: one page about an image, whole, safe, and readable in a browser."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_report import EVIL, Page, in_browser
from xsave import Highlight, ImageInfo, RunReport, Survey
from xsave.cli.image_html import image_page
from xsave.pipeline.inspect import RecordItem
from xsave.pipeline.survey import MapRow, MemoryMap

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def made_up(text: str) -> Survey:
    info = ImageInfo("xl", xen_version=text)
    rows = (MapRow(0, bytes([2] * 60 + [1] * 60 + [0] * 8)), MapRow(4096, bytes([6] * 128)))
    fields = {text: {"deep": [1, text, None, {"x": 70000}]}, "empty": []}
    return Survey(
        info,
        RunReport(info),
        [RecordItem(text, 1, 64, 8, text, 1, False, False, fields)],
        [Highlight(text, text, text), Highlight("vcpus", "vcpu 0", text)],
        MemoryMap(4, rows),
        {"NOTAB": 480},
        {"zero": 240, "data": 240},
        needs_plugins={text: 1},
    )  # fmt: skip


def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere() -> None:
    page = Page(image_page("guest.save", made_up("ordinary")))
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(page.seen)
    assert not {name for name, _ in page.attributes} & {"src", "href", "style", "xlink:href"}
    for words in ("guest.save", "Processors", "ordinary", "What it needs to be restored",
                  "for 1 mandatory record", "70000 (0x11170)"):  # fmt: skip
        assert words in page.text


def test_what_stands_in_an_image_is_shown_and_never_obeyed() -> None:
    page = Page(image_page(EVIL, made_up(EVIL)))
    assert "script" not in page.seen
    assert EVIL in page.text


def test_runs_of_cells_are_one_shape_and_absent_ones_none() -> None:
    page = Page(image_page("x", made_up("y")))
    assert page.seen.count("rect") == 3 + 3  # in the legend; of both rows


def test_the_command_writes_a_page_about_a_real_image(
    run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    done = run_xsave("report", small_image, tmp_path / "guest.html")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith(b"guest.html: 13 records, 4092 pages of memory\n")
    page = Page((tmp_path / "guest.html").read_text())
    for words in ("vcpu 0", "without paging", "real-time clock; version 3", "device model",
                  "of AuthenticAMD", "16 MiB, as its configuration says"):  # fmt: skip
        assert words in page.text
    assert page.seen.count("details") == 13


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pv1", ["pinned page table", "of 64 bits with 4 levels", "in kernel mode"]),
        ("pvh1", ["4 levels of page tables from pfn", "mode native"]),
    ],
)
def test_of_each_type_of_guest_it_says_what_matters(
    run_xsave: Run, name: str, words: list[str]
) -> None:
    image = Path(__file__).parents[1] / "data" / f"{name}.redacted.save.zst"
    done = run_xsave("report", image, "-")
    assert done.returncode == 0, done.stderr
    page = Page(done.stdout.decode())
    for some in words:
        assert some in page.text


def test_tmem_is_among_what_a_host_must_have(run_xsave: Run, tmp_path: Path) -> None:
    image = tmp_path / "guest.xsv"
    assert run_xsave("run", "sim:pvh?memory=8M&tmem=20", image, "-q").returncode == 0
    page = Page(run_xsave("report", image, "-").stdout.decode())
    assert "ABI version 1, room for 16 pools" in page.text
    assert "tmem pool 0" in page.text


def test_a_wrong_image_leaves_no_page(run_xsave: Run, small_image: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.save"
    cut.write_bytes(small_image.read_bytes()[:500_000])
    done = run_xsave("report", cut, tmp_path / "guest.html")
    assert done.returncode == 3
    assert b"the image is cut" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cut.save"]


@pytest.mark.browser
def test_a_browser_shows_the_map_and_opens_records(
    browser: Path, run_xsave: Run, small_image: Path, tmp_path: Path
) -> None:
    page = tmp_path / "guest.html"
    assert run_xsave("report", small_image, page).returncode == 0
    shown = Page(in_browser(browser, tmp_path, "--dump-dom", page.as_uri()).decode())
    written = Page(page.read_text())
    assert shown.seen.count("rect") == written.seen.count("rect") > 20
    assert shown.seen.count("details") == 13
