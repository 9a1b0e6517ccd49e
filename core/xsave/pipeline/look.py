"""A domain that is looked at, and not saved: what a save would say of it now.

State is collected while the guest is paused, as briefly as that takes, so that its records
belong together. Memory is looked at while the guest runs, batch by batch: it is of no one
moment, and not of that of the state. State that goes out beside memory is not looked at, since
asking for it changes what the guest may do meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from attrs import field

from ..domain import Domain
from ..errors import TryAgainError, UsageError
from ..manager import HandlerTable, PluginManager
from ..record import Phase
from ..value_class import frozen
from .collect import BATCH_PFNS, Collector
from .ends import domain_address

if TYPE_CHECKING:
    from ..format import Event
    from ..pages import Pages


@frozen
class Look:
    """How a domain was looked at.

    :ivar paused_s: for how long it stood still; 0 if it did not have to.
    :ivar nr_in_transition: pages that could not be read just then; they count as absent.
    :ivar not_looked_at: names of records that go out beside memory, where there are any.
    """

    paused_s: float
    nr_in_transition: int
    not_looked_at: list[str] = field(factory=list)


class DomainLook:
    """A :class:`xsave.Reader`.

    :param contents: read the pages, too; else batches have types only.
    :param at_rest: also memory while the guest is paused, so that all belongs together.
    """

    def __init__(
        self, domain: Domain, manager: PluginManager, handlers: HandlerTable,
        clock: Callable[[], float] = time.monotonic, *, contents: bool = False,
        at_rest: bool = False,
    ) -> None:  # fmt: skip
        self.domain = domain
        self._collector = Collector(domain, manager, handlers)
        self.info = self._collector.info()
        self._clock = clock
        self._contents = contents
        self._at_rest = at_rest
        self._paused_s = 0.0
        self._nr_in_transition = 0

    def __iter__(self) -> Iterator[Event]:
        yield from self._collector.records(Phase.HEADER, Phase.STATIC_DATA, Phase.START_OF_STREAM)
        if not self._at_rest:
            yield from self._memory()
        # Collected at once: whoever takes the records may be slow.
        yield from self._while_paused()

    def _while_paused(self) -> list[Event]:
        found: list[Event] = []
        was_at_rest = self.domain.is_at_rest()
        began = self._clock()
        try:
            self.domain.pause()
            if self._at_rest:
                found += self._memory()
            found += self._collector.records(Phase.END_OF_CHECKPOINT, Phase.DEVICE_MODEL, Phase.END)
        finally:
            if not was_at_rest:
                self.domain.resume()
            self._paused_s = self._clock() - began
        return found

    def _memory(self) -> Iterator[Event]:
        import numpy as np

        p2m_size = self.domain.info.p2m_size
        for start in range(0, p2m_size, BATCH_PFNS):
            pfns = np.arange(start, min(start + BATCH_PFNS, p2m_size), dtype=np.uint64)
            if not self._contents:
                yield self._collector.types(pfns)
                continue
            batch, late = self._collector.batch(pfns)
            self._nr_in_transition += len(late)
            yield batch

    def pages(self, pfns: Sequence[int]) -> dict[int, tuple[int, Pages | None]]:
        """As :func:`xsave.read_pfns`; the guest runs.

        :raises TryAgainError: one of them is changing just now.
        """
        import numpy as np

        from ..pages import carries_page

        known = [pfn for pfn in pfns if pfn < self.domain.info.p2m_size]
        found: dict[int, tuple[int, Pages | None]] = {}
        for start in range(0, len(known), BATCH_PFNS):
            batch, late = self._collector.batch(np.array(known[start:][:BATCH_PFNS], np.uint64))
            if len(late):
                raise TryAgainError(f"pfn {int(late[0]):#x} is changing just now: ask again")
            assert batch.pages is not None
            rows = np.cumsum(carries_page(batch.entries)) - 1
            for at, carries in enumerate(carries_page(batch.entries).tolist()):
                page = batch.pages[rows[at] : rows[at] + 1] if carries else None
                found[int(batch.pfns[at])] = int(batch.types[at]), page
        return found

    @property
    def look(self) -> Look:
        return Look(self._paused_s, self._nr_in_transition, self._collector.streaming())


def open_domain(
    stack: ExitStack, source: Any, manager: PluginManager, base: object = None
) -> Domain | None:
    """:returns: None if it is an image.
    :raises UsageError: a base was given, and it is a domain.
    """
    address = domain_address(source, manager)
    if address is None:
        return None
    if base is not None:
        raise UsageError(f"a base is of an image, and {source} is a domain")
    domain = address.backend.open(address.rest)
    stack.callback(domain.close)
    return domain
