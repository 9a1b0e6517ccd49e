"""A guest in a host, and what it says of itself on its console."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import LabError
from .host import Host

# Measured, with nothing else to do: the first tick of a PVH guest after 25 s, each further one
# within a second.
FIRST_TICK_LIMIT_S = 600
TICK_LIMIT_S = 300
POLL_S = 0.5
SHOWN_BYTES = 1 << 16  # of a console, which grows
_TICK = re.compile(r"tick (0x[0-9a-f]+|\d+) part (\d+) sum ([0-9a-f]+) (ok|DAMAGED)\s*$")


@dataclass(frozen=True)
class Tick:
    """:ivar sum: that the guest computed over one part of what it never changes.
    :ivar good: whether the guest found all as it left it.
    """

    number: int
    part: int
    sum: str
    good: bool


def parse_ticks(console: str) -> list[Tick]:
    """Whole lines only."""
    found = map(_TICK.search, console.splitlines())
    return [Tick(int(one[1], 0), int(one[2]), one[3], one[4] == "ok") for one in found if one]


class Guest:
    """:param kind: pv, pvh, hvm or another: which configuration file makes it. The name of it
        is followed by a 1 for the guest's.
    :param arrived: it came from another host.

    :ivar parts: how many parts it checks, one each tick.
    """

    def __init__(self, host: Host, kind: str, *, arrived: bool = False) -> None:
        self.host = host
        self.kind = kind
        self.name = f"{kind}1"
        self.parts = 1 if kind == "hvm" else 4
        self.sums: dict[int, str] = {}  # of its parts, as it found them at its start
        # named as the guest was called at first
        name = f"guest-{self.name}--incoming" if arrived else f"guest-{self.name}"
        if kind.startswith("hvm"):
            name = f"serial-{self.name}"
        self.console = f"/var/log/xen/console/{name}.log"

    def create(self, *edits: str) -> None:
        """A new one; returns when it ticks.

        :param edits: for its configuration, in sed's language.
        """
        self.destroy()
        config = f"/root/guests/{self.kind}.cfg"
        if edits:
            changes = " ".join(f"-e '{edit}'" for edit in edits)
            self.host.run(f"sed {changes} {config} > /root/edited.cfg")
            config = "/root/edited.cfg"
        self.host.run(f"rm -f {self.console}")
        self.host.xl(f"create {config}")
        self.wait_for_tick(2, limit_s=FIRST_TICK_LIMIT_S)
        self.sums = {tick.part: tick.sum for tick in self.wait_for_tick(2 + self.parts)}

    def wake(self) -> None:
        """It ticks, and everything in it is as it was at its start: made anew if need be."""
        if self.sums and self.host.try_run(f"xl unpause {self.name}")[0] == 0:
            try:
                self.check(self.wait_for_tick(self.last_tick() + 1)[-self.parts :])
            except (LabError, AssertionError):
                pass
            else:
                return
        self.create()

    def rest(self) -> None:
        """It takes no time from others meanwhile."""
        self.host.try_run(f"xl pause {self.name}")

    def check(self, ticks: Sequence[Tick], after: int = 0) -> None:
        """It counts on without a gap, found all as it left it, and its sums are those from its
        start.

        :param after: the number of a tick that was before.
        """
        numbers = [tick.number for tick in ticks]
        assert numbers, "it says nothing"
        assert numbers[0] > after, "it began anew"
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert all(tick.good for tick in ticks)
        assert all(self.sums[tick.part] == tick.sum for tick in ticks)

    def check_goes_on(self, after: int) -> int:
        """It ticks on, for another round of its parts, from where it was and without a gap.

        :param after: a tick that it had said here, or before it was saved elsewhere.
        :returns: the number of its last tick.
        """
        ticks = self.wait_for_tick(after + 1)
        ticks = self.wait_for_tick(ticks[-1].number + self.parts)
        numbers = [tick.number for tick in ticks]
        began = numbers.index(after) + 1 if after in numbers else 0
        self.check(ticks[began:], after)
        return numbers[-1]

    def restore(self, image: str, helper: str, after: int) -> None:
        """In its place, from an image.

        :param after: a tick that it had said before it was saved.
        """
        self.destroy()
        self.host.run(f"rm -f {self.console}")
        self.host.xl(f"restore {image}", environment=helper)
        self.check_goes_on(after)

    def destroy(self) -> None:
        """All of that name, whatever state they are in."""
        self.host.run(
            f"for name in $(xl list | grep -o '^{self.name}[^ ]*'); do xl destroy $name; done"
        )

    @property
    def domid(self) -> int:
        return int(self.host.run(f"xl domid {self.name}"))

    @property
    def uuid(self) -> str:
        return self.host.run(f"xl vm-list | awk '$3 == \"{self.name}\" {{print $1}}'").strip()

    def is_there(self) -> bool:
        return self.host.try_run(f"xl domid {self.name}")[0] == 0

    def ticks(self) -> list[Tick]:
        """All that this host has heard of it."""
        return parse_ticks(self.host.run(f"tail -c {SHOWN_BYTES} {self.console}"))

    def last_tick(self) -> int:
        return self.ticks()[-1].number

    def wait_for_tick(self, number: int, limit_s: float = TICK_LIMIT_S) -> list[Tick]:
        """Until it has said a tick of this number or above.

        :returns: all ticks.
        :raises LabError: it never came; the guest's last words are in the message.
        """
        end = time.monotonic() + limit_s
        said = ""
        while time.monotonic() < end:
            said = self.host.try_run(f"tail -c {SHOWN_BYTES} {self.console}")[1]
            ticks = parse_ticks(said)
            if ticks and ticks[-1].number >= number:
                return ticks
            time.sleep(POLL_S)
        state = self.host.run("xl list")
        raise LabError(
            f"{self.name} did not reach tick {number} within {limit_s} s; it said last:\n"
            f"{said[-1000:]}\nxl list:\n{state}"
        )
