"""What a migration would be like: a simulation, from how a guest dirties its memory.

Iteration 0 sends all pages; each takes as long as its pages take at the bandwidth given; what
the guest has dirtied meanwhile is what the next one sends. How much that is, is said by the
guest's *working-set curve*: how many distinct pages it dirties within t seconds. The policy is
the one that would decide in earnest. A guest that is left a share of its time dirties within
t seconds what it otherwise does within share * t.

Left out, so that the real thing takes longer: framing, pages that are sent again for other
reasons than being dirty, and what a pause costs beside memory, unless ``pause_s`` says it.
Left out, so that it may be shorter: compression, and pages without contents. All bandwidths
are of guest memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from attrs import field

from .errors import FieldError, UsageError, XsaveError
from .policy import Decision, Iteration, PrecopyPolicy, PrecopyStats, Ruling
from .value_class import frozen

TRACE_SCHEMA = "xsave/trace/1"

NR_PAGES_MAX = 1 << 52  # an entry has so many bits for a pfn
SHORTEST_S = 1e-6  # no log is read within a microsecond; keeps all quotients finite
LONGEST_S = 1e9
ITERATIONS_MAX = 1000  # of a policy that would go on for ever

# Samples whose lengths differ by less are of one length, and averaged: clocks jitter.
ALIKE = 1.1


@frozen
class WorkingSet:
    """How many distinct pages a guest dirties within a time, made by :meth:`from_samples`.

    :ivar points: (seconds, pages), from (0, 0) on; both rise (the second may stay), and ever
        more slowly.
    """

    points: tuple[tuple[float, float], ...]

    @classmethod
    def from_samples(cls, samples: Iterable[tuple[float, float]]) -> WorkingSet:
        """The least curve that rises ever more slowly and lies below no sample, where
        samples of about the same length are one, their mean.

        :param samples: (seconds that the log ran, distinct pages it had then), in any order.
        :raises UsageError: there are none, or numbers that no log has.
        """
        means = _pooled(samples)
        hull: list[tuple[float, float]] = [(0.0, 0.0)]
        for seconds, pages in means:
            # within a longer time at least as many are dirtied, whatever chance says
            here = (seconds, max(pages, hull[-1][1]))
            while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], here):
                hull.pop()
            hull.append(here)
        return cls(tuple(hull))

    @property
    def measured_s(self) -> float:
        """The longest time there is a sample of."""
        return self.points[-1][0]

    def pages_within(self, seconds: float) -> float:
        """Between points a straight line; behind the last one as steep as before it, which
        is the most that a curve of this shape can do."""
        start, end = self.points[0], self.points[1]
        for one in self.points[2:]:
            if seconds <= end[0]:
                break
            start, end = end, one
        return start[1] + (end[1] - start[1]) * ((seconds - start[0]) / (end[0] - start[0]))


def _pooled(samples: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of the samples of about the same length, shortest first."""
    pools: list[list[tuple[float, float]]] = []
    for seconds, pages in sorted(samples):
        if not SHORTEST_S <= seconds <= LONGEST_S or not 0 <= pages <= NR_PAGES_MAX:
            raise UsageError(f"no dirty log has {pages} pages after {seconds} s")
        if pools and seconds <= pools[-1][0][0] * ALIKE:
            pools[-1].append((seconds, pages))
        else:
            pools.append([(seconds, pages)])
    if not pools:
        raise UsageError("a working-set curve needs at least one sample")
    return [_mean(pool) for pool in pools]


def _mean(pool: list[tuple[float, float]]) -> tuple[float, float]:
    """:param pool: sorted. Rounding shall not take it out of its own range, so that the means
    of different pools differ."""
    seconds = math.fsum(one for one, _ in pool) / len(pool)
    pages = math.fsum(one for _, one in pool) / len(pool)
    return min(max(seconds, pool[0][0]), pool[-1][0]), pages


def _slope(start: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])


