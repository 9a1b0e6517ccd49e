"""What a run tells while it goes on, and when it is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import field

from .figure import Figure
from .policy import Decision, Iteration, Ruling
from .record import GuestType, ImageInfo
from .value_class import define, frozen

if TYPE_CHECKING:
    from .format import Remark
    from .link.link import LinkCounters
    from .negotiation import HostDescription, Notice


@frozen
class Progress:
    """:ivar bytes_done: of the source, taken so far.
    :ivar bytes_total: of the source, None for a pipe.
    :ivar nr_pages: pages with contents so far.
    :ivar elapsed_s: since the run began.
    :ivar iteration: of a domain's memory, the one under way; None for an image.
    :ivar paused: the domain stands still: the last pass, and what follows it.
    :ivar dirty_bytes_per_s: how fast the guest wrote to pages in the iteration before; None
        where none has ended yet.
    :ivar nr_checkpoints: whole ones so far, 0 before the first; the guest runs and stands still
        by turns from there on.
    :ivar estimate: works out ``estimated_s``. Not done unasked: it takes looks at the dirty log,
        and time in which the guest dirties more.
    """

    stage: str
    bytes_done: int
    bytes_total: int | None
    nr_pages: int
    elapsed_s: float
    iteration: int | None = None
    paused: bool = False
    dirty_bytes_per_s: float | None = None
    nr_checkpoints: int = 0
    estimate: Callable[[], float | None] = lambda: None

    @property
    def estimated_s(self) -> float | None:
        """Seconds until a live save is over, by what the guest and its policy do; None for an
        image, and while nothing is known. To be asked while the run tells of it."""
        return self.estimate()

    @property
    def bytes_per_s(self) -> float:
        return self.bytes_done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Estimated; None while there is nothing to estimate from."""
        if (estimated_s := self.estimated_s) is not None:
            return estimated_s
        if self.bytes_total is None or self.bytes_per_s == 0:
            return None
        return max(self.bytes_total - self.bytes_done, 0) / self.bytes_per_s


ProgressCallback = Callable[[Progress], None]


@define
class RecordCount:
    """How often a record came by, and what became of it."""

    name: str
    plugin: str = ""
    mandatory: bool = True
    understood: bool = True
    version: int = 1
    count: int = 0
    body_bytes: int = 0


@define
class DowntimeReport:
    """Where the time went while the vcpus stood still, seconds; the parts add up to
    ``total_s`` since each begins where the one before ended."""

    pause_s: float = 0.0  # until the guest had stopped
    memory_s: float = 0.0  # what was dirty or deferred
    state_s: float = 0.0  # records of the checkpoint and the device model
    finish_s: float = 0.0  # until the destination had everything, and the guest ran on
    proof_s: float = 0.0  # while somebody looked at both ends: see ``run(at_rest=...)``
    beside_s: float = 0.0  # what was left of state that goes out beside memory; before state_s
    commit_s: float = 0.0  # of a migration: from "complete" to "runs", both journals in it

    @property
    def total_s(self) -> float:
        return (
            self.pause_s + self.memory_s + self.beside_s + self.state_s + self.finish_s
            + self.proof_s + self.commit_s
        )  # fmt: skip


# What each part of it was spent on, in order.
DOWNTIME_PARTS = {
    "pause_s": "until it had stopped",
    "memory_s": "the rest of its memory",
    "beside_s": "the rest of state beside memory",
    "state_s": "its state",
    "finish_s": "until it ran on",
    "proof_s": "comparing both ends",
    "commit_s": "handing it over",
}


# Parts of handing a guest over, and of taking it; some are in the one part of the downtime.
HANDING_OVER = {
    "journal_s": "journal",
    "there_journal_s": "journal there",
    "there_start_s": "start there",
    "start_s": "start",
    "apply_s": "applying what came last",
}


@frozen
class StatePass:
    """What went out beside memory with one pass over it.

    :ivar name: number of the iteration; ``paused``; or ``before`` the pause of a guest that is
        saved at rest.
    :ivar figures: by how much each grew.
    """

    name: str
    nr_records: int
    body_bytes: int
    figures: Mapping[str, int]


@define
class StateReport:
    """State of one plugin that went out beside memory.

    :ivar figures: of all of it, as its plugin gives them.
    """

    plugin: str
    figures: list[Figure] = field(factory=list)
    passes: list[StatePass] = field(factory=list)

    @property
    def plotted(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.plotted]


@frozen
class PluginFigures:
    """What a plugin says of its work at the destination."""

    plugin: str
    figures: list[Figure]


@frozen
class Round:
    """One checkpoint.

    :ivar number: from 0, that of the first complete state.
    :ivar ran_s: for how long the guest had run since the one before.
    :ivar nr_pages: sent while it stood still; :ivar sent_bytes: all that the destination took
        since the one before.
    :ivar downtime: of this pause; its parts add up as always.
    """

    number: int
    ran_s: float
    nr_pages: int
    sent_bytes: int
    downtime: DowntimeReport


ROUNDS_KEPT = 100  # of the first, and as many of the last


@define
class RoundsReport:
    """Checkpoints, of which there may be very many: the first and the last ones, and sums."""

    count: int = 0
    nr_pages: int = 0
    sent_bytes: int = 0
    first: list[Round] = field(factory=list)
    last: deque[Round] = field(factory=lambda: deque(maxlen=ROUNDS_KEPT))
    _before_s: float = 0.0  # all pauses but the newest, which may go on still
    _longest_before_s: float = 0.0

    def add(self, one: Round) -> None:
        self._before_s, self._longest_before_s = self.pause_s, self.longest_s
        self.count += 1
        self.nr_pages += one.nr_pages
        self.sent_bytes += one.sent_bytes
        if len(self.first) < ROUNDS_KEPT:
            self.first.append(one)
        else:
            self.last.append(one)

    @property
    def pause_s(self) -> float:
        """Of all pauses together."""
        return self._before_s + self._newest_s

    @property
    def longest_s(self) -> float:
        """Of the longest pause."""
        return max(self._longest_before_s, self._newest_s)

    @property
    def _newest_s(self) -> float:
        return self.shown[-1].downtime.total_s if self.count else 0.0

    @property
    def shown(self) -> list[Round]:
        """Those that were kept, in order."""
        return [*self.first, *self.last]


