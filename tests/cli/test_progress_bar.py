from __future__ import annotations

import io

import pytest

from xsave import Progress
from xsave.cli.output import size
from xsave.cli.progress_bar import ProgressBar, ProgressLines, clock, describe


class Terminal(io.StringIO):
    encoding = "utf-8"


def progress(done: int, total: int | None = 1000, elapsed_s: float = 1.0) -> Progress:
    return Progress("run", done, total, 0, elapsed_s)


def test_it_tells_share_sizes_rate_and_time_left() -> None:
    assert describe(progress(512 << 20, 1 << 30, 2.0)) == (
        "run  50 %  512.0 MiB of 1.0 GiB  256.0 MiB/s  0:02 left"
    )
    assert describe(progress(1024, None, 2.0)) == "run  1.0 KiB  512 B/s  0:02"
    assert describe(progress(0, 1000, 0.0)) == "run   0 %  0 B of 1000 B  0 B/s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (0.2, "0:01"), (59.5, "1:00"), (3723, "1:02:03")]
)
def test_times_are_rounded_up(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1 << 20, "1.0 MiB"),
        (3 << 40, "3.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_sizes_have_units(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


def test_a_bar_never_reaches_the_last_column_and_covers_what_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    for width in (10, 40, 60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        stream = Terminal()
        bar = ProgressBar(stream)
        for done in (0, 500, 1000, 2000):
            bar(progress(done))
        drawn = stream.getvalue().split("\r")[1:]
        assert max(map(len, drawn)) < width
        bar.erase()
        assert stream.getvalue().endswith("\r\x1b[K")


def test_a_bar_knows_colour_encoding_and_dumb_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    ProgressBar(stream)(progress(500))
    assert "\x1b[32m━" in stream.getvalue()

    plain = Terminal()
    plain.encoding = "ascii"
    monkeypatch.setenv("TERM", "dumb")
    bar = ProgressBar(plain)
    bar(progress(500))
    bar.erase()
    assert plain.getvalue().isascii()
    assert "\x1b" not in plain.getvalue()
    assert "####----" in plain.getvalue()


def test_a_bar_that_never_was_is_not_erased() -> None:
    stream = Terminal()
    ProgressBar(stream).erase()
    assert stream.getvalue() == ""


def test_lines_come_at_the_beginning_and_the_end() -> None:
    stream = io.StringIO()
    tell = ProgressLines(stream)
    for done in (0, 100, 200, 1000):
        tell(progress(done))
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["0", "100"]


def test_a_stream_that_is_gone_does_not_stop_the_run() -> None:
    stream = io.StringIO()
    stream.close()
    ProgressLines(stream)(progress(1))
