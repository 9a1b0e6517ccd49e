"""A guest in a host, and what it says of itself on its console."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from .errors import LabError
from .host import Host

# Measured: the first tick of a PVH guest after 25 s.
FIRST_TICK_LIMIT_S = 600
TICK_LIMIT_S = 120
POLL_S = 1.0
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
    """:param kind: pv, pvh or hvm: which configuration file makes it.

    :ivar parts: how many parts it checks, one each tick.
    """

    def __init__(self, host: Host, kind: str) -> None:
        self.host = host
        self.kind = kind
        self.name = f"{kind}1"
        self.parts = 1 if kind == "hvm" else 16
        log = "serial" if kind == "hvm" else "guest"
        self.console = f"/var/log/xen/console/{log}-{self.name}.log"

    def create(self) -> None:
        """A new one; returns when it ticks."""
        self.destroy()
        self.host.run(f"rm -f {self.console}")
        self.host.xl(f"create /root/guests/{self.kind}.cfg")
        self.wait_for_tick(2, limit_s=FIRST_TICK_LIMIT_S)

    def destroy(self) -> None:
        """All of that name, whatever state they are in."""
        self.host.run(
            f"for name in $(xl list | grep -o '^{self.name}[^ ]*'); do xl destroy $name; done"
        )

    @property
    def domid(self) -> int:
        return int(self.host.run(f"xl domid {self.name}"))

    def is_there(self) -> bool:
        return self.host.try_run(f"xl domid {self.name}")[0] == 0

    def ticks(self) -> list[Tick]:
        """All that this host has heard of it."""
        return parse_ticks(self.host.run(f"cat {self.console}"))

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
            said = self.host.try_run(f"cat {self.console}")[1]
            ticks = parse_ticks(said)
            if ticks and ticks[-1].number >= number:
                return ticks
            time.sleep(POLL_S)
        state = self.host.run("xl list")
        raise LabError(
            f"{self.name} did not reach tick {number} within {limit_s} s; it said last:\n"
            f"{said[-1000:]}\nxl list:\n{state}"
        )
