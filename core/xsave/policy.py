"""Contract: when pre-copy ends. Asked between iterations, the guest running."""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping, Sequence
from typing import ClassVar

from .value_class import frozen


class Decision(enum.Enum):
    """What happens after an iteration."""

    CONTINUE = "continue"  # another iteration
    STOP_AND_COPY = "stop-and-copy"  # pause the guest, send the rest
    ABORT = "abort"  # give up; the guest stays where it is


@frozen
class Iteration:
    """One pass over memory while the guest ran.

    :ivar number: from 0, which sends everything.
    :ivar nr_sent: pfns mentioned; :ivar nr_pages: pages with contents among them.
    :ivar sent_bytes: as they went into the stream.
    :ivar nr_dirty: pfns written during it (and not yet sent again).
    :ivar share: of its processor time that the guest was left, 1.0 for all.
    """

    number: int
    nr_sent: int
    nr_pages: int
    sent_bytes: int
    duration_s: float
    nr_dirty: int
    share: float = 1.0

    @property
    def pages_per_s(self) -> float:
        """How fast memory went out."""
        return self.nr_pages / self.duration_s if self.duration_s > 0 else 0.0

    @property
    def dirty_per_s(self) -> float:
        """How fast the guest wrote to pages it had not written to in this iteration."""
        return self.nr_dirty / self.duration_s if self.duration_s > 0 else 0.0


@frozen
class PrecopyStats:
    """What is known after an iteration.

    :ivar iterations: all so far, the last one just ended; never empty.
    :ivar p2m_size: number of pfns of the guest.
    """

    iterations: Sequence[Iteration]
    p2m_size: int
    page_size: int = 4096

    @property
    def last(self) -> Iteration:
        return self.iterations[-1]


@frozen
class Ruling:
    """A decision and its reason, in words with the numbers, for the report.

    :ivar share: of its processor time that the guest shall be left from now on; a backend
        that cannot slow guests ignores it, and the report says so.
    """

    decision: Decision
    reason: str
    share: float = 1.0


class PrecopyPolicy(abc.ABC):
    """Decides, between iterations, whether sending once more is worth it. One object
    decides for one migration: it may remember.

    :cvar name: as it is asked for: ``--policy NAME[:OPTION=VALUE,...]``.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""

    @abc.abstractmethod
    def decide(self, stats: PrecopyStats) -> Ruling:
        """Say whether pre-copy goes on."""

    @abc.abstractmethod
    def configure(self, options: Mapping[str, str]) -> PrecopyPolicy:
        """A new policy for one migration.

        :param options: as given by the user, name to text.
        :raises UsageError: an unknown option, or a value out of range; lists what there is.
        """
