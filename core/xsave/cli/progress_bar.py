"""Progress on standard error: a bar on a terminal, else a line a second where asked for."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from ..progress import Progress, ProgressCallback
from .output import is_terminal, size
from .settings import Settings

LINE_INTERVAL_S = 1.0
BAR_WIDTH_MAX = 40
_GREEN, _PLAIN, _ERASE_LINE = "\x1b[32m", "\x1b[0m", "\r\x1b[K"


@contextlib.contextmanager
def progress_shown(settings: Settings) -> Iterator[ProgressCallback | None]:
    """A callback for the library while something runs; None where nothing is to be shown."""
    terminal = is_terminal(sys.stderr)
    wanted = settings.progress
    if wanted is None:
        wanted = terminal and not settings.quiet
    if not wanted or sys.stderr is None:
        yield None
    elif terminal:
        bar = ProgressBar(sys.stderr)
        try:
            yield bar
        finally:
            bar.erase()
    else:
        yield ProgressLines(sys.stderr)


class ProgressLines:
    """A line at the beginning, about every second, and at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told = float("-inf")

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        last = progress.bytes_done == progress.bytes_total
        if now - self._told < LINE_INTERVAL_S and not last:
            return
        self._told = now
        _write(self._stream, f"xsave: {describe(progress)}\n")


class ProgressBar:
    """One line that is drawn over again. Plain escapes: rich would cost 100 ms."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        encoding = (stream.encoding or "ascii").lower()
        self._full, self._empty = ("━", "╌") if encoding.startswith("utf") else ("#", "-")
        self._drawn = 0

    def __call__(self, progress: Progress) -> None:
        room = self._width() - 1  # a full last column would begin a new line
        text = describe(progress)[:room]
        bar_width = min(BAR_WIDTH_MAX, room - len(text) - 2)
        bar = ""
        if progress.bytes_total and bar_width >= 5:
            nr_full = min(bar_width * progress.bytes_done // progress.bytes_total, bar_width)
            full, empty = self._full * nr_full, self._empty * (bar_width - nr_full)
            bar = f"{_GREEN}{full}{_PLAIN}{empty}  " if self._colour else f"{full}{empty}  "
            bar_width += 2
        else:
            bar_width = 0
        drawn = bar_width + len(text)
        _write(self._stream, f"\r{bar}{text}{' ' * max(self._drawn - drawn, 0)}")
        self._drawn = drawn

    def _width(self) -> int:
        columns = os.environ.get("COLUMNS", "")
        if columns.isdigit() and int(columns):
            return int(columns)
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:
            return 80

    def erase(self) -> None:
        if not self._drawn:
            return
        dumb = os.environ.get("TERM") == "dumb"
        _write(self._stream, f"\r{' ' * self._drawn}\r" if dumb else _ERASE_LINE)


def describe(progress: Progress) -> str:
    """For example ``run 45 %  56.2 MiB of 142.7 MiB  310.0 MiB/s  0:02 left``."""
    done, total = size(progress.bytes_done), progress.bytes_total
    rate = f"{size(progress.bytes_per_s)}/s"
    if progress.iteration is not None:
        left = progress.remaining_s
        ahead = clock(progress.elapsed_s) if left is None else f"about {clock(left)} left"
        return f"{progress.stage}  {_live(progress)}  {done}  {rate}  {ahead}"
    if not total:
        return f"{progress.stage}  {done}  {rate}  {clock(progress.elapsed_s)}"
    share = f"{100 * progress.bytes_done // total:3d} %"
    left = progress.remaining_s
    ahead = "" if left is None else f"  {clock(left)} left"
    return f"{progress.stage} {share}  {done} of {size(total)}  {rate}{ahead}"


def _live(progress: Progress) -> str:
    """For example ``iteration 2, dirtied at 41.2 MiB/s``, or ``checkpoint 17``."""
    if progress.nr_checkpoints:
        return f"checkpoint {progress.nr_checkpoints - 1}"  # from 0, as in the report
    if progress.paused:
        return "paused"
    dirty = progress.dirty_bytes_per_s
    told = "" if dirty is None else f", dirtied at {size(dirty)}/s"
    return f"iteration {progress.iteration}{told}"


def clock(seconds: float) -> str:
    """``0:07``, ``12:00``, ``1:02:03``; rounded up, so that 0:00 is the end."""
    minutes, rest = divmod(int(-(-seconds // 1)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _write(stream: TextIO, text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # progress is no reason to fail
        stream.write(text)
        stream.flush()
