"""Contract: what knows one kind of record.

A handler has a name, never a number, and two pure verbs: ``decode`` looks at bytes,
``encode`` makes them. Both touch nothing else, so that inspection, verification,
conversion and the round-trip test need no code of their own.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from .binary import Layout
from .errors import PluginError
from .figure import Figure
from .present import to_json
from .record import Buffer, Closes, GuestType, Phase
from .value_class import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .batch import PageBatch
    from .domain import Domain
    from .pages import Entries, Pages

S = TypeVar("S")


class Redaction(enum.Enum):
    """What becomes of a record when an image is made fit to be shown to others."""

    LEFT_OUT = "left out"  # nobody said what of it is the guest's data
    CLEANED = "cleaned"  # what is data goes, structure stays: see ``redact``
    KEPT = "kept"  # there is nothing of the guest's data in it


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
    :cvar facet: the part of a domain without which it has no such record; "" for a record
        that does not depend on one. So it is known before anything is sent what will come.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    version: ClassVar[int] = 1
    mandatory: ClassVar[bool] = True
    phase: ClassVar[Phase]
    before: ClassVar[frozenset[str]] = frozenset()
    after: ClassVar[frozenset[str]] = frozenset()
    guest_types: ClassVar[frozenset[GuestType]] = ALL_GUESTS
    facet: ClassVar[str] = ""

    def configure(self, options: Mapping[str, str]) -> Handler:
        """A handler for one run. Asked only where the plugin declares options.

        :param options: all that it declares, name to value, checked; defaults where the user
            said nothing.
        :returns: one of the same name; itself, where they are none of its business.
        """
        return self

    def prepare(self) -> None:  # noqa: B027  # most have nothing to load
        """Load what was left for later. Called once for a domain that is to be saved or
        restored and may have such a record, before anything of it goes out or comes in: what
        is loaded with the record itself, the guest stands still for. Value classes that its module
        names are made ready without its help.
        """


@frozen
class Highlight:
    """What somebody wants to know of a guest without reading its records.

    :ivar topic: under which heading: ``vcpus``, ``devices``, or ``needs`` for what a host must
        have to restore it.
    :ivar name: of the thing: ``vcpu 0``; :ivar text: about it, a line.
    """

    topic: str
    name: str
    text: str


class RecordHandler(Handler, Generic[S]):
    """State: a record with a body that is decoded whole.

    :cvar redaction: what ``xsave redact`` does with it. Whatever could hold contents of
        memory, of registers, keys, names or texts of the guest is data.
    :cvar closes: for a mark that says by its place what is complete; None for all else. Marks
        of checkpoints are collected at checkpoints only, those of the stream at its end only.
        Where several layers mark the same, the last one in the order of records counts.
    """

    redaction: ClassVar[Redaction] = Redaction.LEFT_OUT
    closes: ClassVar[Closes | None] = None

    @abc.abstractmethod
    def decode(self, body: memoryview) -> S:
        """Look at a body.

        :returns: an immutable state that does not refer to ``body``.
        :raises FieldError: the body is not what the layout says.
        """

    @abc.abstractmethod
    def encode(self, state: S) -> Sequence[Buffer]:
        """The body in parts; ``encode(decode(body))`` joined is ``body``, always."""

    def collect(self, domain: Domain) -> Iterable[S]:
        """What a paused domain has of this: one state for each record to be written.

        Asked once for each checkpoint, in the order of the handlers; ``STATIC_DATA`` and
        ``START_OF_STREAM`` once, when the guest still runs. None for a domain that has no
        such thing (no facet of that name).
        """
        return ()

    def stream(self, domain: Domain) -> StateStream | None:
        """For state that is sent while the guest runs; asked once, before the first page.
        None for a domain that has no such state, and for every handler of small state."""
        return None

    def apply(self, domain: Domain, state: S) -> None:
        """Give a decoded state to a domain that is being restored and does not run yet.

        Records up to ``MEMORY`` are applied as they come; later ones when the checkpoint
        they belong to is complete, so that a half-received one changes nothing; of records
        with the same :meth:`key` only the last.

        :raises XsaveError: the host refused; the domain being built is destroyed.
        """
        raise PluginError(f"{self.name} cannot be restored into a domain")

    def highlights(self, state: S, seen: Mapping[str, Any]) -> Iterable[Highlight]:
        """What ``xsave report`` says of it on top; few lines.

        :param seen: as for :meth:`describe`.
        """
        return ()

    def redact(self, state: S, seen: Mapping[str, Any]) -> S:
        """The same without the guest's data; asked only where ``redaction`` is CLEANED.

        :param seen: as for :meth:`describe`.
        """
        return state

    def figures(self, domain: Domain) -> Sequence[Figure]:
        """For the report: what it did for this domain, which has everything now and has not
        run. Not counted as downtime, so at most a few numbers that are known already."""
        return ()

    def key(self, state: S) -> Any:
        """Which of several records of this name it is: the vcpu it belongs to. A later
        record of the same key replaces an earlier one."""
        return None

    def describe(self, state: S, seen: Mapping[str, Any]) -> Any:
        """The state as JSON values, every field by its name in the reference.

        :param seen: record name to the latest state decoded before in the same stream, for
            layouts that depend on another record (SHARED_INFO on the guest's width). May
            lack anything.
        """
        return to_json(state)


class StateStream(Protocol):
    """State of one domain that is too much for the pause: it goes out while the guest runs,
    spread among the iterations over memory. Made by :meth:`RecordHandler.stream`."""

    def more(self, size_bytes: int) -> Sequence[tuple[str, Any]]:
        """The next records, the guest running.

        :param size_bytes: about how much; a record more or less does not matter.
        :returns: (name of the record, state), to be encoded by the handler of that name;
            empty when there is nothing to send now. New state may turn up later.
        """

    def final(self) -> Sequence[tuple[str, Any]]:
        """What is left, the guest paused: as little as can be, for the downtime is counted.
        Usually what has become void since it was sent."""

    def figures(self) -> Sequence[Figure]:
        """For the report: what went out so far, the same figures in the same order each time,
        none ever smaller. Asked after each iteration, and in the pause."""

    def close(self) -> None:
        """The saving is over, successfully or not: put back what was switched on."""


@runtime_checkable
class CheckpointStream(StateStream, Protocol):
    """A :class:`StateStream` of which there can be more than one consistent point: its guest
    runs on after a checkpoint, and :meth:`more` and :meth:`checkpoint` are asked again. A
    stream without :meth:`checkpoint` cannot take part where there are checkpoints, and the
    run is refused."""

    def checkpoint(self) -> Sequence[tuple[str, Any]]:
        """The guest is paused: all that the other end needs to have this state as it is now,
        in addition to what was sent before. In place of :meth:`final`, at each checkpoint."""


FindPages = Callable[["Entries"], "tuple[Entries, Pages]"]


class MemoryHandler(Handler):
    """Memory: records that carry page batches, for one kind of guest.

    :cvar structural_types: page types that say how a guest is built: ``xsave redact`` keeps
        such pages.
    :cvar structure_from: names of the records whose states :meth:`structure` is given.
    """

    phase = Phase.MEMORY
    structural_types: ClassVar[frozenset[int]] = frozenset()
    structure_from: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def check(self, batch: PageBatch) -> None:
        """Refuse entries that this kind of guest cannot have; vectorised, no page is read.

        :raises FieldError: with the first pfn that is wrong.
        """

    def structure(
        self, states: Mapping[str, Sequence[Any]], find: FindPages
    ) -> Mapping[str, Entries]:
        """Further pages that say how a guest is built: ``xsave redact`` keeps their last
        contents, and erases all others.

        :param states: of the records that ``structure_from`` names, those of one name in
            the order of the stream.
        :param find: gives, for (n,) pfns, those (m,) of them that have contents in the image,
            and these, (m, page_size) u8; reads the image, so ask for many at once.
        :returns: what they are ("page tables") to (n,) u64 pfns.
        """
        return {}

    def redact(self, kind: str, pages: Pages) -> None:
        """Erase what could be data after all in pages that are kept, in place.

        :param kind: what :meth:`structure` called them; "" for those kept for their type.
        :param pages: (n, page_size) u8, copies.
        """

    def normalise(self, domain: Domain, entries: Entries, pages: Pages) -> NDArray[Any] | None:
        """Make pages of a domain independent of its host, in place.

        :param entries: (n,) u64, all of types with contents.
        :param pages: (n, page_size) u8, copies of their contents.
        :returns: (n,) bool, False for pages that could not be made so just now and have to
            be sent again after the pause; None for "all could".
        :raises XsaveError: the guest is paused, and a page cannot be made so.
        """
        return None

    def localise(self, domain: Domain, entries: Entries, pages: Pages) -> None:
        """Fit pages to the host they arrive on, in place; populates what they refer to.
        Called when the memory of a checkpoint is complete, so pages may refer to others."""

    def finish(self, domain: Domain, entries: Entries) -> None:
        """All memory and state of a domain being restored is in its place: pin page tables,
        rewrite what holds frame numbers of the host.

        :param entries: (p,) u64, the latest types of all pages that are page tables.
        """


class LayoutHandler(RecordHandler[Layout]):
    """A record whose body is exactly one :class:`Layout`."""

    layout: ClassVar[type[Layout]]

    def decode(self, body: memoryview) -> Layout:
        return self.layout.decode(body)

    def encode(self, state: Layout) -> Sequence[Buffer]:
        return (state.encode(),)


class EmptyHandler(RecordHandler[None]):
    """A record without a body, which says something by standing where it stands: nothing
    is done with it when a domain is restored."""

    redaction = Redaction.KEPT

    def apply(self, domain: Domain, state: None) -> None:
        pass

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
