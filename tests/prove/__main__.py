"""``python -m tests.prove``: never lost, never twice. Walks the model of the handover, and then
moves guests between real processes that are killed, over real sockets that are cut."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xsave.handover.__main__ import main as walk_the_model

from .kill_run import Outcome, Run, WrongError, measure
from .laboratory import HangsError, Laboratory
from .plans import Plan, draw


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="how many guests are moved (300)")
    parser.add_argument("--seed", type=int, default=1, help="of what goes wrong (1)")
    parser.add_argument("--first", type=int, default=0, help="number of the first run (0)")
    parser.add_argument("--jobs", type=int, default=3, help="so many at a time (3)")
    parser.add_argument("--keep", type=Path, help="folder for journals and logs")
    parser.add_argument("--verbose", action="store_true", help="tell each run")
    given = parser.parse_args()
    code = walk_the_model()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="xsave-prove-"))
    numbers = range(given.first, given.first + given.runs)
    series = Series(folder, given.seed, given.verbose)
    signal.signal(signal.SIGINT, lambda *_: series.stop())
    wrong = series.go(numbers, given.jobs)
    if not wrong and given.keep is None:
        shutil.rmtree(folder)
    return int(bool(code or wrong))


class Series:
    """Many runs, some at a time.

    :param folder: for journals and logs.
    """

    def __init__(self, folder: Path, seed: int, verbose: bool = False) -> None:
        self.outcomes: list[Outcome] = []
        self.wrong: list[str] = []
        self._folder = folder
        self._seed = seed
        self._verbose = verbose
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """The runs under way are the last ones."""
        self._stopped = True

    def go(self, numbers: Iterable[int], jobs: int) -> list[str]:
        """:returns: what was wrong; the folder has the journals and logs."""
        began = time.monotonic()
        waiting = iter(numbers)
        with ThreadPoolExecutor(jobs) as pool:
            for done in [pool.submit(self._work, self._folder / f"{job}", waiting)
                         for job in range(jobs)]:  # fmt: skip
                done.result()
        for line in table(self.outcomes, self.wrong, time.monotonic() - began):
            print(line)
        return self.wrong

    def _work(self, folder: Path, waiting: Iterator[int]) -> None:
        with Laboratory(folder) as laboratory:
            scale = measure(laboratory)
            while (number := self._next(waiting)) is not None:
                self._run(laboratory, draw(self._seed, number, scale))

    def _next(self, waiting: Iterator[int]) -> int | None:
        with self._lock:
            return None if self._stopped else next(waiting, None)

    def _run(self, laboratory: Laboratory, plan: Plan) -> None:
        run = Run(laboratory, plan)
        error: Exception | None = None
        try:
            run.go()
            said = f"runs at the {run.outcome.place}"
        except (WrongError, HangsError) as found:
            error = found
            said = f"WRONG: {error or type(error).__name__}"
            laboratory.end_guests()
            laboratory.start_over()
        states = " ".join(run.outcome.states)
        line = f"{plan.number:5} {plan}: {states}, exit {run.outcome.code}: {said}"
        with self._lock:
            if error is None:
                self.outcomes.append(run.outcome)
            else:
                self.wrong.append(f"{line}; see {laboratory.folder}")
            if error is not None or self._verbose:
                print(line, flush=True)


def table(outcomes: list[Outcome], wrong: list[str], seconds: float) -> list[str]:
    lines = [f"kill runs: {len(outcomes) + len(wrong)} migrations in {seconds:.0f} s"]
    stories = Counter(outcome.plan.story for outcome in outcomes)
    for story, count in stories.most_common():
        lines.append(f"  {count:6}  {story}")
    lines.append(
        "  what the journals had when it was over (source, destination), and where the "
        "guest runs now"
    )
    states = Counter((*outcome.states, outcome.place) for outcome in outcomes)
    for (source, dest, place), count in states.most_common():
        lines.append(f"  {count:6}  {source:9} {dest:10} {place}")
    for words, count in (
        ("source killed", sum(outcome.killed[0] for outcome in outcomes)),
        ("destination killed", sum(outcome.killed[1] for outcome in outcomes)),
        ("none ran and both ends said how to recover, until somebody did",
         sum(outcome.was_undecided for outcome in outcomes)),
        ("WRONG", len(wrong)),
    ):  # fmt: skip
        lines.append(f"  {count:6}  {words}")
    if not wrong:
        lines.append("  in every run: one guest at the end, with the right memory; never two")
    return lines


if __name__ == "__main__":
    sys.exit(main())
