"""State that goes out once while the guest runs, and may become void afterwards.

Memory is sent again when it was written to. Some state is not: pages that a hypervisor keeps
for the guest, slots of a swap device, hints. Each piece has an *owner* (a pool, a device)
and a *key* of the owner's own; it is sent at most once; and the owner may drop it later,
so that what was sent becomes void. :class:`SentOnce` is the bookkeeping of that, for a
:class:`xsave.StateStream`: pieces and voids come in, batches and the voids worth telling
come out. It reads nothing and knows no record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)
Key = TypeVar("Key", bound=Hashable)


class SentOnce(Generic[Owner, Key]):
    """Which pieces wait, which were sent, and which of those are void.

    A piece that becomes void while it waits is forgotten: it was never sent. One that was
    sent is told once, later. What was sent is never sent again, void or not.

    Memory use: one entry for each piece that waits or was ever sent, contents none. Not to be
    shared among threads.

    :ivar nr_waiting: pieces still to be sent.
    :ivar nr_sent: pieces handed out so far.
    :ivar nr_spared: pieces that became void in time, and were never sent.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[Owner, Key]] = deque()  # may name pieces that wait no more
        self._waiting: dict[Owner, set[Key]] = {}
        self._sent: dict[Owner, dict[Key, bool]] = {}  # whether it is valid still
        self._void: deque[tuple[Owner, Key | None]] = deque()
        self.nr_waiting = self.nr_sent = self.nr_spared = 0

    @property
    def nr_void(self) -> int:
        """Voids that :meth:`take_void` has to hand out."""
        return len(self._void)

    def offer(self, owner: Owner, keys: Iterable[Key]) -> None:
        """There are these pieces. Those that wait already are the same ones.

        :raises ValueError: one was sent before. An owner that gives a key to something else
            while it is being saved does not fit this shape.
        """
        sent = self._sent.get(owner, {})
        waiting = self._waiting.setdefault(owner, set())
        try:
            for key in keys:
                if key in sent:
                    raise ValueError(f"{key!r} of {owner!r} was sent already")
                if key not in waiting:
                    waiting.add(key)
                    self._queue.append((owner, key))
                    self.nr_waiting += 1
        finally:
            self._settle(owner)

    def void(self, owner: Owner, key: Key) -> None:
        """This piece is void. Unknown ones are: there is nothing to take back."""
        if key in (waiting := self._waiting.get(owner, set())):
            waiting.remove(key)
            self._spare(1)
            self._settle(owner)
        elif (sent := self._sent.get(owner, {})).get(key):
            sent[key] = False
            self._void.append((owner, key))

    def void_all(self, owner: Owner) -> None:
        """All pieces of this owner are void; told as one."""
        self._spare(len(self._waiting.pop(owner, ())))
        sent = self._sent.get(owner, {})
        if any(sent.values()):
            self._sent[owner] = dict.fromkeys(sent, False)
            self._void.append((owner, None))

    def retain(self, owner: Owner, keys: Iterable[Key]) -> None:
        """All pieces of this owner but these are void: for an owner that does not tell what it
        drops, and can be asked what it has."""
        kept = set(keys)
        known = [*self._waiting.get(owner, ()), *self._sent.get(owner, ())]
        if kept.isdisjoint(known):
            self.void_all(owner)
            return
        for key in known:
            if key not in kept:
                self.void(owner, key)

    def nr_valid(self, owner: Owner) -> int:
        """How many pieces of this owner were sent and are not void."""
        return sum(self._sent.get(owner, {}).values())

    def take(self, count: int) -> list[tuple[Owner, Key]]:
        """The next pieces, at most so many, in the order they were offered: as (owner, key).
        They count as sent from now on."""
        taken: list[tuple[Owner, Key]] = []
        while self._queue and len(taken) < count:
            owner, key = self._queue.popleft()
            if key not in (waiting := self._waiting.get(owner, set())):
                continue
            waiting.remove(key)
            self._settle(owner)
            self._sent.setdefault(owner, {})[key] = True
            taken.append((owner, key))
        self.nr_waiting -= len(taken)
        self.nr_sent += len(taken)
        return taken

    def take_void(self, count: int) -> list[tuple[Owner, Key | None]]:
        """What is void of the pieces sent, at most so many, in the order they became so: as
        (owner, key), or (owner, None) for all that was sent of this owner until then. Before
        an owner that lost all gets new pieces sent, this has to be told."""
        return [self._void.popleft() for _ in range(min(count, len(self._void)))]

    def _spare(self, count: int) -> None:
        self.nr_waiting -= count
        self.nr_spared += count

    def _settle(self, owner: Owner) -> None:
        if not self._waiting.get(owner, True):
            del self._waiting[owner]
