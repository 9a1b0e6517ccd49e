"""A domain as a source: what it is goes out while it runs, what is left when it is paused.

Reads like the stream it makes: static data, the start of the stream, iterations over memory,
stop-and-copy, the state of the checkpoint, the device model, the end. Which records those
are is said by the handlers; their order by what they declare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from attrs import evolve

from ..batch import XTAB
from ..domain import Domain
from ..errors import PluginError, XsaveError
from ..handler import Handler, MemoryHandler, RecordHandler
from ..manager import HandlerTable, PluginManager
from ..policy import Decision, Iteration, PrecopyPolicy, PrecopyStats
from ..progress import SaveReport
from ..record import GuestType, ImageInfo, Phase, Record, RecordType
from .beside import BEFORE, PAUSED, BesideMemory

if TYPE_CHECKING:
    from ..batch import PageBatch
    from ..domain import Flags
    from ..format import Event
    from ..pages import Entries

ABSENT = XTAB << 60
BATCH_PFNS = 1024  # 4 MiB: as Xen's own saver
DRAIN_BYTES = 4 << 20


class DomainReader:
    """:param policy: decides between iterations; None pauses the guest first (not live).
    :param sent_bytes: how many bytes the destination has taken so far, for the bandwidth.
    :param clock: seconds, never going back.

    A :class:`xsave.Reader`. Iterate once; then :meth:`release` says what becomes of the
    guest. Whatever happens before, ``release("resume")`` puts everything back.
    """

    def __init__(
        self,
        domain: Domain,
        manager: PluginManager,
        handlers: HandlerTable,
        policy: PrecopyPolicy | None,
        sent_bytes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.domain = domain
        about = domain.info
        self.info = ImageInfo(
            format="domain",
            guest_type=about.guest_type,
            page_size=about.page_size,
            xen_version=about.xen_version,
            word_size=8,
            details={"name": about.name, "p2m_size": about.p2m_size, **about.details},
        )
        self.report = SaveReport(policy is not None, policy.name if policy is not None else "")
        self._policy = policy
        self._sent_bytes = sent_bytes
        self._clock = clock
        self._logging = self._paused = self._released = False
        self._phase_began = 0.0  # of the downtime: each part begins where one ended
        self._handlers = _in_order(manager, handlers, about.guest_type)
        self._by_name = {handler.name: handler for handler in self._handlers}
        self._memory = _memory_handler(self._handlers)
        self._beside: list[BesideMemory] = []
        self._table = handlers
        self._identify = handlers.identify

    def __iter__(self) -> Iterator[Event]:
        # First, so that what is counted below is what they will send.
        self._open_streams()
        yield from self._records(Phase.HEADER, Phase.STATIC_DATA, Phase.START_OF_STREAM)
        remaining = yield from self._precopy()
        self._pause()
        yield from self._stop_and_copy(remaining)
        self.report.downtime.memory_s = self._lap()
        if self._beside:
            yield from self._rest_beside()
            self.report.downtime.beside_s = self._lap()
        yield from self._records(Phase.END_OF_CHECKPOINT, Phase.DEVICE_MODEL, Phase.END)
        self.report.downtime.state_s = self._lap()

    def release(self, what: str) -> None:
        """The stream is over, one way or another.

        :param what: ``resume``: the guest goes on here; ``destroy``: it goes on elsewhere;
            ``pause``: it stays stopped, for whoever comes next.
        """
        if self._released:
            return
        for beside in self._beside:
            beside.stream.close()
        self._beside.clear()
        if self._logging:
            self.domain.stop_dirty_log()
            self._logging = False
        if self.report.throttled:
            self.domain.throttle(1.0)
        if what == "destroy":
            self.domain.destroy()
        elif what == "resume" and self._paused:
            self.domain.resume()
        self.lap_finish()
        self._released = True

    def lap_finish(self) -> None:
        """What was done since the last lap belongs to the end of the downtime."""
        if self._paused:
            self.report.downtime.finish_s += self._lap()

    def lap_proof(self) -> None:
        """As :meth:`lap_finish`, for looking at the guest while it stands still."""
        self.report.downtime.proof_s += self._lap()

    # -- state that goes out beside memory --------------------------------------------

    def _open_streams(self) -> None:
        for handler in self._handlers:
            if isinstance(handler, RecordHandler):
                stream = handler.stream(self.domain)
                if stream is not None:
                    owner = self._table.owner_of(RecordType(handler.name))
                    beside = BesideMemory("" if owner is None else owner.plugin, stream)
                    self._beside.append(beside)
                    self.report.beside.append(beside.report)

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
        for beside in self._beside:
            yield from self._beside_memory(beside, beside.stream.final())
        self._mark(PAUSED)

    def _beside_memory(
        self, beside: BesideMemory, states: Iterable[tuple[str, Any]]
    ) -> Iterator[Record]:
        for name, state in states:
            record = self._record(name, state)
            beside.went_out(record)
            yield record

    def _mark(self, name: str) -> None:
        for beside in self._beside:
            beside.mark(name)

    def _record(self, name: str, state: Any) -> Record:
        handler = self._by_name[name]
        assert isinstance(handler, RecordHandler)
        kind = self._identify(RecordType(name, handler.version, mandatory=handler.mandatory))
        return Record(kind, b"".join(handler.encode(state)))

    # -- records ---------------------------------------------------------------------

    def _records(self, *phases: Phase) -> Iterator[Record]:
        for handler in self._handlers:
            if handler.phase not in phases or not isinstance(handler, RecordHandler):
                continue
            for state in handler.collect(self.domain):
                yield self._record(handler.name, state)

    # -- memory ----------------------------------------------------------------------

    def _precopy(self) -> Generator[Event, None, Flags]:
        """Iterations while the guest runs.

        :returns: (p2m_size,) bool, what the last pass has to send.
        """
        import numpy as np

        to_send = np.ones(self.domain.info.p2m_size, np.bool_)
        if self._policy is None:
            yield from self._drain()
            self._mark(BEFORE)
            return to_send
        self.domain.start_dirty_log()
        self._logging = True
        deferred = np.zeros(len(to_send), np.bool_)
        share = 1.0
        while True:
            number = len(self.report.iterations)
            done = yield from self._pass(number, to_send, deferred, share)
            self._mark(str(number))
            # Looked at, not cleaned: what the policy lets go on is cleaned just before it is
            # sent, so that nothing written in between is lost.
            nr_dirty = int(np.count_nonzero(self.domain.read_dirty_log(clean=False)))
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
            to_send = self.domain.read_dirty_log(clean=True) | deferred
            deferred[:] = False

    def _stop_and_copy(self, remaining: Flags) -> Iterator[Event]:
        if self._logging:
            remaining = remaining | self.domain.read_dirty_log(clean=True)
        number = len(self.report.iterations)
        self.report.final = yield from self._pass(number, remaining, None, 0.0)

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
        for start in range(0, len(pfns), BATCH_PFNS):
            batch = self._batch(pfns[start : start + BATCH_PFNS], deferred)
            nr_pages += batch.nr_pages
            yield batch
            if deferred is not None:
                yield from self._streamed(len(batch.entries) * self.domain.info.page_size // 4)
        return Iteration(
            number, len(pfns), nr_pages, self._sent_bytes() - bytes_before,
            self._clock() - began, 0, share,
        )  # fmt: skip

    def _batch(self, pfns: Entries, deferred: Flags | None) -> PageBatch:
        import numpy as np

        from ..batch import PageBatch
        from ..pages import carries_page

        entries = self.domain.page_types(pfns)
        with_page = np.flatnonzero(carries_page(entries))
        wanted = entries[with_page]
        pages = np.empty((len(wanted), self.domain.info.page_size), np.uint8)
        good = self.domain.read_pages(pfns[with_page], pages)
        if good.all():
            made = self._memory.normalise(self.domain, wanted, pages)
            good = good if made is None else made
        else:
            # rows that could not be read hold nothing that could be looked at
            kept = np.flatnonzero(good)
            part = pages[kept]
            made = self._memory.normalise(self.domain, wanted[kept], part)
            pages[kept] = part
            good[kept] &= True if made is None else made
        if not good.all():
            late = with_page[~good]
            if deferred is None:
                raise XsaveError(
                    f"pfn {int(pfns[late[0]]):#x} cannot be sent although the guest is paused"
                )
            deferred[pfns[late].astype(np.intp)] = True
            self.report.nr_deferred += len(late)
            # as Xen does: absent for now, sent again after the pause
            entries = entries.copy()
            entries[late] = pfns[late] | ABSENT
            pages = pages[good]
        kind = self._identify(RecordType(self._memory.name, self._memory.version))
        return PageBatch(kind, entries, pages, len(pages))

    # -- time ------------------------------------------------------------------------

    def _pause(self) -> None:
        self._phase_began = self._clock()
        self._paused = True  # resuming a guest that did not stop is harmless
        self.domain.pause()
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
    for handler in _in_order(manager, handlers, domain.info.guest_type):
        if isinstance(handler, RecordHandler) and (stream := handler.stream(domain)) is not None:
            stream.close()  # one that is opened anew ends the one before


def _in_order(
    manager: PluginManager, handlers: HandlerTable, guest_type: GuestType
) -> list[Handler]:
    """The handlers in use that this kind of guest can have, in the order of a stream."""
    found = []
    for name in manager.record_order():
        handler = handlers.get(RecordType(name))
        if handler is not None and guest_type in handler.guest_types:
            found.append(handler)
    return found


def _memory_handler(handlers: list[Handler]) -> MemoryHandler:
    found = [handler for handler in handlers if isinstance(handler, MemoryHandler)]
    if len(found) != 1:
        names = ", ".join(handler.name for handler in found) or "none"
        raise PluginError(
            f"a guest's memory needs exactly one plugin in use that knows it, found: {names}"
        )
    return found[0]
