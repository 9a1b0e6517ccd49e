"""How a domain's stream goes on after its first complete state (Remus)."""

from __future__ import annotations

from collections.abc import Callable

from attrs import field

from .errors import UsageError
from .value_class import frozen

LONGEST_PERIOD_S = 3600.0


def _check_period(_instance: object, _attribute: object, seconds: float) -> None:
    # written so that NaN is refused too
    if not 0 <= seconds <= LONGEST_PERIOD_S:
        raise UsageError(f"a guest runs for 0 to 3600 s between checkpoints, not {seconds} s")


def _check_count(_instance: object, _attribute: object, count: int) -> None:
    if count < 0:
        raise UsageError(f"at least 1 checkpoint, or 0 for no end, not {count}")


@frozen
class Checkpoints:
    """Checkpoints follow each other until there were enough, or somebody says so.

    :ivar period_s: for so long the guest runs from one pause to the next.
    :ivar count: of checkpoints, that of the first complete state included; 0 for no end.
    :ivar ended: asked before each pause and while the guest runs; when it says True, the
        next checkpoint is the last one, and is made at once.
    """

    period_s: float = field(default=0.2, validator=_check_period)
    count: int = field(default=0, validator=_check_count)
    ended: Callable[[], bool] | None = None

    def is_last(self, number: int) -> bool:
        """Whether none follows the one of this number, from 0."""
        return number + 1 == self.count or self.is_ended()

    def is_ended(self) -> bool:
        return self.ended is not None and self.ended()
