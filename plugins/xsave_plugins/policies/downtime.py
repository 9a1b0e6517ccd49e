"""Policy ``downtime``: stop as soon as the pause would be short enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from xsave import Decision, PrecopyPolicy, PrecopyStats, Ruling, UsageError, define

from . import words
from .options import Option, give_up_option, read_options, time_option, whole_option
from .prediction import Prediction, predict

# It converges as long as the predicted pause gets shorter by a tenth in three iterations:
# three, since one burst of the guest shall not end it.
CONVERGING_SPAN = 3
CONVERGING_FALL = 0.10

OPTIONS = (
    time_option("target", "target_s"),
    time_option("fixed", "fixed_s"),
    whole_option("max", "max_iterations", 1),
    give_up_option("give_up", "give_up"),
)


@define(eq=False)
class DowntimePolicy(PrecopyPolicy):
    """:ivar target_s: the pause may be so long.
    :ivar fixed_s: what a pause costs beside memory: stopping, state, taking over.
    :ivar max_iterations: then it is given up.
    :ivar give_up: what that means: STOP_AND_COPY or ABORT.
    """

    name: ClassVar[str] = "downtime"
    summary: ClassVar[str] = (
        "stop when the pause would be within target=300ms (fixed=20ms beside memory); after "
        "max=30 iterations, or when it gets no shorter, give_up=stop or abort"
    )
    options: ClassVar[tuple[Option, ...]] = OPTIONS

    target_s: float = 0.3
    fixed_s: float = 0.02
    max_iterations: int = 30
    give_up: Decision = Decision.STOP_AND_COPY

    def __attrs_post_init__(self) -> None:
        if self.target_s <= self.fixed_s:
            raise UsageError(
                f"policy {self.name}: target is {words.ms(self.target_s)}, expected more than "
                f"fixed, the {words.ms(self.fixed_s)} that a pause costs without any memory"
            )

    def configure(self, options: Mapping[str, str]) -> DowntimePolicy:
        return type(self)(**read_options(self.name, self.options, options))

    def decide(self, stats: PrecopyStats) -> Ruling:
        now = self.prediction(stats)
        if now.pause_s <= self.target_s:
            return Ruling(
                Decision.STOP_AND_COPY, f"{now} is within the target of {words.ms(self.target_s)}"
            )
        if len(stats.iterations) >= self.max_iterations:
            why = f"{words.iterations(len(stats.iterations))}, as many as there may be"
            return self.end_in_vain(stats, now, why)
        return self.go_on(stats, now)

    def go_on(self, stats: PrecopyStats, now: Prediction) -> Ruling:
        """The pause would be too long, and another iteration is allowed."""
        if (why := self.why_not_converging(stats, now)) is not None:
            return self.end_in_vain(stats, now, why)
        return Ruling(Decision.CONTINUE, self.too_long(now))

    def end_in_vain(self, stats: PrecopyStats, now: Prediction, why: str) -> Ruling:
        """The target is not met, and is not going to be."""
        dirtied = words.mib_per_s(stats.last.dirty_per_s * stats.page_size)
        told = "stopping" if self.give_up is Decision.STOP_AND_COPY else "aborting"
        return Ruling(
            self.give_up,
            f"{self.too_long(now)}; {why}; the guest dirtied {dirtied} in the last iteration; "
            f"{told}, as told for this case",
        )

    def prediction(self, stats: PrecopyStats, ago: int = 0) -> Prediction:
        """:param ago: so many iterations ago, with what was known then."""
        known = stats.iterations[: len(stats.iterations) - ago]
        return predict(known, stats.page_size, self.fixed_s)

    def why_not_converging(self, stats: PrecopyStats, now: Prediction) -> str | None:
        """None as long as it converges, or too little is known to say."""
        if len(stats.iterations) <= CONVERGING_SPAN:
            return None
        before_s = self.prediction(stats, CONVERGING_SPAN).pause_s
        if math.isinf(before_s) or now.pause_s <= before_s * (1 - CONVERGING_FALL):
            return None
        return (
            f"it does not converge: it was {words.ms(before_s)} {CONVERGING_SPAN} iterations ago, "
            f"and has not fallen by {words.percent(CONVERGING_FALL)}"
        )

    def too_long(self, now: Prediction) -> str:
        verb = "may be" if math.isinf(now.pause_s) else "is"
        return f"{now} {verb} above the target of {words.ms(self.target_s)}"
