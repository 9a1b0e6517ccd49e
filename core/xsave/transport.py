"""Contract: a way to carry bytes between two ends. Transports know no records.

Only the contract: no transport is bundled yet. Files and pipes need none.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar, Protocol

from .record import Buffer


class Channel(Protocol):
    """A connected pair of byte streams. Blocking; one thread a direction."""

    def write_parts(self, parts: Sequence[Buffer]) -> None:
        """All parts in order, with one system call where possible."""

    def read_into(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``; the number of bytes, 0 at the end."""

    def close(self) -> None: ...


class Transport(abc.ABC):
    """:cvar name: the scheme of its addresses."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""

    @abc.abstractmethod
    def connect(self, address: str) -> Channel:
        """Reach the other end. :raises TryAgainError: it does not answer now."""

    @abc.abstractmethod
    def accept(self, address: str) -> Channel:
        """Wait for one other end to reach this address."""
