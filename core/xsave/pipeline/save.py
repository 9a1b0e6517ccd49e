"""A domain as a source: what it is goes out while it runs, what is left when it is paused.

Reads like the stream it makes: static data, the start of the stream, iterations over memory,
stop-and-copy, the state of the checkpoint, the device model, the end; where there are
checkpoints, from iterating over memory on once more for each. Which records those are is
said by the handlers; their order by what they declare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from attrs import evolve

from ..checkpoint import Checkpoints
from ..domain import Domain
from ..errors import CancelledError, XsaveError
from ..handler import CheckpointStream, RecordHandler
from ..manager import HandlerTable, PluginManager
from ..policy import Decision, Iteration, PrecopyPolicy, PrecopyStats
from ..progress import DowntimeReport, Round, RoundsReport, SaveReport
from ..record import Closes, Phase, Record
from .beside import BEFORE, PAUSED, BesideMemory
from .collect import BATCH_PFNS, Collector, in_order
from .forecast import Forecast
from .measure import count_contents

if TYPE_CHECKING:
    from ..domain import Flags
    from ..format import Event
    from ..pages import Entries

DRAIN_BYTES = 4 << 20
LOOK_S = 0.05  # how often it is asked, while the guest runs to a checkpoint, whether to go on


class DomainReader:
    """:param policy: decides between iterations; None pauses the guest first (not live).
    :param sent_bytes: how many bytes the destination has taken so far, for the bandwidth.
    :param with_beside: False leaves out state that goes out beside memory: for who only looks.
    :param checkpoints: None for one consistent point, at the end.
    :param clock: seconds, never going back; :param wait: for so many of them.
    :param cancelled: asked while the guest runs to the next checkpoint.

    A :class:`xsave.Reader`. Iterate once; then :meth:`release` says what becomes of the
    guest. Whatever happens before, ``release("resume")`` puts everything back.

    Memory use: a batch, and a few bytes for each pfn.
    """

    def __init__(
        self,
        domain: Domain,
        manager: PluginManager,
        handlers: HandlerTable,
        policy: PrecopyPolicy | None,
        sent_bytes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        *,
        checkpoints: Checkpoints | None = None,
        with_beside: bool = True,
        wait: Callable[[float], object] = time.sleep,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self.domain = domain
        self._collector = Collector(domain, manager, handlers)
        self.info = self._collector.info()
        self.pause_guest: Callable[[], None] = domain.pause  # may be set before iterating
        self.report = SaveReport(policy is not None, policy.name if policy is not None else "")
        self._policy = policy
        self._sent_bytes = sent_bytes
        self._checkpoints = checkpoints
        self._with_beside = with_beside
        self._clock = clock
        self._wait = wait
        self._cancelled = cancelled
        self._logging = self._paused = self._released = False
        # By whomever: it may stand still because it runs elsewhere, so it is left so.
        self.found_at_rest = domain.is_at_rest()
        self._p2m_size = 0
        self._forecast: Forecast | None = None  # once somebody asks
        self._phase_began = 0.0  # of the downtime: each part begins where one ended
        self._beside: list[BesideMemory] = []  # with open streams

    def __iter__(self) -> Iterator[Event]:
        self._collector.prepare()
        # First, so that what is counted below is what they will send.
        for plugin, stream in self._collector.open_streams() if self._with_beside else ():
            self._beside.append(BesideMemory(plugin, stream))
            self.report.beside.append(self._beside[-1].report)
        if self._checkpoints is not None:
            self._collector.refuse_checkpoints(beside.stream for beside in self._beside)
        yield from self._collector.records(Phase.HEADER, Phase.STATIC_DATA, Phase.START_OF_STREAM)
        remaining = yield from self._precopy()
        bytes_before = self._sent_bytes()
        self._pause()
        if self._checkpoints is not None and not self._logging:
            self._start_log()  # nothing is missed: the guest stands still
        self.report.final = yield from self._stop_and_copy(remaining)
        if self._checkpoints is None:
            self.report.downtime.memory_s = self._lap()
            if self._beside:
                yield from self._rest_beside()
                self.report.downtime.beside_s = self._lap()
            yield from self._collector.records(
                Phase.END_OF_CHECKPOINT, Phase.DEVICE_MODEL, Phase.END
            )
            self.report.downtime.state_s = self._lap()
        else:
            yield from self._rounds(self._checkpoints, bytes_before)

    def release(self, what: str) -> None:
        """The stream is over, one way or another.

        :param what: ``resume``: the guest goes on here; ``destroy``: it goes on elsewhere;
            ``pause``: it stays stopped, for whoever comes next.
        """
        if self._released:
            return
        with ExitStack() as each:  # all of it, in reverse, whichever of them fails
            each.callback(setattr, self, "_released", True)
            each.callback(self.lap_finish)
            if what == "destroy":
                each.callback(self.domain.destroy)
            elif what == "resume" and self._paused and not self.found_at_rest:
                each.callback(self.domain.resume)
            if self.report.throttled:
                each.callback(self.domain.throttle, 1.0)
            if self._logging:
                each.callback(self.domain.stop_dirty_log)
                self._logging = False
            for beside in self._beside:
                each.callback(beside.stream.close)
            self._beside.clear()

    def lap_finish(self) -> None:
        """What was done since the last lap belongs to the end of the downtime."""
        if self._paused:
            self.report.downtime.finish_s += self._lap()

    def lap_commit(self) -> float:
        """As :meth:`lap_finish`, for handing the guest over to another process.

        :returns: seconds since the lap before.
        """
        lap = self._lap()
        self.report.downtime.commit_s += lap
        return lap

    def lap_proof(self) -> None:
        """As :meth:`lap_finish`, for looking at the guest while it stands still."""
        self.report.downtime.proof_s += self._lap()

    # -- state that goes out beside memory --------------------------------------------

    def _streamed(self, size_bytes: int) -> Iterator[Record]:
        """A share of what does not wait for the pause; all streams get the same."""
        for beside in self._beside:
            yield from self._beside_memory(beside, beside.stream.more(size_bytes))

    def _drain(self) -> Iterator[Record]:
        """Nothing that could go out while the guest runs is left to the pause."""
        sent = True
        while sent:
            sent = False
            for record in self._streamed(DRAIN_BYTES):
                sent = True
                yield record

    def _rest_beside(self) -> Iterator[Record]:
        """What is left of it now that the guest is paused: up to the end, or, where there are
        checkpoints, up to this one."""
        for beside in self._beside:
            stream = beside.stream
            if self._checkpoints is None:
                rest = stream.final()
            else:
                assert isinstance(stream, CheckpointStream)  # others were refused
                rest = stream.checkpoint()
            yield from self._beside_memory(beside, rest)
        self._mark(PAUSED)

    def _beside_memory(
        self, beside: BesideMemory, states: Iterable[tuple[str, Any]]
    ) -> Iterator[Record]:
        for name, state in states:
            record = self._collector.record(name, state)
            beside.went_out(record)
            yield record

    def _mark(self, name: str) -> None:
        for beside in self._beside:
            beside.mark(name)

    # -- checkpoints -----------------------------------------------------------------

    def _rounds(self, checkpoints: Checkpoints, bytes_before: int) -> Iterator[Event]:
        """The guest is paused, and its memory was sent: state and mark of the checkpoint;
        and the same for each that follows."""
        rounds = self.report.rounds = RoundsReport()
        ran_s = 0.0
        sent = self.report.final
        while True:
            assert sent is not None
            downtime = self.report.downtime
            downtime.memory_s = self._lap()
            if self._beside:
                yield from self._rest_beside()
                downtime.beside_s = self._lap()
            yield from self._collector.records(
                Phase.END_OF_CHECKPOINT, Phase.DEVICE_MODEL, closes=Closes.CHECKPOINT
            )
            downtime.state_s = self._lap()
            now = self._sent_bytes()
            rounds.add(Round(rounds.count, ran_s, sent.nr_pages, now - bytes_before, downtime))
            if checkpoints.is_last(rounds.count - 1):
                break
            self._go_on()
            ran_s = self._let_run(checkpoints)
            bytes_before = now
            yield from self._drain()
            self.report.downtime = DowntimeReport()
            self._pause()
            sent = yield from self._stop_and_copy(None)
        # No more state: the guest stands where the last checkpoint has it.
        yield from self._collector.end()
        downtime.state_s += self._lap()

    def _go_on(self) -> None:
        """The checkpoint has what it needs: the guest runs to the next one."""
        if self.report.throttled:
            self.domain.throttle(1.0)  # it was for pre-copy
        if not self.found_at_rest:
            self.domain.resume()
        self.report.downtime.finish_s = self._lap()
        self._paused = False

    def _let_run(self, checkpoints: Checkpoints) -> float:
        """:returns: for how long. :raises CancelledError: somebody asked to stop."""
        began = self._clock()
        while (left := began + checkpoints.period_s - self._clock()) > 0:
            if self._cancelled is not None and self._cancelled():
                raise CancelledError("cancelled")
            if checkpoints.is_ended():
                break
            self._wait(min(left, LOOK_S))
        return self._clock() - began

    # -- memory ----------------------------------------------------------------------

    def _precopy(self) -> Generator[Event, None, Flags]:
        """Iterations while the guest runs.

        :returns: (p2m_size,) bool, what the last pass has to send.
        """
        import numpy as np

        self._p2m_size = self.domain.info.p2m_size
        to_send = np.ones(self._p2m_size, np.bool_)
        if self._policy is None:
            yield from self._drain()
            self._mark(BEFORE)
            return to_send
        self._start_log()
        deferred = np.zeros(len(to_send), np.bool_)
        share = 1.0
        while True:
            number = len(self.report.iterations)
            done = yield from self._pass(number, to_send, deferred, share)
            self._mark(str(number))
            # Looked at, not cleaned: what the policy lets go on is cleaned just before it is
            # sent, so that nothing written in between is lost.
            nr_dirty = int(np.count_nonzero(self._dirty(clean=False)))
            if self._forecast is not None:
                self._forecast.looked(nr_dirty)
            self.report.iterations.append(evolve(done, nr_dirty=nr_dirty))
            info = self.domain.info
            stats = PrecopyStats(self.report.iterations, info.p2m_size, info.page_size)
            ruling = self._policy.decide(stats)
            self.report.rulings.append(ruling)
            if ruling.decision is Decision.ABORT:
                raise XsaveError(f"pre-copy was given up, the guest runs on: {ruling.reason}")
            if ruling.decision is Decision.STOP_AND_COPY:
                yield from self._drain()
                self._mark(str(number))
                return deferred
            if ruling.share != share:
                self.report.throttled = self.domain.throttle(ruling.share)
                share = ruling.share if self.report.throttled else 1.0
            to_send = self._dirty(clean=True) | deferred
            deferred[:] = False

    def _start_log(self) -> None:
        self.domain.start_dirty_log()
        self._logging = True

    def _dirty(self, *, clean: bool) -> Flags:
        """:raises XsaveError: the guest got pfns that it did not have when the save began."""
        dirty = self.domain.read_dirty_log(clean=clean)
        if len(dirty) != self._p2m_size:
            raise XsaveError(
                f"the guest's number of pfns changed while it was saved, from "
                f"{self._p2m_size:#x} to {len(dirty):#x}"
            )
        return dirty

    def _stop_and_copy(self, remaining: Flags | None) -> Generator[Event, None, Iteration]:
        """:param remaining: to be sent whether dirty or not; None for nothing."""
        to_send = remaining
        if self._logging:
            dirty = self._dirty(clean=True)
            to_send = dirty if to_send is None else to_send | dirty
        assert to_send is not None  # without a log it is all there is
        return (yield from self._pass(len(self.report.iterations), to_send, None, 0.0))

    def _pass(
        self, number: int, to_send: Flags, deferred: Flags | None, share: float
    ) -> Generator[Event, None, Iteration]:
        """Send these pfns once, in batches.

        :param deferred: is set for pages that could not be sent now; None when the guest is
            paused: then that is an error.
        """
        import numpy as np

        began, bytes_before = self._clock(), self._sent_bytes()
        pfns = np.flatnonzero(to_send).astype(np.uint64)
        nr_pages = 0
        if self._forecast is not None:
            self._forecast.begin(len(pfns), share)
        for start in range(0, len(pfns), BATCH_PFNS):
            batch, late = self._collector.batch(pfns[start : start + BATCH_PFNS])
            if len(late):
                self._put_off(late, deferred)
            nr_pages += batch.nr_pages
            if self._forecast is not None:
                self._forecast.sent(batch.nr_pages)
                if self._logging and self._forecast.wants_look:
                    self._forecast.looked(int(np.count_nonzero(self._dirty(clean=False))))
            yield batch
            if deferred is not None:
                yield from self._streamed(len(batch.entries) * self.domain.info.page_size // 4)
        return Iteration(
            number, len(pfns), nr_pages, self._sent_bytes() - bytes_before,
            self._clock() - began, 0, share,
        )  # fmt: skip

    def _put_off(self, late: Entries, deferred: Flags | None) -> None:
        import numpy as np

        if deferred is None:
            raise XsaveError(f"pfn {int(late[0]):#x} cannot be sent although the guest is paused")
        deferred[late.astype(np.intp)] = True
        self.report.nr_deferred += len(late)

    # -- how long it will take ----------------------------------------------------------

    def remaining(self) -> float | None:
        """Seconds until it is over, estimated; None while nothing is known, and afterwards. Who
        asks makes the reader look at the dirty log now and then, from then on."""
        if self._released:
            return None
        rounds, checkpoints = self.report.rounds, self._checkpoints
        if rounds is not None and checkpoints is not None:
            if not checkpoints.count or not rounds.count:
                return None  # nobody knows when that ends
            each_s = checkpoints.period_s + rounds.pause_s / rounds.count
            return (checkpoints.count - rounds.count) * each_s
        if self._forecast is None:
            info = self.domain.info
            nr_pages = count_contents(self.domain)
            self._forecast = Forecast(self._policy, nr_pages, info.page_size, self._clock)
            self._forecast.begin(nr_pages, 1.0 if self._policy is not None else 0.0)
        left_s = self._forecast.remaining_s(self.report.iterations)
        if left_s is None or checkpoints is None:
            return left_s
        if not checkpoints.count:
            return None
        return left_s + (checkpoints.count - 1) * checkpoints.period_s

    # -- time ------------------------------------------------------------------------

    def _pause(self) -> None:
        self._phase_began = self._clock()
        self._paused = True  # resuming a guest that did not stop is harmless
        self.pause_guest()
        self.report.downtime.pause_s = self._lap()

    def _lap(self) -> float:
        now = self._clock()
        lap, self._phase_began = now - self._phase_began, now
        return lap


def put_back(domain: Domain, manager: PluginManager, handlers: HandlerTable) -> None:
    """After a :class:`DomainReader` that was killed: the guest goes on here, with all of its
    processor time, and nothing is kept for a stream that will never end. Harmless for a guest
    of which nothing was ever read.

    :raises XsaveError: the host refused something; the guest was resumed all the same, unless
        that was it.
    """
    domain.resume()
    domain.throttle(1.0)
    domain.stop_dirty_log()
    for handler in in_order(manager, handlers, domain.info.guest_type):
        if isinstance(handler, RecordHandler) and (stream := handler.stream(domain)) is not None:
            stream.close()  # one that is opened anew ends the one before
