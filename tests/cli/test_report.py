"""``--report FILE.html``: one page, whole, safe, and readable in a browser."""

from __future__ import annotations

import re
import struct
import subprocess
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from xsave import (
    Decision,
    Figure,
    GuestType,
    ImageInfo,
    Iteration,
    RecordCount,
    Ruling,
    RunReport,
)
from xsave.progress import (
    DowntimeReport,
    GuestReport,
    MainJobReport,
    PluginFigures,
    Round,
    RoundsReport,
    SaveReport,
    StandbyReport,
    StatePass,
    StateReport,
)
from xsave.report_html import bar_plot, main_job_page, nice, run_page

Run = Callable[..., subprocess.CompletedProcess[bytes]]

EVIL = '<script>alert("x")</script>&\'" \N{SNOWMAN}'
VOID = {"meta", "br", "rect", "line", "circle", "polyline"}


def kept_pages(nr_iterations: int, name: str) -> StateReport:
    """State beside memory: it goes out with the iterations, and 7 voids in the pause."""
    figures = [
        Figure("pages", f"pages of {name}", 300 * nr_iterations, plotted=True),
        Figure("voids", "void by then", 5 * nr_iterations + 7, plotted=True),
        Figure("taken", "taken by them", 3 << 20, "bytes"),
    ]
    passes = [
        StatePass(str(number), 2, 300 * 4200, {"pages": 300, "voids": 5, "taken": 1 << 20})
        for number in range(nr_iterations)
    ]
    last = StatePass("paused", 1, 176, {"pages": 0, "voids": 7, "taken": 0})
    return StateReport("keeper", figures, [*passes, last])


def live_run(nr_iterations: int = 3, name: str = "guest7", *, live: bool = True) -> RunReport:
    iterations = [
        Iteration(number, 16384 >> number, 16380 >> number, 67 << 20 >> number, 0.5 / 2**number,
                  8190 >> number, 0.8)
        for number in range(nr_iterations)
    ]  # fmt: skip
    rulings = [Ruling(Decision.CONTINUE, f"reason {one.number}") for one in iterations]
    if rulings:
        rulings[-1] = Ruling(Decision.STOP_AND_COPY, f"enough, says {name}")
    save = SaveReport(
        live, "fixed", iterations, rulings, Iteration(nr_iterations, 777, 777, 3 << 20, 0.02, 0),
        42, None, DowntimeReport(0.001, 0.0234, 0.0056, 0.0078),
        [kept_pages(nr_iterations, name)],
    )  # fmt: skip
    info = ImageInfo("domain", GuestType.X86_PV, 4096, "4.17", 8, {"name": name})
    return RunReport(
        info, 80 << 20, "native", 40 << 20, "zstd:1", ["pv"],
        {"xen.pv.info": RecordCount("xen.pv.info", "pv", count=1, body_bytes=8)},
        20, 20000, 19999, 0.7, save=save,
        arrived=[PluginFigures("keeper", [Figure("kept", f"kept for {name}", 31)])],
    )  # fmt: skip


def main_job(name: str = "demo") -> MainJobReport:
    ran = live_run(name=name)
    return MainJobReport("sim", ["hvm"], "fixed", [
        GuestReport(name, "sim:pv", GuestType.X86_PV, "", ran, ran, ran, ["memory", "tsc"]),
        GuestReport("other", "sim:hvm", GuestType.X86_HVM, left_out=f"why {name}"),
    ])  # fmt: skip