@frozen
class Estimate:
    """A simulated migration: nothing in it was measured.

    :ivar rulings: of the policy, one after each iteration.
    :ivar final: the last pass, the guest paused; None when the policy gave up.
    :ivar pause_s: what was said that a pause costs beside memory.
    :ivar nr_beyond: iterations that took longer than the longest sample of the curve, and so
        rest on its last slope.
    """

    iterations: Sequence[Iteration]
    rulings: Sequence[Ruling]
    final: Iteration | None
    pause_s: float
    nr_beyond: int
    simulated: bool = field(default=True, init=False)

    @property
    def aborted(self) -> bool:
        return self.final is None

    @property
    def downtime_s(self) -> float | None:
        """None when the policy gave up: then there is none."""
        return None if self.final is None else self.final.duration_s + self.pause_s

    @property
    def total_s(self) -> float:
        """Until the guest runs on the other side, or until it was given up."""
        return math.fsum(one.duration_s for one in self.iterations) + (self.downtime_s or 0.0)

    @property
    def sent_bytes(self) -> int:
        last = self.final.sent_bytes if self.final is not None else 0
        return sum(one.sent_bytes for one in self.iterations) + last

    def __str__(self) -> str:
        count = len(self.iterations)
        live = f"simulated: {count} iteration{'s' * (count != 1)}, {self.total_s:.1f} s in all"
        if self.downtime_s is None:
            return f"{live}, then given up"
        return f"{live}, downtime {self.downtime_s * 1e3:.1f} ms"


def estimate(
    curve: WorkingSet,
    nr_pages: int,
    page_size: int,
    bytes_per_s: float,
    policy: PrecopyPolicy,
    *,
    pause_s: float = 0.0,
) -> Estimate:
    """Simulate one migration.

    :param nr_pages: of the guest, all with contents.
    :param bytes_per_s: of guest memory.
    :param policy: configured for this and no other migration, since it may remember. A guest
        is taken for one that can be slowed.
    :param pause_s: what a pause costs beside memory.
    :raises UsageError: a number that no guest or network has.
    :raises XsaveError: the policy does not come to an end.
    """
    _refuse_nonsense(nr_pages, page_size, bytes_per_s, pause_s)
    iterations: list[Iteration] = []
    rulings: list[Ruling] = []
    nr_to_send, share, nr_beyond = nr_pages, 1.0, 0

    def send(nr_sent: int, nr_dirty: int, share: float) -> Iteration:
        size_bytes = nr_sent * page_size
        return Iteration(
            number=len(iterations), nr_sent=nr_sent, nr_pages=nr_sent, sent_bytes=size_bytes,
            duration_s=size_bytes / bytes_per_s, nr_dirty=nr_dirty, share=share,
        )  # fmt: skip

    while len(iterations) < ITERATIONS_MAX:
        active_s = nr_to_send * page_size / bytes_per_s * share
        nr_beyond += active_s > curve.measured_s
        nr_dirty = round(min(nr_pages, curve.pages_within(active_s)))
        iterations.append(send(nr_to_send, nr_dirty, share))
        ruling = policy.decide(PrecopyStats(tuple(iterations), nr_pages, page_size))
        rulings.append(ruling)
        if ruling.decision is not Decision.CONTINUE:
            stopped = ruling.decision is Decision.STOP_AND_COPY
            final = send(nr_dirty, 0, 0.0) if stopped else None
            return Estimate(tuple(iterations), tuple(rulings), final, pause_s, nr_beyond)
        nr_to_send, share = nr_dirty, ruling.share
    raise XsaveError(
        f"policy {policy.name} does not end pre-copy within {ITERATIONS_MAX} simulated iterations"
    )


def remaining_s(
    done: Sequence[Iteration], nr_to_send: int, nr_left: int, share: float, curve: WorkingSet,
    nr_pages: int, page_size: int, bytes_per_s: float, policy: PrecopyPolicy,
) -> float:  # fmt: skip
    """How long a migration that is under way will take still, without what a pause costs
    beside memory.

    :param done: iterations that have ended; the one under way sends ``nr_to_send`` pages, of
        which ``nr_left`` are not out yet, the guest being left ``share`` of its time.
    :param policy: of this migration, as it is by now; it is asked, so that it must be a copy.
    :raises XsaveError: the policy does not come to an end.
    """
    iterations = list(done)
    total_s = nr_left * page_size / bytes_per_s
    while len(iterations) < ITERATIONS_MAX:
        duration_s = nr_to_send * page_size / bytes_per_s
        nr_dirty = round(min(nr_pages, curve.pages_within(duration_s * share)))
        iterations.append(
            Iteration(
                len(iterations), nr_to_send, nr_to_send, nr_to_send * page_size, duration_s,
                nr_dirty, share,
            )
        )  # fmt: skip
        ruling = policy.decide(PrecopyStats(tuple(iterations), nr_pages, page_size))
        if ruling.decision is Decision.ABORT:
            return total_s
        total_s += nr_dirty * page_size / bytes_per_s
        if ruling.decision is Decision.STOP_AND_COPY:
            return total_s
        nr_to_send, share = nr_dirty, ruling.share
    raise XsaveError(
        f"policy {policy.name} does not end pre-copy within {ITERATIONS_MAX} iterations"
    )


