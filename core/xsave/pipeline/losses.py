"""What a destination's format has no place for, and whether that may be lost.

Optional records are left out by the writer itself. A mandatory one is state of the guest:
its loss stops the run, unless the caller allowed it by name. Then the rest of the source is
still read, and nothing more is written, so that the error can say all that would be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..errors import LossError, UnknownNameError
from ..format import Writer
from ..manager import PluginManager

if TYPE_CHECKING:
    from ..format import Event


class Losses:
    """:param allowed: names of records; each stands for itself and for what is below it:
        ``vendor.thing`` for ``vendor.thing.part``.
    :raises UnknownNameError: a name that stands for no record there is.

    :ivar lost: as allowed: name to how many.
    """

    def __init__(self, manager: PluginManager, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)
        self._refused: dict[str, int] = {}
        self._kept_by = ""
        self.lost: dict[str, int] = {}
        known = manager.handlers.names()
        for name in sorted(self._allowed):
            if not any(_covers(name, record) for record in known):
                raise UnknownNameError(kind="record", name=name, known=known)

    def put(self, writer: Writer, event: Event, drop: Callable[[], None]) -> None:
        """:param drop: makes the destination write nothing from now on.
        :raises XsaveError: the writer's, but for what may be lost.
        """
        try:
            writer.put(event)
        except LossError as error:
            allowed = any(_covers(name, event.name) for name in self._allowed)
            tally = self.lost if allowed else self._refused
            if not allowed and not tally:
                self._kept_by = error.kept_by
                drop()
            for name, count in error.losses.items():
                tally[name] = tally.get(name, 0) + count

    def finish(self) -> None:
        """Everything has been put.

        :raises LossError: all that would be lost without having been allowed.
        """
        if self._refused:
            raise LossError(losses=self._refused, kept_by=self._kept_by)


def _covers(allowed: str, name: str) -> bool:
    return name == allowed or name.startswith(f"{allowed}.")
