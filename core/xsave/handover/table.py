"""A table of states as data, and what follows it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from attrs import field

from ..errors import TryAgainError, XsaveError
from ..value_class import frozen

S = TypeVar("S", bound=enum.Enum)
E = TypeVar("E", bound=enum.Enum)
A = TypeVar("A", bound=enum.Enum)


class NonsenseError(XsaveError):
    """An event that its state has no place for: the other end does not keep to the protocol."""


@frozen
class Step(Generic[S, E, A]):
    """:ivar acts: done in this order, once the new state is taken.
    :ivar then: told when all acts have been done.
    """

    to: S
    acts: tuple[A, ...] = ()
    then: E | None = None


@frozen
class Table(Generic[S, E, A]):
    """One end.

    :ivar steps: what a state has no step for is nonsense there.
    :ivar nonsense: what is told instead of an event that the other end brought about, and
        that makes no sense.
    :ivar failures: what is told when an act fails; one that is not named leaves the state as
        it is, and the rest undone, for whoever starts the end again.
    :ivar doubts: what is told instead when nobody knows whether an act was done: its host does
        not answer (:class:`xsave.TryAgainError`).
    """

    first: S
    nonsense: E
    steps: Mapping[S, Mapping[E, Step[S, E, A]]]
    failures: Mapping[A, E] = field(factory=dict)
    doubts: Mapping[A, E] = field(factory=dict)

    def find(self, state: S, event: E) -> Step[S, E, A] | None:
        return self.steps[state].get(event)


class Conduct(Generic[S, E, A]):
    """Where one end stands, and what it does next. Used by one thread at a time.

    :param acts: what does each act. One that raises an XsaveError has failed.
    """

    def __init__(
        self, table: Table[S, E, A], state: S, acts: Mapping[A, Callable[[], None]]
    ) -> None:
        self.state = state
        self._table = table
        self._acts = acts

    def tell(self, event: E) -> None:
        """Something happened: take the step, do what it says.

        :raises NonsenseError: there is no such step; nothing was done.
        :raises XsaveError: an act failed, and the table has no answer to that.
        """
        following: E | None = event
        while following is not None:
            step = self._table.find(self.state, following)
            if step is None:
                raise NonsenseError(f"{following.value!r} makes no sense in {self.state.value!r}")
            self.state = step.to
            following = self._do(step)

    def hear(self, event: E) -> None:
        """As :meth:`tell`, of what the other end has said: nonsense is a failure."""
        known = self._table.find(self.state, event) is not None
        self.tell(event if known else self._table.nonsense)

    def _do(self, step: Step[S, E, A]) -> E | None:
        for act in step.acts:
            try:
                self._acts[act]()
            except XsaveError as error:
                answer = self._table.failures.get(act)
                if isinstance(error, TryAgainError):
                    answer = self._table.doubts.get(act, answer)
                if answer is None:
                    raise
                return answer
        return step.then
