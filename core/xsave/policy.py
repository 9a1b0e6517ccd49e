"""Contract: when pre-copy ends. Asked between iterations, the guest running.

Only the contract: no policy is bundled yet.
"""

from __future__ import annotations

import abc
import enum
from typing import ClassVar

from attrs import frozen


class Decision(enum.Enum):
    """What happens after an iteration."""

    CONTINUE = "continue"  # another iteration
    STOP_AND_COPY = "stop-and-copy"  # pause the guest, send the rest
    ABORT = "abort"  # give up; the guest stays where it is


@frozen
class PrecopyStats:
    """What is known after an iteration.

    :ivar iteration: the one that has ended, from 0.
    :ivar nr_dirty: pfns dirty now.
    :ivar nr_sent: pfns sent in that iteration.
    """

    iteration: int
    nr_dirty: int
    nr_sent: int
    duration_s: float
    bytes_per_s: float


@frozen
class Ruling:
    """A decision and its reason, for the report."""

    decision: Decision
    reason: str


class PrecopyPolicy(abc.ABC):
    """Decides, between iterations, whether sending once more is worth it.

    :cvar name: as it is asked for.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""

    @abc.abstractmethod
    def decide(self, stats: PrecopyStats) -> Ruling:
        """Say whether pre-copy goes on."""
