"""Measure xsave against its peers, and hold the ratios against the targets.

    python tests/bench/run.py --dir /var/tmp/bench --size 4G

Every figure is a ratio, ours to theirs, of the processor time (user and system) of whole
commands that run in turn: a pair, the next pair the other way round, and the median over
the pairs. Both write real files into the same folder, and the files are removed after each
command. The inputs are read once before, so that they come from the page cache.

This process stays small on purpose (no numpy): a child's peak memory counts from that of
its parent. README.md beside this file says what the numbers mean.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import asdict, define, field, frozen

HERE = Path(__file__).resolve().parent
MAKE_IMAGE = HERE / "make_image.py"
RECORD_HEAD = HERE / "record_head.py"
LIVE = HERE / "live.py"
LINKS = HERE / "links.py"
LINK_BYTES = 2 << 30  # what the targets of links speak of
BIG_BYTES = 4 << 30  # what the targets speak of
MIN_PAIRS = 5
HOT_BYTES = 32 << 20  # half of what a writer keeps to make differences from
QUICK_FACTOR = 3  # commands of a fraction of a second run so many times more pairs
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class NotMeasuredError(Exception):
    """There is no figure, and the text says why."""


# One command -----------------------------------------------------------------------------


@frozen
class Command:
    """:ivar argv: the first is a path.
    :ivar out: the file it writes, if it writes one: measured, then removed.
    :ivar to_stdout: that file is its standard output.
    :ivar env: beside the environment.
    """

    argv: tuple[str, ...]
    out: Path | None = None
    to_stdout: bool = False
    env: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        return " ".join((Path(self.argv[0]).name, *self.argv[1:]))


@frozen
class Usage:
    """What one run took: seconds and bytes; ``peak_bytes`` is the resident set."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    out_bytes: int = 0


def run_command(command: Command, log: Path) -> Usage:
    """Run it to its end.

    :raises NotMeasuredError: it cannot be started or does not end with exit code 0.
    """
    stdout = command.out if command.to_stdout and command.out else Path(os.devnull)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(stdout), flags, 0o644),
        (os.POSIX_SPAWN_OPEN, 2, str(log), flags, 0o644),
    ]
    start = time.perf_counter()
    try:
        pid = os.posix_spawn(
            command.argv[0], command.argv, {**os.environ, **dict(command.env)},
            file_actions=actions,
        )  # fmt: skip
    except OSError as error:
        raise NotMeasuredError(f"{command.argv[0]}: {error.strerror}") from None
    _, status, rusage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - start
    if status:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
        code = os.waitstatus_to_exitcode(status)
        raise NotMeasuredError(f"{command.text} ended with {code}: {lines[-1][:200]}")
    return Usage(
        cpu_s=rusage.ru_utime + rusage.ru_stime,
        wall_s=wall_s,
        peak_bytes=rusage.ru_maxrss * 1024,
        out_bytes=command.out.stat().st_size if command.out else 0,
    )


# A pair of commands ----------------------------------------------------------------------


@frozen
class Pair:
    """:ivar reads: is read before, to have it in the page cache.
    :ivar same_as: what ours wrote must be equal to this file.
    :ivar quick: takes a fraction of a second: more pairs, and one run to warm up.
    """

    ours: Command
    theirs: Command
    reads: tuple[Path, ...] = ()
    same_as: Path | None = None
    quick: bool = False