class Page(HTMLParser):
    """Whether tags are closed as they were opened; and what is in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        # a browser writes shapes with an end of their own
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def checkpointed(name: str, count: int = 3) -> RunReport:
    report = live_run(name=name)
    assert report.save is not None
    report.save.rounds = RoundsReport()
    for number in range(count):
        downtime = DowntimeReport(0.001, 0.02, 0.003, 0.004)
        report.save.rounds.add(Round(number, 0.2 * bool(number), 55, 1 << 20, downtime))
    report.standby = StandbyReport(name, count, f"broke, says {name}", running=True)
    return report


PAGES = {
    "checkpoints": lambda name: run_page(checkpointed(name)),
    "many checkpoints": lambda name: run_page(checkpointed(name, 1000)),
    "run": lambda name: run_page(live_run(name=name)),
    "many iterations": lambda name: run_page(live_run(60, name)),
    "not live": lambda name: run_page(live_run(0, name, live=False)),
    "main job": lambda name: main_job_page(main_job(name)),
}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere(kind: str) -> None:
    text = PAGES[kind]("guest7")
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(page.seen)
    assert not {name for name, _ in page.attributes} & {"src", "href", "style", "xlink:href"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text
    assert "svg" in page.seen


@pytest.mark.parametrize("kind", PAGES)
def test_names_and_reasons_are_text_whatever_they_hold(kind: str) -> None:
    page = Page(PAGES[kind](EVIL))
    assert "script" not in page.seen
    assert EVIL in "".join(page.words)


def test_the_numbers_of_a_run_are_on_its_page() -> None:
    words = Page(run_page(live_run())).text
    for part in ("domain guest7 → native", "19999 with contents", "16380", "8190", "777",
                 "reason 0", "stop-and-copy", "42 pages deferred", "Downtime 37.8 ms",
                 "the rest of its memory: 23.4 ms", "its state: 5.6 ms", "80 %", "xen.pv.info",
                 "codec zstd:1"):  # fmt: skip
        assert part in words


def test_what_went_beside_memory_is_drawn_by_iteration_and_told_for_the_pause() -> None:
    text = run_page(live_run())
    words = Page(text).text
    for part in (
        "Beside memory: keeper", "pages of guest7 and void by then (logarithmic)",
        "While the guest stood still: 1 records (176 B), 0 pages of guest7, 7 void by",
        "taken by them 3.0 MiB", "At the destination: keeper", "kept for guest7 31",
    ):  # fmt: skip
        assert part in re.sub(r"\s+", " ", words)
    plot = text.partition('aria-label="keeper, by iteration"')[2].partition("</svg>")[0]
    number = r'"[\d.]+"'
    bar = rf'<rect class="(one|two)" x={number} y={number} width={number} height="([\d.]+)"'
    bars = re.findall(bar, plot)[2:]  # those before are the legend's
    assert [kind for kind, _ in bars] == ["one", "two"] * 4
    heights = [float(height) for _, height in bars]
    assert heights[0] == heights[2] == heights[4] > heights[1] > 0
    assert heights[6] == 0 < heights[7]  # in the pause: no page, some voids


def test_a_plugin_that_has_nothing_to_draw_has_its_figures_still() -> None:
    run = live_run()
    assert run.save is not None
    bare = [Figure("n", "notes", 9)]
    run.save.beside = [StateReport("notes", bare, [StatePass("0", 1, 1, {"n": 9})])]
    words = Page(run_page(run)).text
    assert "Beside memory: notes" in words
    assert "notes, by iteration" not in run_page(run)


def test_checkpoints_are_on_the_page_and_what_became_of_the_standby() -> None:
    words = Page(run_page(checkpointed("guest7"))).text
    for part in ("3 checkpoints, 3.0 MiB; paused 84.0 ms in all, 28.0 ms at most", "Last pause",
                 "Pauses of the checkpoints, ms", "broke, says guest7",
                 "guest7 took over, and runs, as of checkpoint 3"):  # fmt: skip
        assert part in words
    many = run_page(checkpointed("guest7", 1000))
    assert "the first and the last 100 are shown" in many
    assert len(many) < 200_000


def test_the_main_job_says_what_was_proved_and_what_was_not() -> None:
    words = Page(main_job_page(main_job())).text
    assert "Every guest arrived exactly as it left." in words
    assert "Compared at the pause: memory, tsc." in words
    assert "Left out: why demo." in words
    differing = main_job()
    differing.guests[0].move_differs = ["tsc"]
    words = Page(main_job_page(differing)).text
    assert "Not every guest is proved" in words
    assert "Different straight over: tsc" in words


def test_a_run_of_an_image_has_no_plots() -> None:
    image = live_run()
    image.save = None
    assert "svg" not in Page(run_page(image)).seen


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.3, 1.0, 7.1, 99.9, 1000.0, 123456789.0])
def test_a_scale_ends_at_a_round_number_not_below_and_not_far_above(value: float) -> None:
    assert value <= nice(value) <= max(1.0, 2 * value)


def test_bars_stay_within_their_plot_however_large() -> None:
    from xsave.report_html import _Group

    for sent in (0, 1, 9, 10, 99, 1 << 40):
        heights = re.findall(r'<rect class="(?:one|two)" x="[-\d.]+" y="([-\d.]+)"',
                             bar_plot([_Group("0", sent, sent)], ("a", "b"), "c"))  # fmt: skip
        assert all(0 <= float(y) <= 215 for y in heights)


def test_the_command_writes_the_page(run_xsave: Run, tmp_path: Path) -> None:
    page = tmp_path / "moved.html"
    done = run_xsave("run", "sim:pvh?memory=16M&dirty=40M/s", "sim:?host=b", "-q", "--report", page)
    assert done.returncode == 0, done.stderr
    words = Page(page.read_text()).text
    assert "domain pvh → sim" in words
    job = tmp_path / "job.html"
    done = run_xsave("run", "-q", "--plugins", "pv,tmem", "--report", job)
    assert done.returncode == 0, done.stderr
    assert "demo-pvh" in Page(job.read_text()).text


def test_a_page_that_cannot_be_written_is_an_error_in_words(run_xsave: Run, tmp_path: Path) -> None:
    done = run_xsave(
        "run", "sim:pvh?memory=4M", "sim:?host=b", "-q", "--report", tmp_path / "no" / "a.html"
    )
    assert done.returncode == 1
    assert b"cannot write" in done.stderr
    assert b"Traceback" not in done.stderr


def in_browser(browser: Path, folder: Path, *arguments: str) -> bytes:
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={folder}/profile", *arguments],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout


@pytest.mark.browser
def test_a_browser_lays_the_page_out_as_it_is_written(browser: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(main_job_page(main_job(EVIL)))
    shown = Page(in_browser(browser, tmp_path, "--dump-dom", page.as_uri()).decode())
    assert "script" not in shown.seen
    written = Page(page.read_text())
    assert shown.seen.count("svg") == written.seen.count("svg") == 8
    assert shown.seen.count("rect") == written.seen.count("rect")
    assert EVIL in "".join(shown.words)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("scheme", "paper", "bars"), [("1", (255, 255, 255), (37, 99, 235)),
                                  ("0", (18, 22, 28), (110, 168, 254))],
)  # fmt: skip
def test_a_browser_draws_the_plots_light_and_dark(
    browser: Path, tmp_path: Path, scheme: str, paper: tuple[int, ...], bars: tuple[int, ...]
) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(run_page(live_run()))
    in_browser(
        browser, tmp_path, f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=900,1000", f"--screenshot={picture}", page.as_uri(),
    )  # fmt: skip
    pixels = pixels_of(picture.read_bytes())
    assert pixels[0] == paper
    assert pixels.count(bars) > 2000


@pytest.mark.browser
def test_a_browser_draws_what_a_guest_had_in_tmem_beside_its_memory(
    browser: Path, tmp_path: Path, run_xsave: Run
) -> None:
    page, picture = tmp_path / "moved.html", tmp_path / "plot.png"
    done = run_xsave(
        "run", "sim:pvh?memory=16M&dirty=40M/s&tmem=900&tmem_rate=3000", "sim:?host=b", "-q",
        "--report", page,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = Page(in_browser(browser, tmp_path, "--dump-dom", page.as_uri()).decode())
    assert re.search(
        r"While the guest stood still: .*, 0 pages sent, \d+ invalidations", shown.text
    )
    # the plot alone, in the style of its page
    text = page.read_text()
    head, _, body = text.partition("<body>")
    plot = body.partition("<figcaption>Beside memory, tmem")[2].partition("</figure>")[0]
    page.write_text(
        f"{head}<body><figure>{plot.partition('</figcaption>')[2]}</figure></body></html>"
    )
    in_browser(
        browser, tmp_path, "--blink-settings=preferredColorScheme=1", "--window-size=900,400",
        f"--screenshot={picture}", page.as_uri(),
    )  # fmt: skip
    pixels = pixels_of(picture.read_bytes())
    assert pixels.count((37, 99, 235)) > 1000  # pages, while it ran
    assert pixels.count((217, 119, 6)) > 200  # invalidations


def pixels_of(png: bytes) -> list[tuple[int, ...]]:
    """Of an RGB or RGBA picture of 8 bits, rows one after another."""
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
    assert depth == 8
    channels = {2: 3, 6: 4}[colour]
    packed, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            packed += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw, stride = zlib.decompress(packed), width * channels
    before = bytearray(stride)
    pixels: list[tuple[int, ...]] = []
    for row in range(height):
        start = row * (stride + 1)
        line = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], line, before, channels)
        pixels += [tuple(line[x : x + 3]) for x in range(0, stride, channels)]
        before = line
    return pixels


def _unfilter(kind: int, line: bytearray, above: bytearray, step: int) -> None:
    for x in range(len(line)):
        left = line[x - step] if x >= step else 0
        corner = above[x - step] if x >= step else 0
        guess = (0, left, above[x], (left + above[x]) // 2, _paeth(left, above[x], corner))[kind]
        line[x] = (line[x] + guess) & 255


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda one: abs(guess - one))