@define
class SaveReport:
    """How a domain's memory went out, and state beside it.

    :ivar rulings: what the policy said after each iteration, with its reason.
    :ivar final: the last pass before the first consistent point.
    :ivar throttled: whether the guest could be slowed when the policy asked for it; None
        when it never asked.
    :ivar downtime: of the only pause; where there are checkpoints, of the last one.
    :ivar rounds: None where there were no checkpoints.
    """

    live: bool
    policy: str = ""
    iterations: list[Iteration] = field(factory=list)
    rulings: list[Ruling] = field(factory=list)
    final: Iteration | None = None
    nr_deferred: int = 0
    throttled: bool | None = None
    downtime: DowntimeReport = field(factory=DowntimeReport)
    beside: list[StateReport] = field(factory=list)
    rounds: RoundsReport | None = None

    @property
    def paused(self) -> bool:
        """Whether the last pass has begun."""
        if not self.live:
            return True
        return bool(self.rulings) and self.rulings[-1].decision is Decision.STOP_AND_COPY


@frozen
class StandbyReport:
    """What became of a guest that was kept as of the last whole checkpoint of a stream.

    :ivar broke: why that was not the end of the stream; "" where it was.
    :ivar running: whether it took over.
    """

    name: str
    nr_checkpoints: int
    broke: str
    running: bool = False


@define
class RunReport:
    """What a run did.

    :ivar carried: optional records nobody here understands, taken along unchanged.
    :ivar left_out: optional records the destination's format has no place for.
    :ivar save: how memory went out, when the source was a domain.
    :ivar arrived: what plugins say of their work, when the destination was a domain.
    :ivar lost: mandatory records likewise, which the caller allowed to be lost.
    :ivar remarks: what the source's reader has to say about the image.
    :ivar headers_left_out: headers of the source's container, likewise: an xl file's
        configuration is no part of a libxl stream. The guest's state is whole without them.
    :ivar standby: of a destination domain, where the stream had checkpoints.
    """

    source: ImageInfo
    source_bytes: int = 0
    dest_format: str = ""
    dest_bytes: int = 0
    codec: str = ""
    plugins: list[str] = field(factory=list)
    records: dict[str, RecordCount] = field(factory=dict)
    nr_batches: int = 0
    nr_pfns: int = 0
    nr_pages: int = 0
    elapsed_s: float = 0.0
    left_out: dict[str, int] = field(factory=dict)
    lost: dict[str, int] = field(factory=dict)
    remarks: list[Remark] = field(factory=list)
    save: SaveReport | None = None
    headers_left_out: list[str] = field(factory=list)
    arrived: list[PluginFigures] = field(factory=list)
    standby: StandbyReport | None = None

    @property
    def carried(self) -> list[str]:
        return [count.name for count in self.records.values() if not count.understood]

    @property
    def partial(self) -> bool:
        return bool(self.left_out or self.lost)

    @property
    def is_source_partial(self) -> bool:
        """Whether the image had lost something before it was read here."""
        return any(remark.is_loss for remark in self.remarks)


@define
class GuestReport:
    """What the main job did with one guest.

    :ivar left_out: why nothing was done; "" where it was.
    :ivar saved: of the guest as it ran, into an image; ``restored``: from there into another
        guest; ``moved``: of the guest as it ran, straight into another.
    :ivar parts: what was compared at both ends, while neither ran; the same for both ways.
    :ivar image_differs, move_differs: those that were not the same.
    """

    name: str
    address: str
    guest_type: GuestType
    left_out: str = ""
    saved: RunReport | None = None
    restored: RunReport | None = None
    moved: RunReport | None = None
    parts: list[str] = field(factory=list)
    image_differs: list[str] = field(factory=list)
    move_differs: list[str] = field(factory=list)

    @property
    def equal(self) -> bool:
        """Proved so: nothing is proved where nothing could be compared."""
        return bool(self.parts) and not self.image_differs and not self.move_differs


@define
class MainJobReport:
    """What ``xsave run`` without endpoints did.

    :ivar backend: whose guests they were; :ivar plugins: that were chosen, None for all.
    """

    backend: str
    plugins: list[str] | None
    policy: str
    guests: list[GuestReport] = field(factory=list)

    @property
    def ok(self) -> bool:
        return all(guest.equal for guest in self.guests if not guest.left_out)


@define
class MigrationReport:
    """What one end of a migration did.

    :ivar id: 32 hexadecimal digits, the same at both ends.
    :ivar role: ``source`` or ``destination``.
    :ivar guest: its name; :ivar peer: the other end.
    :ivar outcome: value of the state in which this end stopped, see docs/migration.md.
    :ivar host: the destination, as it described itself.
    :ivar notices: what is otherwise there, and what stayed behind.
    :ivar run: what went through the stream, as this end saw it.
    :ivar times: parts of the handing over, in seconds, by name.
    :ivar link: of the link that had the stream.
    """

    id: str
    role: str
    guest: str
    peer: str = ""
    outcome: str = ""
    host: HostDescription | None = None
    notices: Sequence[Notice] = ()
    run: RunReport | None = None
    times: dict[str, float] = field(factory=dict)
    link: LinkCounters | None = None