def _refuse_nonsense(nr_pages: int, page_size: int, bytes_per_s: float, pause_s: float) -> None:
    if not 1 <= nr_pages <= NR_PAGES_MAX or page_size < 1:
        raise UsageError(f"no guest has {nr_pages} pages of {page_size} bytes")
    if not 1 <= bytes_per_s < math.inf:
        raise UsageError(f"the bandwidth is {bytes_per_s} bytes/s, expected at least 1")
    if not 0 <= pause_s < math.inf:
        raise UsageError(f"a pause that costs {pause_s} s beside memory is none")


@frozen
class Trace:
    """A dirty log, sampled while the guest did its work.

    :ivar samples: (seconds since the log was cleaned, distinct pages it had then).
    :ivar about: which guest, when, under which load: for people.
    """

    nr_pages: int
    samples: tuple[tuple[float, int], ...]
    page_size: int = 4096
    about: str = ""

    def curve(self) -> WorkingSet:
        return WorkingSet.from_samples(self.samples)


def trace_as_json(trace: Trace) -> dict[str, Any]:
    """As in docs/schemas/trace.json."""
    return {
        "schema": TRACE_SCHEMA,
        "about": trace.about,
        "nr_pages": trace.nr_pages,
        "page_size": trace.page_size,
        "samples": [{"duration_s": seconds, "nr_dirty": n} for seconds, n in trace.samples],
    }


def read_trace(text: str | bytes) -> Trace:
    """Understand a trace file, docs/schemas/trace.json.

    :param text: all of it; UTF-8.
    :raises FieldError: it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FieldError(field="trace", expected="JSON", got=str(error)) from None
    members = _members("trace", found, {"schema", "nr_pages", "samples"}, {"page_size", "about"})
    if members["schema"] != TRACE_SCHEMA:
        raise _wrong("schema", repr(TRACE_SCHEMA), members["schema"])
    nr_pages = _whole("nr_pages", members["nr_pages"], 1, NR_PAGES_MAX)
    page_size = _whole("page_size", members.get("page_size", 4096), 1, 1 << 30)
    about, samples = members.get("about", ""), members["samples"]
    if not isinstance(about, str):
        raise _wrong("about", "text", about)
    if not isinstance(samples, list) or not samples:
        raise _wrong("samples", "a list with something in it", samples)
    return Trace(
        nr_pages,
        tuple(_sample(f"samples[{i}]", one, nr_pages) for i, one in enumerate(samples)),
        page_size,
        about,
    )


def _sample(name: str, found: object, nr_pages: int) -> tuple[float, int]:
    members = _members(name, found, {"duration_s", "nr_dirty"}, set())
    seconds = members["duration_s"]
    # written so that NaN, which Python reads although JSON has none, is refused too
    if type(seconds) not in {int, float} or not SHORTEST_S <= seconds <= LONGEST_S:
        expected = f"seconds from {SHORTEST_S:g} to {LONGEST_S:g}"
        raise _wrong(f"{name}.duration_s", expected, seconds)
    return float(seconds), _whole(f"{name}.nr_dirty", members["nr_dirty"], 0, nr_pages)


def _members(name: str, found: object, needed: set[str], allowed: set[str]) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise _wrong(name, "an object", found)
    if missing := needed - found.keys():
        raise _wrong(name, f"a member {min(missing)}", found)
    if unknown := found.keys() - needed - allowed:
        raise _wrong(name, f"no member but {', '.join(sorted(needed | allowed))}", min(unknown))
    return found


def _whole(name: str, found: object, lowest: int, highest: int) -> int:
    # 4.0 is the same number as 4 to JSON; true is none
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if type(found) is not int or not lowest <= found <= highest:
        raise _wrong(name, f"a whole number from {lowest} to {highest}", found)
    return found


def _wrong(name: str, expected: str, found: object) -> FieldError:
    if isinstance(found, dict | list):
        got = "an object" if isinstance(found, dict) else f"a list of {len(found)}"
    else:
        got = repr(found)[:60]
    return FieldError(field=name, expected=expected, got=got)
