"""For how long a guest that is moved while it runs is heard nowhere: with xsave at both ends, and
with Xen's own helper, in turn.

The guest writes all the time, and says so several times a second. Both hosts' consoles are
listened to from outside, so that one clock counts: from the last tick here to the first one
there. By hand, on two hosts that run (README.md):

    python tests/xenlab/downtime.py hosta hostb --kind pvh --memory 512 --runs 3
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import statistics
import time
from collections.abc import Iterator

from lab.guest import FIRST_TICK_LIMIT_S, Guest, parse_ticks
from lab.host import Host
from lab.pair import Move, Pair

TICKS_HEARD = 20  # before and after
WHO = ("stock", "ours")


@contextlib.contextmanager
def heard(guest: Guest) -> Iterator[queue.Queue[float]]:
    """Times, in seconds, at which it says a tick."""
    times: queue.Queue[float] = queue.Queue()

    def hear(line: str) -> None:
        if parse_ticks(line):
            times.put(time.monotonic())

    with guest.host.listen(f"tail -n 0 -F {guest.console} 2> /dev/null", hear):
        yield times


def move_once(pair: Pair, guest: Guest, who: str) -> tuple[Guest, float, float]:
    """:returns: the guest where it is then, its downtime and the whole time, in seconds."""
    there = pair.arrival(guest)
    with heard(guest) as here, heard(there) as elsewhere:
        for _ in range(TICKS_HEARD):
            here.get(timeout=FIRST_TICK_LIMIT_S)
        began = time.monotonic()
        said = guest.host.run(f"{pair.command(guest, Move(who, who))} < /dev/null")
        took_s = time.monotonic() - began
        first = elsewhere.get(timeout=FIRST_TICK_LIMIT_S)
        last = 0.0
        while not here.empty():
            last = here.get()
        for _ in range(TICKS_HEARD):
            elsewhere.get(timeout=FIRST_TICK_LIMIT_S)
    there.check(there.ticks())
    print("".join(line for line in said.splitlines(keepends=True) if "stood still" in line), end="")
    return there, first - last, took_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Downtime of live migrations, in turn.")
    parser.add_argument("host", nargs=2, help="that run, with xsave installed")
    parser.add_argument("--kind", choices=("pv", "pvh"), default="pvh")
    parser.add_argument("--memory", type=int, default=512, help="of the guest, in MB")
    parser.add_argument("--runs", type=int, default=3, help="with each helper")
    options = parser.parse_args()
    pair = Pair(Host(options.host[0]), Host(options.host[1]))
    found: dict[str, list[float]] = {who: [] for who in WHO}
    guest = pair.create(
        options.kind,
        f"s/^memory.*/memory = {options.memory}/", "s/tick_pause=[0-9.]*/tick_pause=0/",
    )  # fmt: skip
    try:
        for number in range(options.runs):
            # the other way round each time: else each helper would always move it the same way
            for who in WHO if number % 2 == 0 else reversed(WHO):
                guest, downtime_s, took_s = move_once(pair, guest, who)
                found[who].append(downtime_s)
                print(f"{who:6} downtime {downtime_s:6.2f} s of {took_s:6.1f} s", flush=True)
    finally:
        pair.destroy(guest)
    for who, times in found.items():
        print(f"{who:6} median {statistics.median(times):6.2f} s, of {len(times)}")


if __name__ == "__main__":
    main()
