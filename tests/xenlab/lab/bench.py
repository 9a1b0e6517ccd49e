"""What a save costs, with xsave as libxl's helper and with Xen's own: processor time per page.

Measured is the emulator's processor time for a whole ``xl save -c`` in dom0, everything in it
included, with nothing else running there. Starting an interpreter takes seconds under emulation, so
two sizes of each guest are saved: the slope between them is what a page costs, what is left is the
start. Both helpers take turns. The least of several rounds counts: what else the machine does makes
processor time longer, never shorter; seen with three emulators beside it, 22 and 41 s for the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .guest import Guest
from .helper import HELPERS
from .host import Host

SIZES_MB = (128, 512)
PAGES_A_MB = 256
TICKS_A_SECOND = 100  # of the kernel's clock in /proc
LIMITS = {"pv": 2.0, "pvh": 1.5, "hvm": 1.5}  # of our cost of a page, as a multiple of Xen's own
SIZE_LIMIT = 0.25  # of a native image with zstd 1, as a part of the stock one
WHO = ("stock", "ours")


@dataclass(frozen=True)
class Cost:
    """:ivar page_us: microseconds for each page more; :ivar start_s: what is left for none."""

    page_us: float
    start_s: float


def bench(host: Host, kinds: list[str], rounds: int, say: Callable[[str], None]) -> bool:
    """:returns: whether all limits were kept."""
    good = True
    for kind in kinds:
        seconds: dict[tuple[str, int], list[float]] = {}
        for size_mb in SIZES_MB:
            with_guest = _Sized(host, kind, size_mb)
            with_guest.create()
            for number in range(rounds):
                for who in WHO if number % 2 else reversed(WHO):
                    seconds.setdefault((who, size_mb), []).append(with_guest.save_s(who))
            if size_mb == SIZES_MB[0]:
                good &= _tell_sizes(with_guest, say)
            with_guest.destroy()
        costs = {who: _cost(who, seconds) for who in WHO}
        for who, cost in costs.items():
            every = "; ".join(
                f"{size} MB: " + " ".join(f"{one:.1f}" for one in seconds[who, size])
                for size in SIZES_MB
            )
            say(f"{kind} {who}: {cost.page_us:.1f} us a page, {cost.start_s:.1f} s to start"
                f" ({every} s)")  # fmt: skip
        ratio = costs["ours"].page_us / max(costs["stock"].page_us, 1e-9)
        good &= ratio <= LIMITS[kind]
        say(f"{kind}: {ratio:.2f} times the stock helper's time per page; limit {LIMITS[kind]}")
    return good


class _Sized(Guest):
    """A guest of the laboratory with more memory, which stands still but while it is saved."""

    def __init__(self, host: Host, kind: str, size_mb: int) -> None:
        super().__init__(host, kind)
        self._size_mb = size_mb

    def create(self, *edits: str) -> None:
        super().create(f"s/^memory.*/memory = {self._size_mb}/", *edits)
        self.rest()

    def save(self, who: str) -> str:
        self.host.run(
            f"rm -f /root/bench.xl; sync; xl unpause {self.name}; {HELPERS[who]} "
            f"xl save -c {self.name} /root/bench.xl > /root/bench.log 2>&1 < /dev/null; status=$?; "
            f"xl pause {self.name}; cat /root/bench.log; exit $status"
        )
        return "/root/bench.xl"

    def save_s(self, who: str) -> float:
        before = _processor_s(self.host)
        self.save(who)
        return _processor_s(self.host) - before


def _tell_sizes(guest: _Sized, say: Callable[[str], None]) -> bool:
    sizes = {}
    for who in ("stock", "native"):
        sizes[who] = int(guest.host.run(f"stat -c %s {guest.save(who)}"))
    ratio = sizes["native"] / sizes["stock"]
    say(f"{guest.kind}: {sizes['native']} bytes with a native stream and zstd 1, "
        f"{sizes['stock']} stock: {ratio:.3f}; limit {SIZE_LIMIT}")  # fmt: skip
    return ratio <= SIZE_LIMIT


def _cost(who: str, seconds: dict[tuple[str, int], list[float]]) -> Cost:
    small, large = (min(seconds[who, size]) for size in SIZES_MB)
    pages = (SIZES_MB[1] - SIZES_MB[0]) * PAGES_A_MB
    page_s = (large - small) / pages
    return Cost(1e6 * page_s, small - page_s * SIZES_MB[0] * PAGES_A_MB)


def _processor_s(host: Host) -> float:
    """Of its emulator, all threads."""
    fields = Path(f"/proc/{host.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND
