"""What a domain has, as the events of a stream: its records by phase, its memory in batches.

Shared by saving a domain and by looking at one. It decides nothing: who asks knows whether
the guest runs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..batch import XTAB
from ..domain import Domain
from ..errors import FieldError, PluginError, RecordError
from ..handler import CheckpointStream, Handler, MemoryHandler, RecordHandler, StateStream
from ..manager import HandlerTable, PluginManager
from ..record import Closes, GuestType, ImageInfo, Phase, Record, RecordType
from ..value_class import make_classes

if TYPE_CHECKING:
    from ..batch import PageBatch
    from ..pages import Entries, Pages

ABSENT = XTAB << 60
BATCH_PFNS = 1024  # 4 MiB: as Xen's own saver


class Collector:
    """:raises PluginError: no plugin in use knows such a guest's memory, or several do."""

    def __init__(self, domain: Domain, manager: PluginManager, handlers: HandlerTable) -> None:
        self.domain = domain
        self.handlers = in_order(manager, handlers, domain.info.guest_type)
        self._by_name = {handler.name: handler for handler in self.handlers}
        self._memory = _memory_handler(self.handlers)
        self._identify = handlers.identify
        self._owner_of = handlers.owner_of

    def info(self) -> ImageInfo:
        about = self.domain.info
        return ImageInfo(
            format="domain",
            guest_type=about.guest_type,
            page_size=about.page_size,
            xen_version=about.xen_version,
            word_size=8,
            details={"name": about.name, "p2m_size": about.p2m_size, **about.details},
        )

    def prepare(self) -> None:
        prepare(self.handlers)

    # -- records ---------------------------------------------------------------------

    def record(self, name: str, state: Any) -> Record:
        handler = self._by_name[name]
        assert isinstance(handler, RecordHandler)
        kind = self._identify(RecordType(name, handler.version, mandatory=handler.mandatory))
        return Record(kind, b"".join(handler.encode(state)))

    def records(self, *phases: Phase, closes: Closes = Closes.STREAM) -> Iterator[Record]:
        """:param closes: which marks are among them."""
        for handler in self._record_handlers():
            if handler.phase in phases and handler.closes in (None, closes):
                yield from self._collected(handler)

    def end(self) -> Iterator[Record]:
        """What follows the last checkpoint: the end, and no more state."""
        for handler in self._record_handlers():
            closes = handler.closes
            if closes is Closes.STREAM or (closes is None and handler.phase is Phase.END):
                yield from self._collected(handler)

    def _record_handlers(self) -> Iterator[RecordHandler[Any]]:
        return (handler for handler in self.handlers if isinstance(handler, RecordHandler))

    def _collected(self, handler: RecordHandler[Any]) -> Iterator[Record]:
        try:
            for state in handler.collect(self.domain):
                yield self.record(handler.name, state)
        except FieldError as error:  # what the host gave is not what the record can hold
            raise RecordError(record=handler.name, offset=0, reason=str(error)) from error

    # -- state that goes out beside memory -------------------------------------------

    def streaming(self) -> list[str]:
        """Names of the handlers that may have such state; they are not asked."""
        return [
            handler.name
            for handler in self._record_handlers()
            if type(handler).stream is not RecordHandler.stream
        ]

    def open_streams(self) -> Iterator[tuple[str, StateStream]]:
        """Each as soon as it is open, with the name of its plugin; the caller closes it."""
        for handler in self._record_handlers():
            stream = handler.stream(self.domain)
            if stream is not None:
                owner = self._owner_of(RecordType(handler.name))
                yield "" if owner is None else owner.plugin, stream

    def refuse_checkpoints(self, streams: Iterable[StateStream]) -> None:
        """:raises PluginError: no record marks a checkpoint of such a guest, or some state
        has no second consistent point."""
        marks = (h for h in self._record_handlers() if h.closes is Closes.CHECKPOINT)
        if not any(True for handler in marks for _ in handler.collect(self.domain)):
            raise PluginError(
                "no plugin in use has a record that marks a checkpoint of "
                f"{self.domain.info.name or 'the domain'}"
            )
        for stream in streams:
            if not isinstance(stream, CheckpointStream):
                raise PluginError(
                    f"{type(stream).__name__} sends state that has one consistent point only, "
                    "at the end: with its plugin in use there can be no checkpoints"
                )

    # -- memory ----------------------------------------------------------------------

    def batch(self, pfns: Entries) -> tuple[PageBatch, Entries]:
        """Types and contents as of now, made independent of the host.

        :returns: the batch; pfns that could not be sent now. In the batch these are absent.
        """
        import numpy as np

        from ..batch import PageBatch
        from ..pages import carries_page, count_pages

        entries = self.domain.page_types(pfns)
        if not count_pages(entries):
            # A thousand of these lie below 4 GiB in a PVH guest of 128 MiB, and were the most
            # of what saving it took.
            return PageBatch(self._memory_type, entries, self._no_pages, 0), pfns[:0]
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
        late = pfns[with_page[~good]]
        if len(late):
            # as Xen does: absent for now, sent again after the pause
            entries = entries.copy()
            entries[with_page[~good]] = late | ABSENT
            pages = pages[good]
        return PageBatch(self._memory_type, entries, pages, len(pages)), late

    def types(self, pfns: Entries) -> PageBatch:
        """As :meth:`batch`, without contents: no page is read."""
        from ..batch import PageBatch
        from ..pages import count_pages

        entries = self.domain.page_types(pfns)
        return PageBatch(self._memory_type, entries, None, count_pages(entries))

    @functools.cached_property
    def _no_pages(self) -> Pages:
        import numpy as np

        return np.zeros((0, self.domain.info.page_size), np.uint8)

    @functools.cached_property
    def _memory_type(self) -> RecordType:
        return self._identify(RecordType(self._memory.name, self._memory.version))


def prepare(handlers: Iterable[Handler]) -> None:
    """What takes long at first is done before the guest stands still."""
    for handler in handlers:
        handler.prepare()
        make_classes(type(handler).__module__)


def in_order(
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
