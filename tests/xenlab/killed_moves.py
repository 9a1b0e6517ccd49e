"""Live migrations whose helper is killed at a random moment: where is the guest afterwards?

By hand, on two hosts that run (README.md); xsave and Xen's own helper are killed alike:

    python tests/xenlab/killed_moves.py hosta hostb --who ours --runs 30
    python tests/xenlab/killed_moves.py hosta hostb --who stock --runs 30

test_migrate.py does it a few times.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lab.errors import LabError
from lab.guest import Guest
from lab.host import Host
from lab.pair import RECEIVERS, Move, Pair

ENDS = ("source", "destination")
MODES = {"source": "save", "destination": "restore"}
# Runs in dom0: awaits the helper, gives it a moment, kills it. It does not find itself.
KILL = """
i=0
until pid=$(pgrep -f -- '[-]-{mode}-domain'); do
  i=$((i + 1)); [ $i -lt {tries} ] || exit 9; sleep 0.1
done
sleep {moment:.2f}
kill -KILL $pid 2> /dev/null && echo killed || echo late
"""
TRIES = 1200  # of 0.1 s at least


@dataclass(frozen=True)
class Outcome:
    """:ivar end: whose helper was to die; :ivar moment_s: after its start.
    :ivar killed: whether it was still there then; :ivar moved: whether the guest has moved.
    """

    end: str
    moment_s: float
    killed: bool
    moved: bool

    def __str__(self) -> str:
        killed = "killed" if self.killed else "had ended"
        moved = "moved" if self.moved else "stayed"
        return f"{self.end}'s helper {killed} after {self.moment_s:.1f} s, the guest {moved}"


def kill_runs(pair: Pair, kind: str, who: str, runs: int, seed: int) -> Iterator[Outcome]:
    """Migrations of one guest, there and back, each with one helper killed: at the source and
    at the destination in turn, at any moment from its start to a little after its end.

    :raises LabError: the guest was not in one place, did not go on, or was damaged.
    """
    dice = random.Random(seed)  # no secret
    guest = pair.create(kind)
    try:
        began = time.monotonic()
        guest, _ = pair.move(guest, Move(who, who))
        span_s = time.monotonic() - began
        guest.wait_for_tick(1)
        for number in range(runs):
            end = ENDS[number % 2]
            guest, outcome = _kill_once(pair, guest, who, end, dice.uniform(0, span_s))
            yield outcome
    finally:
        pair.destroy(guest)


def _kill_once(
    pair: Pair, guest: Guest, who: str, end: str, moment_s: float
) -> tuple[Guest, Outcome]:
    before, source = guest.last_tick(), guest.host
    killer = source if end == "source" else pair.other(source)
    there = pair.arrival(guest)
    kill = KILL.format(mode=MODES[end], tries=TRIES, moment=moment_s)
    with ThreadPoolExecutor() as pool:
        moving = pool.submit(source.try_run, f"{pair.command(guest, Move(who, who))} < /dev/null")
        said = killer.run(kill)
        status, log = moving.result()
    moved = pair.is_at(guest) is not source
    guest = there if moved else guest
    if moved != (status == 0):
        raise LabError(f"xl ended with {status}, and the guest has moved: {moved}:\n{log}")
    guest.check_goes_on(before)
    return guest, Outcome(end, moment_s, "killed" in said, moved)


def main() -> None:
    parser = argparse.ArgumentParser(description="Helpers killed in live migrations.")
    parser.add_argument("host", nargs=2, help="that run, with xsave installed")
    parser.add_argument("--kind", choices=("pv", "pvh", "hvm"), default="hvm")
    parser.add_argument("--who", choices=sorted(RECEIVERS), default="ours")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    pair = Pair(Host(options.host[0]), Host(options.host[1]))
    counts: Counter[str] = Counter()
    for outcome in kill_runs(pair, options.kind, options.who, options.runs, options.seed):
        print(f"{options.who}: {outcome}", flush=True)
        counts["moved" if outcome.moved else "stayed"] += 1
        counts["killed"] += outcome.killed
    print(f"{options.who}: {options.runs} runs, {dict(counts)}; always on exactly one host")


if __name__ == "__main__":
    main()
