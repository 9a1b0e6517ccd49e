"""A domain as a destination: the mirror of ``save.py``.

What is needed to build the guest is applied as it comes. The state of a checkpoint is kept
until the stream is complete, and pages that hold frame numbers are fitted to this host only
then: pages may refer to others that come later. Nothing runs before everything is there.

Where the stream goes on after a checkpoint, what follows is kept apart until the next one is
whole: at any moment the guest is as of the last whole checkpoint, or can be made so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..batch import XTAB
from ..domain import Domain
from ..errors import FieldError, OutputError, RecordError
from ..figure import Figure
from ..handler import MemoryHandler, RecordHandler
from ..io.sink import Pace
from ..manager import HandlerTable, PluginManager
from ..progress import PluginFigures
from ..record import Closes, Phase, Record, RecordType
from .partial import Held, PartialRound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..batch import PageBatch
    from ..format import Event

LOCALISE_PFNS = 1024  # page tables fitted at once
PFN_LIMIT = 1 << 32  # 16 TiB of guest; what lies above is damage


class SeenPages:
    """The latest page type of each pfn, and whether it was ever given memory.

    One byte a pfn: the type nibble, and two marks. Memory that was never touched costs
    nothing (the kernel gives it out when it is written).
    """

    _MENTIONED, _POPULATED = 0x40, 0x80

    def __init__(self) -> None:
        self._marks: NDArray[np.uint8] | None = None
        # Whether it is worth looking through all marks for them, with the guest at rest.
        self._may_be_given_up = self._may_be_tables = False

    def remember(
        self, pfns: NDArray[np.uint64], types: NDArray[np.uint8], populated: NDArray[np.bool_]
    ) -> None:
        """:param pfns: (n,) with (n,) type nibbles; (n,) whether they have memory now. The
        caller bounds the pfns."""
        import numpy as np

        highest = int(pfns.max(initial=0))
        if self._marks is None or highest >= len(self._marks):
            # Twice as much each time: pfns come in ascending order, a batch after another.
            before = 0 if self._marks is None else len(self._marks)
            grown = np.zeros(max(highest + 1, 2 * before, 1 << 16), np.uint8)
            if self._marks is not None:
                grown[:before] = self._marks
            self._marks = grown
        at = pfns.astype(np.intp)
        had_memory = self._marks[at] & self._POPULATED
        if populated.any():
            self._may_be_tables = self._may_be_tables or bool(_are_tables(types).any())
        if had_memory.any():
            self._may_be_given_up |= bool((types[had_memory != 0] == XTAB).any())
        self._marks[at] = (
            types | self._MENTIONED | had_memory | np.where(populated, self._POPULATED, 0)
        ).astype(np.uint8)

    @property
    def p2m_size(self) -> int:
        """Highest pfn that was mentioned, plus one."""
        import numpy as np

        if self._marks is None:
            return 0
        mentioned = np.flatnonzero(self._marks)
        return int(mentioned[-1]) + 1 if len(mentioned) else 0

    @property
    def nr_populated(self) -> int:
        """pfns that have memory at last."""
        return len(self._with_memory(lambda types: types != XTAB))

    def given_up(self) -> NDArray[np.uint64]:
        """pfns that have memory, and whose latest type says that there is none."""
        import numpy as np

        if not self._may_be_given_up:
            return np.zeros(0, np.uint64)
        return self._with_memory(lambda types: types == XTAB)

    def without_memory(self, pfns: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Those of these pfns that were never given any."""
        import numpy as np

        if self._marks is None:
            return pfns
        known = pfns < np.uint64(len(self._marks))
        marks = self._marks[np.where(known, pfns, 0).astype(np.intp)]
        return pfns[~(known & (marks >= self._POPULATED))]

    def page_tables(self) -> NDArray[np.uint64]:
        """Entries of all pages whose latest type is a page table's."""
        import numpy as np

        if self._marks is None or not self._may_be_tables:
            return np.zeros(0, np.uint64)
        pfns = self._with_memory(_are_tables)
        return pfns | (self._marks[pfns.astype(np.intp)] & 0xF).astype(np.uint64) << np.uint64(60)

    def _with_memory(
        self, test: Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
    ) -> NDArray[np.uint64]:
        """pfns that have memory, and whose latest types pass the test. Only these are put to it:
        most pfns of an HVM guest have none, and the guest stands still meanwhile."""
        import numpy as np

        if self._marks is None:
            return np.zeros(0, np.uint64)
        pfns = np.flatnonzero(self._marks >= self._POPULATED)
        types = (self._marks[pfns] & 0xF).astype(np.uint8)
        return pfns[test(types)].astype(np.uint64)