@frozen
class Measured:
    """The runs of a pair, in the order they were made."""

    ours: list[Usage]
    theirs: list[Usage]

    def cpu(self) -> Figure:
        return self._figure("s", lambda usage: usage.cpu_s)

    def size(self) -> Figure:
        return self._figure("MB", lambda usage: usage.out_bytes / 1e6)

    def _figure(self, unit: str, value: Callable[[Usage], float]) -> Figure:
        ours, theirs = [value(usage) for usage in self.ours], [value(u) for u in self.theirs]
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        return Figure(
            unit=unit,
            ours=statistics.median(ours),
            theirs=statistics.median(theirs),
            value=statistics.median(ratios),
            spread=(min(ratios), max(ratios)),
            nr_pairs=len(ratios),
            wall_ours_s=statistics.median(usage.wall_s for usage in self.ours),
            wall_theirs_s=statistics.median(usage.wall_s for usage in self.theirs),
            peak_ours_mib=max(usage.peak_bytes for usage in self.ours) / (1 << 20),
            peak_theirs_mib=max(usage.peak_bytes for usage in self.theirs) / (1 << 20),
        )


@frozen
class Figure:
    """What is held against a limit.

    :ivar value: the ratio; for absolute targets, ours itself.
    :ivar spread: lowest and highest of what ``value`` is the median of.
    """

    unit: str
    ours: float
    value: float
    theirs: float | None = None
    spread: tuple[float, float] | None = None
    nr_pairs: int = 0
    wall_ours_s: float | None = None
    wall_theirs_s: float | None = None
    peak_ours_mib: float | None = None
    peak_theirs_mib: float | None = None


# All that is measured ---------------------------------------------------------------------


