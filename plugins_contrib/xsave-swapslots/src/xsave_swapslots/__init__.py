"""Slots of a guest's swap devices, of which its host keeps copies: two optional records.

The shape: a slot is sent once, while the guest runs, and may become void later; it belongs to
a device, and its number is that device's own. :class:`xsave.SentOnce` keeps the books.
Layouts: README.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, ClassVar, Protocol

from attrs import frozen
from xsave import (
    Buffer,
    Domain,
    FieldError,
    Figure,
    Handler,
    Phase,
    PluginInfo,
    RecordHandler,
    SentOnce,
    StateStream,
    hookimpl,
)

PLUGIN = PluginInfo(name="swapslots", summary="slots of a guest's swap devices", contract=(1, 1))

PAGE_BYTES = 4096  # xsave.PAGE_SIZE, without loading numpy for it
NR_SLOTS_MAX = 1024  # in a record, which is decoded whole
_HEAD = struct.Struct("<II")


class SwapSlotsFacet(Protocol):
    """``swapslots``: of a guest whose host keeps copies of swap slots. From ``begin`` to
    ``end`` it takes no new copies, and drops one when its slot is freed or written to."""

    def begin(self) -> Mapping[int, Sequence[int]]:
        """Device to the slots that it has."""

    def read(self, device: int, slots: Sequence[int]) -> Sequence[bytes | None]:
        """4096 bytes each; None for a copy that is gone by now."""

    def dropped(self) -> Sequence[tuple[int, int | None]]:
        """Device and slot since this was last asked; None for all of the device."""

    def end(self) -> None: ...

    def restore(self, device: int, slot: int, page: bytes) -> None: ...

    def drop(self, device: int, slot: int | None) -> None: ...


@frozen
class Slots:
    """:ivar pages: 4096 bytes for each slot; none where they are void."""

    device: int
    slots: tuple[int, ...]
    pages: bytes = b""


class SlotsHandler(RecordHandler[Slots]):
    mandatory = False  # without its copy a slot is read from the guest's own disk
    phase = Phase.MEMORY
    facet = "swapslots"
    bytes_a_slot: ClassVar[int]
    fewest: ClassVar[int]

    def decode(self, body: memoryview) -> Slots:
        if len(body) < _HEAD.size:
            raise FieldError(field="body", expected="8 bytes or more", got=f"{len(body)} bytes")
        device, nr_slots = _HEAD.unpack_from(body)
        if not self.fewest <= nr_slots <= NR_SLOTS_MAX:
            expected = f"{self.fewest} to {NR_SLOTS_MAX}"
            raise FieldError(field="nr_slots", expected=expected, got=str(nr_slots))
        size = _HEAD.size + nr_slots * (8 + self.bytes_a_slot)
        if len(body) != size:
            raise FieldError(field="body", expected=f"{size} bytes", got=f"{len(body)} bytes")
        slots = struct.unpack_from(f"<{nr_slots}Q", body, _HEAD.size)
        if any(one >= two for one, two in pairwise(slots)):
            raise FieldError(field="slots", expected="in ascending order", got="another order")
        return Slots(device, slots, bytes(body[_HEAD.size + 8 * nr_slots :]))

    def encode(self, state: Slots) -> Sequence[Buffer]:
        nr_slots = len(state.slots)
        head = _HEAD.pack(state.device, nr_slots)
        return head, struct.pack(f"<{nr_slots}Q", *state.slots), state.pages

    def describe(self, state: Slots, seen: Mapping[str, Any]) -> Any:
        return {"device": state.device, "slots": list(state.slots)}


class PagesHandler(SlotsHandler):
    name = "swapslots.pages"
    summary = "slots of a swap device, with their contents"
    before = frozenset({"swapslots.void"})
    bytes_a_slot, fewest = PAGE_BYTES, 1

    def stream(self, domain: Domain) -> StateStream | None:
        facet: SwapSlotsFacet | None = domain.facet("swapslots")
        return None if facet is None else SlotStream(facet)

    def apply(self, domain: Domain, state: Slots) -> None:
        facet: SwapSlotsFacet = domain.need_facet("swapslots")
        for place, slot in enumerate(state.slots):
            page = state.pages[place * PAGE_BYTES : (place + 1) * PAGE_BYTES]
            facet.restore(state.device, slot, page)


class VoidHandler(SlotsHandler):
    name = "swapslots.void"
    summary = "slots that were sent, and are void by now"
    bytes_a_slot, fewest = 0, 0

    def apply(self, domain: Domain, state: Slots) -> None:
        facet: SwapSlotsFacet = domain.need_facet("swapslots")
        for slot in state.slots or (None,):
            facet.drop(state.device, slot)


class SlotStream:
    """A :class:`xsave.CheckpointStream`. Nothing but voids is left to a pause, and the host
    takes no new copies until :meth:`close`: so each checkpoint has the voids since the last."""

    def __init__(self, facet: SwapSlotsFacet) -> None:
        self._facet = facet
        self._books: SentOnce[int, int] = SentOnce()
        self._nr_voids = 0
        for device, slots in facet.begin().items():
            self._books.offer(device, sorted(slots))

    def more(self, size_bytes: int) -> Sequence[tuple[str, Any]]:
        self._listen()
        return list(self._send(min(NR_SLOTS_MAX, max(1, size_bytes // PAGE_BYTES))))

    def final(self) -> Sequence[tuple[str, Any]]:
        self._listen()
        sent: list[tuple[str, Any]] = []
        while self._books.nr_waiting:  # only if more() was not asked until the end
            sent += self._send(NR_SLOTS_MAX)
        return [*sent, *self._voids()]

    def figures(self) -> Sequence[Figure]:
        return (
            Figure("slots", "slots sent", self._books.nr_sent, plotted=True),
            Figure("voids", "slots void afterwards", self._nr_voids, plotted=True),
            Figure("spared", "slots void before they were sent", self._books.nr_spared),
        )

    def checkpoint(self) -> Sequence[tuple[str, Any]]:
        return self.final()

    def close(self) -> None:
        self._facet.end()

    def _listen(self) -> None:
        for device, slot in self._facet.dropped():
            if slot is None:
                self._books.void_all(device)
            else:
                self._books.void(device, slot)

    def _send(self, count: int) -> Iterator[tuple[str, Slots]]:
        for device, group in groupby(self._books.take(count), lambda piece: piece[0]):
            slots = [slot for _, slot in group]
            read = zip(slots, self._facet.read(device, slots), strict=True)
            there = {slot: page for slot, page in read if page is not None}
            if there:
                yield PagesHandler.name, Slots(device, tuple(there), b"".join(there.values()))

    def _voids(self) -> Iterator[tuple[str, Slots]]:
        while void := self._books.take_void(NR_SLOTS_MAX):
            self._nr_voids += len(void)
            for (device, whole), group in groupby(void, lambda one: (one[0], one[1] is None)):
                slots = () if whole else tuple(sorted(slot or 0 for _, slot in group))
                yield VoidHandler.name, Slots(device, slots)


@hookimpl
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    register(PagesHandler())
    register(VoidHandler())
