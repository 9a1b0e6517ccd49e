"""Policy ``slowing``: as ``downtime``, but a guest that writes too fast is slowed first."""

from __future__ import annotations

from typing import ClassVar

from attrs import field

from xsave import Decision, PrecopyStats, Ruling, define

from . import words
from .downtime import CONVERGING_SPAN, OPTIONS, DowntimePolicy
from .options import Option, share_option
from .prediction import Prediction

STEPS = (1.0, 0.8, 0.6, 0.4, 0.2)
# There is room to give time back when, at the larger share, the pause would still shrink to
# half with every iteration.
ROOMY_FALL = 0.5


@define(eq=False)
class SlowingPolicy(DowntimePolicy):
    """Slows the guest by one step when the predicted pause does not converge, and looks
    again when that had as many iterations as it takes to tell.

    Remembers what it asked for: one object decides for one migration.

    :ivar min_share: of its processor time that the guest keeps at least.
    """

    name: ClassVar[str] = "slowing"
    summary: ClassVar[str] = (
        "as downtime, with its options, but slow the guest in steps down to min=0.2 of its time "
        "before giving up"
    )
    options: ClassVar[tuple[Option, ...]] = (*OPTIONS, share_option("min", "min_share"))

    min_share: float = STEPS[-1]
    _step: int = field(default=0, init=False)
    _nr_before: int = field(default=0, init=False)  # iterations before the last step

    @property
    def steps(self) -> tuple[float, ...]:
        """Shares from all to the least."""
        kept = tuple(share for share in STEPS if share > self.min_share)
        return (*kept, self.min_share)

    @property
    def share(self) -> float:
        """What the guest is left, as asked for last."""
        return self.steps[self._step]

    def go_on(self, stats: PrecopyStats, now: Prediction) -> Ruling:
        if self._step and stats.last.share >= 1:
            return self._go_on_unslowed(stats, now)
        # A step shows in the iterations after it: those before say nothing about it.
        if len(stats.iterations) - self._nr_before >= CONVERGING_SPAN:
            why = self.why_not_converging(stats, now)
            if why is not None:
                return self._slow(stats, now, why)
        if self._step and (room := self._room(stats, now)) is not None:
            return self._move(stats, -1, f"{self.too_long(now)}; {room}")
        slowed = f"; the guest is left {self._left}" if self._step else ""
        return Ruling(Decision.CONTINUE, self.too_long(now) + slowed, self.share)

    @property
    def _left(self) -> str:
        return f"{words.percent(self.share)} of its time"

    def _go_on_unslowed(self, stats: PrecopyStats, now: Prediction) -> Ruling:
        """It was asked for, and the iteration after it ran with all of the time."""
        cannot = f"the guest was to be left {self._left}, but cannot be slowed here"
        if (why := self.why_not_converging(stats, now)) is not None:
            return self.end_in_vain(stats, now, f"{why}; {cannot}")
        return Ruling(Decision.CONTINUE, f"{self.too_long(now)}; {cannot}", self.share)

    def _slow(self, stats: PrecopyStats, now: Prediction, why: str) -> Ruling:
        if self._step + 1 == len(self.steps):
            least = f"the guest is left {self._left} already, the least there may be"
            return self.end_in_vain(stats, now, f"{why}; {least}")
        return self._move(stats, +1, f"{self.too_long(now)}; {why}; so the guest is slowed")

    def _room(self, stats: PrecopyStats, now: Prediction) -> str | None:
        """Why the guest may have more time; None where it may not."""
        # neither unknown nor nothing: the guest would not be slowed, or be paused by now
        fall = now.memory_s / self.prediction(stats, 1).memory_s
        if fall * self.steps[self._step - 1] / self.share > ROOMY_FALL:
            return None
        return (
            f"the part of memory fell to {words.percent(fall)} in one iteration, so the guest "
            f"gets time back"
        )

    def _move(self, stats: PrecopyStats, by: int, why: str) -> Ruling:
        before = words.percent(self.share)
        self._step += by
        self._nr_before = len(stats.iterations)
        return Ruling(Decision.CONTINUE, f"{why}, from {before} to {self._left}", self.share)