@define
class Bench:
    """Inputs are made when a target first needs them, pairs are run once for all targets."""

    folder: Path
    size_bytes: int
    nr_pairs: int
    xsave: Path
    verify_stream: Path | None
    hvm: Path | None
    records: Path | None = None
    say: Callable[[str], None] = lambda _text: None
    _measured: dict[str, Measured | str] = field(factory=dict)
    _live: dict[tuple[str, ...], Any] = field(factory=dict)
    _made: dict[Path, str] = field(factory=dict)  # file to the reason it is missing, or ""

    # Inputs

    def image(self, content: str, *, later: bool = False, passes: int = 1) -> Path:
        """BIG, or its like with other pages.

        :param later: the same guest some time later.
        :param passes: over the memory of a guest that is smaller by as much.
        """
        kind = f"{content}-later" if later else content
        kind += f"-{passes}-passes" if passes > 1 else ""
        path = self.folder / f"{kind}-{self.size_bytes >> 10}K.save"
        options = (*(("--later",) if later else ()), "--passes", str(passes))
        records = ("--records", str(self.records)) if self.records else ()
        argv = (
            sys.executable, str(MAKE_IMAGE), "--no-measure", "--content", content,
            "--size", str(self.size_bytes // passes), *options, *records, str(path),
        )  # fmt: skip
        return self._make(path, Command(argv))

    def hvm_image(self) -> Path:
        if self.hvm is None:
            raise NotMeasuredError("no image of a real HVM guest: give --hvm or XSAVE_IMAGES")
        if self.hvm.suffix != ".zst":
            return self.hvm
        path = self.folder / self.hvm.stem
        return self._make(path, Command((tool("zstd"), "-dqf", str(self.hvm), "-o", str(path))))

    def native(self, content: str = "mixed", codec: str = "zstd:1") -> Path:
        """BIG as a native image, made by the xsave that is measured."""
        big = self.image(content)
        path = big.with_suffix(".xsv" if codec == "zstd:1" else f".{codec}.xsv")
        if path not in self._made:
            path.unlink(missing_ok=True)
        return self._make(path, self.ours("run", big, path, "--codec", codec))

    def zstd_file(self) -> Path:
        big = self.image("mixed")
        argv = (tool("zstd"), "-qf1", "-T2", str(big), "-o", f"{big}.zst")
        return self._make(Path(f"{big}.zst"), Command(argv))

    def _make(self, path: Path, command: Command) -> Path:
        """Made once; kept from an earlier run where it was finished."""
        if path not in self._made:
            self._made[path] = ""
            if not path.exists():
                self.say(f"making {path.name}")
                part = path.with_name(f"part-{path.name}")
                argv = tuple(text.replace(str(path), str(part)) for text in command.argv)
                try:
                    run_command(Command(argv, env=command.env), self.folder / "stderr")
                    part.rename(path)
                except (NotMeasuredError, OSError) as error:
                    self._made[path] = f"{path.name} could not be made: {error}"
                    part.unlink(missing_ok=True)
        if reason := self._made[path]:
            raise NotMeasuredError(reason)
        return path

    # Commands

    def ours(self, *arguments: str | Path, out: Path | None = None) -> Command:
        return Command((str(self.xsave), *map(str, arguments)), out)

    def run(self, source: Path, suffix: str, *options: str) -> Command:
        """``xsave run`` into a file that is removed after."""
        out = self.folder / f"ours{suffix}"
        return self.ours("run", source, out, *options, out=out)

    def theirs(self, *argv: str | Path, to_stdout: bool = True) -> Command:
        """A tool whose last argument, or whose standard output, is the file it writes."""
        out = self.folder / "theirs"
        words = (tool(str(argv[0])), *map(str, argv[1:]))
        return Command(words if to_stdout else (*words, str(out)), out, to_stdout)

    def checker(self, image: Path) -> Command:
        """Xen's own, which finds its modules only where it is told to look."""
        if self.verify_stream is None:
            raise NotMeasuredError("verify-stream-v2 is not installed (Debian: xen-utils)")
        modules = self.verify_stream.parent.parent / "lib" / "python"
        argv = (str(self.verify_stream), "-f", "xl", "-i", str(image))
        return Command(argv, env=(("PYTHONPATH", str(modules)),))

    # Guests that run

    @property
    def is_full(self) -> bool:
        return self.size_bytes >= BIG_BYTES

    def live(self, *arguments: str) -> Any:
        """What ``live.py`` says, run once, with the interpreter that runs xsave."""
        if arguments not in self._live:
            self.say(f"live: {' '.join(arguments)}")
            argv = (sys.executable, str(LIVE), *arguments)
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            lines = done.stderr.strip().splitlines() or ["no message"]
            self._live[arguments] = (
                f"{LIVE.name}: {lines[-1][:200]}" if done.returncode else json.loads(done.stdout)
            )
        found = self._live[arguments]
        if isinstance(found, str):
            raise NotMeasuredError(found)
        return found

    # Pairs by name

    def pair(self, name: str) -> Measured:
        """:raises NotMeasuredError: with the same reason each time."""
        if name not in self._measured:
            try:
                self._measured[name] = self._run(name, PAIRS[name](self))
            except NotMeasuredError as error:
                self._measured[name] = str(error)
        found = self._measured[name]
        if isinstance(found, str):
            raise NotMeasuredError(found)
        return found

    def peaks(self) -> dict[str, float]:
        """MiB of our commands on BIG, as far as they were run."""
        return {
            name: measured.cpu().peak_ours_mib or 0.0
            for name, measured in self._measured.items()
            if isinstance(measured, Measured) and name in ON_BIG
        }

    def _run(self, name: str, pair: Pair) -> Measured:
        for path in pair.reads:
            _read(path)
        if pair.quick:
            self._once(pair.ours, None)
            self._once(pair.theirs, None)
        runs: tuple[list[Usage], list[Usage]] = ([], [])
        nr_pairs = self.nr_pairs * (QUICK_FACTOR if pair.quick else 1)
        for number in range(nr_pairs):
            self.say(f"{name}: pair {number + 1} of {nr_pairs}")
            first = number % 2  # the other way round each time
            for side in (first, 1 - first):
                same_as = pair.same_as if side == 0 and number == 0 else None
                runs[side].append(self._once((pair.ours, pair.theirs)[side], same_as))
        return Measured(*runs)

    def _once(self, command: Command, same_as: Path | None) -> Usage:
        try:
            usage = run_command(command, self.folder / "stderr")
            if same_as and command.out and not filecmp.cmp(command.out, same_as, shallow=False):
                raise NotMeasuredError(f"{command.text}: what it wrote differs from {same_as.name}")
            return usage
        finally:
            if command.out:
                command.out.unlink(missing_ok=True)


def tool(name: str) -> str:
    if (path := shutil.which(name)) is None:
        raise NotMeasuredError(f"{name} is not installed")
    return path


def _read(path: Path) -> None:
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _against_checker(bench: Bench, image: Path, *options: str, quick: bool = False) -> Pair:
    ours = bench.ours("verify", *options, image)
    return Pair(ours, bench.checker(image), (image,), quick=quick)


def _against_zstd(bench: Bench, image: Path, *options: str, quick: bool = False) -> Pair:
    ours = bench.run(image, ".xsv", "--codec", "zstd:1")
    theirs = bench.theirs("zstd", "-q1", "-T2", *options, "-c", image)
    return Pair(ours, theirs, (image,), quick=quick)


def _against_cp(bench: Bench) -> Pair:
    big = bench.image("mixed")
    theirs = bench.theirs("cp", big, to_stdout=False)
    return Pair(bench.run(big, ".xsv", "--codec", "none"), theirs, (big,))


def _back_to_xl(bench: Bench) -> Pair:
    native, packed = bench.native(), bench.zstd_file()
    theirs = bench.theirs("zstd", "-dq", "--no-sparse", packed, "-o", to_stdout=False)
    ours = bench.run(native, ".save", "--to", "xl")
    return Pair(ours, theirs, (native, packed), same_as=bench.image("mixed"))


def _carried(bench: Bench) -> Pair:
    native = bench.native()
    return Pair(bench.run(native, ".xsv"), bench.theirs("cat", native), (native,))


def _successor(bench: Bench, content: str, codec: str) -> Pair:
    """What changed since the base, against everything."""
    base, later = bench.native(content, codec), bench.image(content, later=True)
    ours = bench.run(later, ".xsv", "--base", str(base), "--codec", "zstd:1")
    theirs = bench.theirs("zstd", "-q1", "-T2", "-c", later)
    return Pair(ours, theirs, (base, later))


def _again(bench: Bench) -> Pair:
    """A guest saved while it writes to all of its pages, pass by pass."""
    passes = max(bench.size_bytes // HOT_BYTES, 2)
    live = bench.image("distinct", passes=passes)
    ours = bench.run(live, ".xsv", "--delta", "--codec", "zstd:1")
    return Pair(ours, bench.theirs("zstd", "-q1", "-T2", "-c", live), (live,))


def _vmcore(bench: Bench) -> Pair:
    """A core file, against a copy of the image with the same pages."""
    big = bench.image("mixed")
    return Pair(bench.run(big, ".vmcore"), bench.theirs("cp", big, to_stdout=False), (big,))


def _start(bench: Bench) -> Pair:
    bare = Command((sys.executable, "-c", "pass"))
    return Pair(bench.ours("--version"), bare, quick=True)


PAIRS: dict[str, Callable[[Bench], Pair]] = {
    "verify-fast": lambda bench: _against_checker(bench, bench.image("mixed"), "--fast"),
    "verify": lambda bench: _against_checker(bench, bench.image("mixed")),
    "verify-hvm": lambda bench: _against_checker(bench, bench.hvm_image(), quick=True),
    "zstd": lambda bench: _against_zstd(bench, bench.image("mixed")),
    "zstd-hvm": lambda bench: _against_zstd(bench, bench.hvm_image(), quick=True),
    "zstd-distinct": lambda bench: _against_zstd(bench, bench.image("distinct")),
    "zstd-random": lambda bench: _against_zstd(bench, bench.image("random")),
    "zstd-long": lambda bench: _against_zstd(bench, bench.image("mixed"), "--long=27"),
    "none": _against_cp,
    "to-xl": _back_to_xl,
    "carry": _carried,
    "start": _start,
    "vmcore": _vmcore,
    "again": _again,
    "since": lambda bench: _successor(bench, "mixed", "zstd:1"),
    "since-plain": lambda bench: _successor(bench, "mixed", "none"),
    "since-distinct": lambda bench: _successor(bench, "distinct", "none"),
}
ON_BIG = {"verify-fast", "verify", "zstd", "zstd-long", "none", "to-xl", "carry"}


# The targets -----------------------------------------------------------------------------


@frozen
class Target:
    """:ivar number: of the target; several lines may share one.
    :ivar big: the figure counts only when BIG is as big as the targets say.
    """

    number: int
    what: str
    limit: float
    measure: Callable[[Bench], Figure]
    big: bool = True


def _links(bench: Bench, *arguments: str) -> dict[str, Any]:
    """What links.py prints."""
    argv = (sys.executable, str(LINKS), *arguments)
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    if found.returncode:
        lines = found.stderr.strip().splitlines() or ["no message"]
        raise NotMeasuredError(f"{LINKS.name} {arguments[0]}: {lines[-1][:200]}")
    bench.say(f"links {arguments[0]}: {found.stdout.strip()}")
    printed: dict[str, Any] = json.loads(found.stdout)
    return printed


def _link_against_bare(bench: Bench, kind: str) -> Figure:
    """A rate of 0.5 is a time of 2."""
    size_bytes = min(LINK_BYTES, bench.size_bytes)
    found = _links(bench, kind, "--size", str(size_bytes), "--pairs", str(bench.nr_pairs))
    ours, theirs = found["ours_s"], found["theirs_s"]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Figure(
        unit="s",
        ours=statistics.median(ours),
        theirs=statistics.median(theirs),
        value=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        nr_pairs=len(ratios),
        wall_ours_s=statistics.median(found["wall_ours_s"]),
        wall_theirs_s=statistics.median(found["wall_theirs_s"]),
    )


def _sent_again(bench: Bench) -> Figure:
    """The most after any of the breaks, in MiB."""
    size_bytes = min(LINK_BYTES // 4, bench.size_bytes)
    found = [
        each / (1 << 20)
        for each in _links(bench, "break", "--size", str(size_bytes))["resent_bytes"]
    ]
    if not found:
        raise NotMeasuredError("links.py break: there was no break")
    return Figure(
        unit="MiB", ours=max(found), value=max(found), spread=(min(found), max(found)),
        nr_pairs=len(found),
    )  # fmt: skip


def _peak(bench: Bench) -> Figure:
    """The highest of all our commands on BIG; runs those that were not run yet."""
    for name in sorted(ON_BIG):
        bench.pair(name)
    highest = max(bench.peaks().values())
    return Figure(unit="MiB", ours=highest, value=highest)


def _peak_with_base(bench: Bench) -> Figure:
    """Two images are read at once, and of the base a number for each pfn is kept."""
    peak = bench.pair("since").cpu().peak_ours_mib or 0.0
    return Figure(unit="MiB", ours=peak, value=peak)


def _record_head(bench: Bench) -> Figure:
    """In a process of its own, with the interpreter that runs xsave."""
    found = subprocess.run(
        (sys.executable, str(RECORD_HEAD)), capture_output=True, text=True, check=False
    )
    if found.returncode:
        lines = found.stderr.strip().splitlines() or ["no message"]
        raise NotMeasuredError(f"{RECORD_HEAD.name}: {lines[-1][:200]}")
    times = json.loads(found.stdout)["us"]
    bench.say(f"record head: {found.stdout.strip()}")
    median = statistics.median(times)
    return Figure(
        unit="us", ours=median, value=median, spread=(min(times), max(times)), nr_pairs=len(times)
    )


def _live_transfer(bench: Bench, *options: str) -> Figure:
    """A guest that runs into a socket, against a command; processor time of both ends."""
    memory = "2G" if bench.is_full else "16M"
    found = bench.live(
        "socket", "--memory", memory, "--pairs", str(bench.nr_pairs), "--dir", str(bench.folder),
        *options,
    )  # fmt: skip
    if "--codec" in options:
        return _figure_of(found, lambda run: run["sender_s"])
    # by byte: what a guest writes meanwhile goes out again
    return _figure_of(found, lambda run: run["cpu_s"] / run["bytes"] * found["theirs"][0]["bytes"])


def _figure_of(found: Any, value: Callable[[dict[str, float]], float]) -> Figure:
    ours, theirs = ([value(run) for run in found[side]] for side in ("ours", "theirs"))
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    walls = {side: statistics.median(run["wall_s"] for run in found[side]) for side in found}
    return Figure(
        unit="s", ours=statistics.median(ours), theirs=statistics.median(theirs),
        value=statistics.median(ratios), spread=(min(ratios), max(ratios)), nr_pairs=len(ratios),
        wall_ours_s=walls["ours"], wall_theirs_s=walls["theirs"],
    )  # fmt: skip


def _iteration_cost(bench: Bench) -> Figure:
    """Of a guest of 16 GiB against one of 1 GiB, with the same pages dirty."""
    small, large = ("1G", "16G") if bench.is_full else ("128M", "256M")
    dirty = "16384" if bench.is_full else "1024"
    found = bench.live("iterations", "--sizes", f"{small},{large}", "--dirty", dirty)
    ours, theirs = found[large]["cpu_s"], found[small]["cpu_s"]
    return Figure(
        unit="s", ours=statistics.median(ours), theirs=statistics.median(theirs),
        value=statistics.median(ours) / statistics.median(theirs), nr_pairs=len(ours),
    )  # fmt: skip


def _moves(bench: Bench) -> Any:
    memory = ("--memory", "256M") if bench.is_full else ("--memory", "16M", "--tmem", "500")
    return bench.live("downtime", "--pairs", str(bench.nr_pairs), *memory)


def _downtime(bench: Bench, kind: str) -> Figure:
    """Of the policy's target, over the moves that came within it by its own account."""
    found = _moves(bench)
    total = [run["total_ms"] for run in found[kind] if run["converged"]]
    if not total:
        raise NotMeasuredError("no move converged: the machine is too slow for this guest")
    ratios = [one / found["target_ms"] for one in total]
    return Figure(
        unit="ms", ours=statistics.median(total), theirs=found["target_ms"],
        value=statistics.median(ratios), spread=(min(ratios), max(ratios)), nr_pairs=len(ratios),
    )  # fmt: skip


def _tmem_in_pause(bench: Bench) -> Figure:
    """The most pages of tmem that went out in any pause."""
    pages = [run["pages"] for run in _moves(bench)["tmem"]]
    return Figure(unit="pages", ours=max(pages), value=max(pages), nr_pairs=len(pages))


TARGETS = (
    Target(1, "verify --fast / verify-stream-v2", 0.20, lambda b: b.pair("verify-fast").cpu()),
    Target(2, "verify / verify-stream-v2", 0.60, lambda b: b.pair("verify").cpu()),
    Target(2, "same, HVM", 0.35, lambda b: b.pair("verify-hvm").cpu(), big=False),
    Target(3, "xl to native, zstd:1 / zstd -1 -T2", 0.80, lambda b: b.pair("zstd").cpu()),
    Target(3, "same, size", 0.80, lambda b: b.pair("zstd").size()),
    Target(3, "same, HVM", 1.30, lambda b: b.pair("zstd-hvm").cpu(), big=False),
    Target(4, "same, no duplicates", 1.10, lambda b: b.pair("zstd-distinct").cpu()),
    Target(4, "same, random bytes", 1.50, lambda b: b.pair("zstd-random").cpu()),
    Target(5, "xl to native / zstd -1 -T2 --long=27", 0.70, lambda b: b.pair("zstd-long").cpu()),
    Target(5, "same, size", 1.10, lambda b: b.pair("zstd-long").size()),
    Target(6, "xl to native, no codec / cp", 2.50, lambda b: b.pair("none").cpu()),
    Target(6, "same, size", 0.40, lambda b: b.pair("none").size()),
    Target(7, "native to xl / zstd -d --no-sparse", 1.15, lambda b: b.pair("to-xl").cpu()),
    Target(8, "native to native, carried / cat", 1.30, lambda b: b.pair("carry").cpu()),
    Target(9, "peak memory, the highest of all", 128, _peak),
    Target(9, "same, with --base", 256, _peak_with_base),
    Target(10, "--version / bare interpreter", 4.5, lambda b: b.pair("start").cpu(), big=False),
    Target(11, "pages sent again / zstd -1 -T2", 0.33, lambda b: b.pair("again").cpu()),
    Target(11, "same, size", 0.10, lambda b: b.pair("again").size()),
    Target(
        11,
        "what changed since, no duplicates / same",
        0.33,
        lambda b: b.pair("since-distinct").cpu(),
    ),
    Target(11, "same, size", 0.10, lambda b: b.pair("since-distinct").size()),
    Target(11, "what changed since, BIG / same", 0.33, lambda b: b.pair("since-plain").cpu()),
    Target(11, "same, base packed with zstd:1", 0.33, lambda b: b.pair("since").cpu()),
    Target(11, "same, size", 0.10, lambda b: b.pair("since").size()),
    Target(12, "head of a record, encode and decode", 10, _record_head, big=False),
    Target(13, "running guest into a socket, xl / cat", 2.0, _live_transfer),
    Target(
        13,
        "same, native zstd:1 / zstd -1 -T2",
        1.10,
        lambda b: _live_transfer(b, "--to", "native", "--codec", "zstd:1"),
    ),
    Target(14, "iteration at 16 GiB / at 1 GiB", 1.25, _iteration_cost),
    Target(15, "downtime / the policy's target", 1.0, lambda b: _downtime(b, "plain")),
    Target(15, "same, with tmem", 1.0, lambda b: _downtime(b, "tmem")),
    Target(15, "tmem pages sent in a pause", 0, _tmem_in_pause),
    Target(16, "xl to vmcore / cp", 1.50, lambda b: b.pair("vmcore").cpu()),
    # A rate of at least 0.5 and 0.7 of theirs.
    Target(21, "link over tcp / bare sockets", 2.0, lambda b: _link_against_bare(b, "tcp")),
    Target(22, "link over tls / bare TLS pair", 1.43, lambda b: _link_against_bare(b, "tls")),
    Target(23, "sent again after a break, the most", 4.1, _sent_again, big=False),
)


@frozen
class Line:
    """One line of the report. ``verdict`` is "met" or "not met" only for what was measured
    as the target asks: at full size and over enough pairs. A quick look gives "within" or
    "beyond", and what has no figure is "not measured"."""

    number: int
    what: str
    limit: float
    verdict: str
    reason: str = ""
    figure: Figure | None = None


def judge(target: Target, bench: Bench) -> Line:
    try:
        figure = target.measure(bench)
    except NotMeasuredError as error:
        return Line(target.number, target.what, target.limit, "not measured", str(error))
    full = bench.nr_pairs >= MIN_PAIRS and (bench.size_bytes >= BIG_BYTES or not target.big)
    good, bad = ("met", "not met") if full else ("within", "beyond")
    verdict = good if figure.value <= target.limit else bad
    return Line(target.number, target.what, target.limit, verdict, figure=figure)


def table(lines: list[Line]) -> str:
    head = ("#", "what", "ours", "theirs", "ratio", "limit", "verdict", "wall", "peak MiB")
    rows = [head, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    left = (1, 6)
    text = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    reasons = dict.fromkeys(
        f"not measured ({line.number}): {line.reason}" for line in lines if line.reason
    )
    return "\n".join([*text, *reasons])


def _cells(line: Line) -> tuple[str, ...]:
    figure = line.figure
    if figure is None:
        return (str(line.number), line.what, "", "", "", f"{line.limit:g}", line.verdict, "", "")
    absolute = figure.theirs is None
    wall = peak = ""
    if figure.unit == "s" and figure.wall_ours_s and figure.wall_theirs_s:
        wall = f"{figure.wall_ours_s / figure.wall_theirs_s:.2f}"
        peak = f"{figure.peak_ours_mib:.0f}" if figure.peak_ours_mib else ""
    return (
        str(line.number),
        line.what,
        f"{figure.ours:.3f} {figure.unit}",
        "" if figure.theirs is None else f"{figure.theirs:.3f} {figure.unit}",
        "" if absolute else f"{figure.value:.3f}",
        f"{line.limit:g}" + (f" {figure.unit}" if absolute else ""),
        line.verdict,
        wall,
        peak,
    )


# The command -----------------------------------------------------------------------------


def find_checker() -> Path | None:
    found = sorted(Path("/usr/lib").glob("xen-*/bin/verify-stream-v2"))
    return found[-1] if found else None


def find_hvm() -> Path | None:
    folder = os.environ.get("XSAVE_IMAGES")
    candidates = [Path(folder) / name for name in ("pvh1.save", "pvh1.save.zst")] if folder else []
    return next((path for path in candidates if path.exists()), None)


def parse_size(text: str) -> int:
    """``4G``, ``64M``, ``512K`` or bytes, in powers of 1024."""
    factor = UNITS.get(text[-1:].upper(), 1)
    return int(float(text[:-1] if factor > 1 else text) * factor)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure xsave against its peers.")
    parser.add_argument("--dir", type=Path, required=True, help="work folder; inputs stay there")
    parser.add_argument("--size", type=parse_size, default=BIG_BYTES, help="of BIG (default 4G)")
    parser.add_argument("--pairs", type=int, default=MIN_PAIRS, help="for each figure (default 5)")
    parser.add_argument("--only", default="", help="numbers of targets: 1,3")
    parser.add_argument("--hvm", type=Path, default=find_hvm(), help="image of a real HVM guest")
    parser.add_argument("--records", type=Path, help="as in make_image.py")
    parser.add_argument(
        "--xsave", type=Path, default=Path(sys.executable).with_name("xsave"), help="the command"
    )
    parser.add_argument("--verify-stream", type=Path, default=find_checker(), help="Xen's checker")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    arguments = parser.parse_args()
    numbers = {str(target.number) for target in TARGETS}
    arguments.only = set(filter(None, arguments.only.split(","))) or numbers
    if unknown := arguments.only - numbers:
        parser.error(f"--only: no target {', '.join(sorted(unknown))}")
    return arguments


def report(bench: Bench, lines: list[Line]) -> dict[str, Any]:
    """As JSON: what was measured, on what, and each line."""
    return {
        "size_bytes": bench.size_bytes,
        "nr_pairs": bench.nr_pairs,
        "nr_cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "peaks_mib": bench.peaks(),
        "lines": [asdict(line) for line in lines],
    }


def main() -> int:
    """:returns: 0 if every target asked for is met (or, in a quick look, has a figure)."""
    arguments = parse_arguments()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    # Python's modules are compiled once, as those of installed programs are.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(arguments.dir.resolve() / "pycache")

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr, flush=True)

    bench = Bench(
        folder=arguments.dir.resolve(),
        size_bytes=arguments.size,
        nr_pairs=arguments.pairs,
        xsave=arguments.xsave,
        verify_stream=arguments.verify_stream,
        hvm=arguments.hvm,
        records=arguments.records,
        say=say,
    )
    chosen = [target for target in TARGETS if str(target.number) in arguments.only]
    lines = [judge(target, bench) for target in chosen]
    print(json.dumps(report(bench, lines), indent=2) if arguments.json else table(lines))
    return int(any(line.verdict in ("not met", "not measured") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
