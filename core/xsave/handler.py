"""Contract: what knows one kind of record.

A handler has a name, never a number, and two pure verbs: ``decode`` looks at bytes,
``encode`` makes them. Both touch nothing else, so that inspection, verification,
conversion and the round-trip test need no code of their own.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from .binary import Layout
from .errors import PluginError
from .present import to_json
from .record import Buffer, GuestType, Phase

if TYPE_CHECKING:
    from .batch import PageBatch

S = TypeVar("S")

ALL_GUESTS = frozenset({GuestType.X86_PV, GuestType.X86_HVM, GuestType.UNKNOWN})


class Handler(abc.ABC):
    """What state and memory handlers share: identity, place in the stream, applicability.

    :cvar name: namespaced, unique among all plugins: ``vendor.thing.part``.
    :cvar summary: one line, for ``xsave plugins``.
    :cvar version: of the body's layout. A record of a higher version is not understood.
    :cvar mandatory: whether a destination without this plugin must refuse the image.
    :cvar phase: where in the stream; ``before`` and ``after`` order within the phase.
        Names that no plugin offers are ignored there.
    :cvar guest_types: guests that can have it.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    version: ClassVar[int] = 1
    mandatory: ClassVar[bool] = True
    phase: ClassVar[Phase]
    before: ClassVar[frozenset[str]] = frozenset()
    after: ClassVar[frozenset[str]] = frozenset()
    guest_types: ClassVar[frozenset[GuestType]] = ALL_GUESTS


class RecordHandler(Handler, Generic[S]):
    """State: a record with a body that is decoded whole."""

    @abc.abstractmethod
    def decode(self, body: memoryview) -> S:
        """Look at a body.

        :returns: an immutable state that does not refer to ``body``.
        :raises FieldError: the body is not what the layout says.
        """

    @abc.abstractmethod
    def encode(self, state: S) -> Sequence[Buffer]:
        """The body in parts; ``encode(decode(body))`` joined is ``body``, always."""

    def describe(self, state: S, seen: Mapping[str, Any]) -> Any:
        """The state as JSON values, every field by its name in the reference.

        :param seen: record name to the latest state decoded before in the same stream, for
            layouts that depend on another record (SHARED_INFO on the guest's width). May
            lack anything.
        """
        return to_json(state)


class MemoryHandler(Handler):
    """Memory: records that carry page batches, for one kind of guest."""

    phase = Phase.MEMORY

    @abc.abstractmethod
    def check(self, batch: PageBatch) -> None:
        """Refuse entries that this kind of guest cannot have; vectorised, no page is read.

        :raises FieldError: with the first pfn that is wrong.
        """


class LayoutHandler(RecordHandler[Layout]):
    """A record whose body is exactly one :class:`Layout`."""

    layout: ClassVar[type[Layout]]

    def decode(self, body: memoryview) -> Layout:
        return self.layout.decode(body)

    def encode(self, state: Layout) -> Sequence[Buffer]:
        return (state.encode(),)


class EmptyHandler(RecordHandler[None]):
    """A record without a body, which says something by standing where it stands."""

    def decode(self, body: memoryview) -> None:
        from .errors import FieldError

        if len(body):
            raise FieldError(field="body", expected="0 bytes", got=f"{len(body)} bytes")

    def encode(self, state: None) -> Sequence[Buffer]:
        return ()


def order_handlers(handlers: Iterable[Handler]) -> list[str]:
    """All names in the order of a stream: by phase, then as declared, then by name.

    :raises PluginError: the declarations contradict each other; the cycle is named.
    """
    by_name: Mapping[str, Handler] = {handler.name: handler for handler in handlers}
    ordered: list[str] = []
    for phase in Phase:
        names = sorted(name for name, handler in by_name.items() if handler.phase == phase)
        members = set(names)
        predecessors: dict[str, set[str]] = {name: set() for name in names}
        for name in names:
            predecessors[name] |= by_name[name].after & members
            for later in by_name[name].before & members:
                predecessors[later].add(name)
        ordered += _sorted_topologically(predecessors)
    return ordered


def _sorted_topologically(predecessors: Mapping[str, set[str]]) -> list[str]:
    sorter = TopologicalSorter(predecessors)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " before ".join(error.args[1])
        raise PluginError(f"the order of records contradicts itself: {cycle}") from None
    ordered: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        ordered += ready
        sorter.done(*ready)
    return ordered