def _are_tables(types: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Of (n,) type nibbles, with the pin bit or without."""
    return (types & 7 >= 1) & (types & 7 <= 4) & (types <= 0xC)


class DomainWriter:
    """:param pace: holds it to a rate.

    A :class:`xsave.Writer`. After :meth:`finish` or :meth:`fall_back` the guest is complete and
    paused; the caller resumes it, or destroys it when anything failed.

    :ivar nr_checkpoints: whole ones that have come; 0 for a stream without.
    :ivar ended: the mark has come that nothing more will.

    Memory use: one byte for each pfn, and the last state of each record; with checkpoints some
    more, and what :mod:`.partial` says.
    """

    left_out: Sequence[str] = ()

    def __init__(
        self, domain: Domain, manager: PluginManager, handlers: HandlerTable,
        pace: Pace | None = None,
    ) -> None:  # fmt: skip
        self.domain = domain
        self.nr_checkpoints = 0
        self.ended = False
        self.taken_bytes = 0
        self._pace = pace
        self._handlers = handlers
        self._order = {name: place for place, name in enumerate(manager.record_order())}
        self._used: set[str] = set()
        self._outermost = _outermost_mark(manager, handlers)
        self._held: Held = {}
        self._memory: MemoryHandler | None = None
        self._seen = SeenPages()
        self._partial: PartialRound | None = None  # from the first whole checkpoint on
        self._marked: str | None = None  # a checkpoint, perhaps of an inner layer only
        self._torn = False  # a round is being applied: the guest is of neither checkpoint

    def put(self, event: Event) -> None:
        handler = self._handlers.get(event.type)
        if handler is None:
            if event.type.mandatory:
                raise OutputError(f"{event.name} is mandatory, and nothing here can restore it")
            return
        if self._marked is not None and self._order[event.name] <= self._order[self._marked]:
            # The next round begins, so there is no further layer that had to mark it too;
            # and there will be none from now on.
            self._outermost = self._marked
            self._complete_checkpoint()
        taken_before = self.taken_bytes
        try:
            if isinstance(event, Record):
                if isinstance(handler, RecordHandler):
                    self._put_record(event, handler)
            elif isinstance(handler, MemoryHandler):
                self._put_pages(event, handler)
        except FieldError as error:
            raise RecordError(record=event.name, offset=event.offset, reason=str(error)) from error
        if self._pace is not None:
            self._pace.passed(self.taken_bytes - taken_before)

    def _put_record(self, record: Record, handler: RecordHandler[Any]) -> None:
        self.taken_bytes += len(record.body)
        self._used.add(record.name)
        state = handler.decode(memoryview(record.body))
        partial = self._partial
        if handler.phase > Phase.MEMORY:
            held = self._held if partial is None else partial.held
            _hold(held, record.name, handler, state)
        elif partial is None:
            handler.apply(self.domain, state)
        else:
            partial.keep_record(record, handler)
        if handler.closes is Closes.STREAM:
            self.ended = True
        elif handler.closes is Closes.CHECKPOINT:
            self._marked = record.name
            if record.name == self._outermost:
                self._complete_checkpoint()

    def _put_pages(self, batch: PageBatch, handler: MemoryHandler) -> None:
        import numpy as np

        from ..batch import XALLOC
        from ..pages import PFN_MASK, carries_page

        if batch.pages is None:
            raise OutputError(f"{batch.name}: a batch without its pages")
        self._memory = handler
        self.taken_bytes += batch.pages.nbytes
        handler.check(batch)
        pfns = batch.entries & PFN_MASK
        types = batch.types.astype(np.uint8)
        wanted = carries_page(batch.entries) | (types == XALLOC)
        highest = int(pfns.max(initial=0))
        if highest >= PFN_LIMIT:
            raise FieldError(field="pfn", expected=f"below {PFN_LIMIT:#x}", got=f"{highest:#x}")
        if self._partial is None:
            self.domain.populate(pfns[wanted])
            if batch.nr_pages:
                self._write_pages(batch)
            else:  # most batches of an HVM guest hold nothing but pfns without memory
                self._seen.remember(pfns, types, wanted)
            return
        # noted first, so that it is taken back whatever happens
        self._partial.fresh.append(self._seen.without_memory(pfns[wanted]))
        self.domain.populate(pfns[wanted])
        self._partial.keep_batch(batch, handler)

    def _write_pages(self, batch: PageBatch) -> None:
        """Contents into pfns that have memory."""
        import numpy as np

        from ..batch import XALLOC
        from ..pages import PFN_MASK, carries_page

        pfns = batch.entries & PFN_MASK
        types = batch.types.astype(np.uint8)
        carries = carries_page(batch.entries)
        assert batch.pages is not None
        self.domain.write_pages(pfns[carries], batch.pages)
        self._seen.remember(pfns, types, carries | (types == XALLOC))

    # -- checkpoints -----------------------------------------------------------------

    def _complete_checkpoint(self) -> None:
        """What was kept apart becomes part of the guest."""
        self._marked = None
        if self._partial is None:
            self._partial = PartialRound()
        else:
            self._apply_round(self._partial)
        self.nr_checkpoints += 1

    def _apply_round(self, partial: PartialRound) -> None:
        self._torn = True
        for event, handler in partial.replay():
            if not isinstance(event, Record):
                self._write_pages(event)
                continue
            assert isinstance(handler, RecordHandler)
            handler.apply(self.domain, handler.decode(memoryview(event.body)))
        for (name, _key), (handler, state) in partial.held.items():
            _hold(self._held, name, handler, state)
        partial.clear()
        self._torn = False

    def _forget_round(self) -> None:
        """What was kept apart does not become part of the guest."""
        if self._partial is None:
            return
        for fresh in self._partial.fresh:
            if len(fresh):
                self.domain.depopulate(fresh)
        self._partial.clear()

    def fall_back(self) -> bool:
        """The stream broke off: make it a guest as of the last whole checkpoint.

        :returns: False if that cannot be: there was none, or it is lost since applying the
            next one failed. The caller destroys the domain then.
        :raises XsaveError: it cannot become a guest here; likewise.
        """
        if not self.nr_checkpoints or self._torn:
            return False
        self._forget_round()
        self._make_guest()
        return True

    # -- the end ---------------------------------------------------------------------

    def finish(self) -> None:
        """Everything has come: make it a guest.

        :raises XsaveError: it cannot become one here; the caller destroys the domain.
        """
        if self._marked is not None:
            self._complete_checkpoint()
        if self._partial is not None and self._partial:
            if self.ended:  # instead of with a checkpoint, the last round closed with the end
                self._apply_round(self._partial)
            else:
                self._forget_round()
        self._make_guest()

    def close(self) -> None:
        """Let go of what was kept apart; harmless when nothing is."""
        if self._partial is not None:
            self._partial.close()

    def _make_guest(self) -> None:
        # Given up by the guest after it was sent. Xen leaves such memory in place; a host that
        # can take it back does, so that nobody finds a stale page there.
        gone = self._seen.given_up()
        if len(gone):
            self.domain.depopulate(gone)
        tables = self._seen.page_tables()
        for start in range(0, len(tables), LOCALISE_PFNS):
            self._localise(tables[start : start + LOCALISE_PFNS])
        for (name, _key), (handler, state) in sorted(
            self._held.items(), key=lambda item: self._order[item[0][0]]
        ):
            try:
                handler.apply(self.domain, state)
            except FieldError as error:
                raise RecordError(record=name, offset=0, reason=str(error)) from error
        if self._memory is not None:
            self._memory.finish(self.domain, tables)

    def figures(self) -> list[PluginFigures]:
        """What the handlers that were used say of their work, by plugin."""
        found: dict[str, list[Figure]] = {}
        for name in sorted(self._used, key=self._order.__getitem__):
            handler = self._handlers.get(RecordType(name))
            owner = self._handlers.owner_of(RecordType(name))
            if isinstance(handler, RecordHandler) and owner is not None:
                found.setdefault(owner.plugin, []).extend(handler.figures(self.domain))
        return [PluginFigures(plugin, figures) for plugin, figures in found.items() if figures]

    def _localise(self, entries: NDArray[np.uint64]) -> None:
        import numpy as np

        from ..pages import PFN_MASK

        assert self._memory is not None
        pfns = entries & PFN_MASK
        pages = np.empty((len(pfns), self.domain.info.page_size), np.uint8)
        if not self.domain.read_pages(pfns, pages).all():
            raise OutputError("a page table that was written cannot be read back")
        self._memory.localise(self.domain, entries, pages)
        self.domain.write_pages(pfns, pages)


def _hold(held: Held, name: str, handler: RecordHandler[Any], state: Any) -> None:
    key = name, handler.key(state)
    held.pop(key, None)  # the latest one counts, in its own place
    held[key] = handler, state


def _outermost_mark(manager: PluginManager, handlers: HandlerTable) -> str | None:
    """The last record in the order of a stream that marks a checkpoint. A stream may have
    fewer layers; that shows when a round follows that it did not close."""
    found = None
    for name in manager.record_order():
        handler = handlers.get(RecordType(name))
        if isinstance(handler, RecordHandler) and handler.closes is Closes.CHECKPOINT:
            found = name
    return found
