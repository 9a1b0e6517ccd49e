"""The page in which a simulated guest keeps what it knows of itself.

It is ordinary memory and travels as such: a guest that was moved finds there what it was
doing, and goes on with it. Words of 64 bits, by index.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from .address import WORKLOADS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STATE_PFN = 1
MAGIC = int.from_bytes(b"xsavesim", "little")
VERSION = 1


class Word(enum.IntEnum):
    MAGIC = 0
    VERSION = enum.auto()
    WORKLOAD = enum.auto()  # index into WORKLOADS
    RATE = enum.auto()  # bytes a second
    SEED = enum.auto()
    COUNTER = enum.auto()  # goes up by one whenever the guest runs
    RUN_NS = enum.auto()
    CREDIT = enum.auto()  # bytes * 1e9 that may be written still
    POSITION = enum.auto()  # pages written so far
    FIRST_PFN = enum.auto()  # of the memory that the workload writes to
    NR_PFNS = enum.auto()
    NR_ORDINARY = enum.auto()  # pfns from FIRST_PFN on that the guest could use
    BALLOON_PFN = enum.auto()
    BALLOON_SIZE = enum.auto()
    BALLOON_OUT = enum.auto()  # pfns that have no memory now, from BALLOON_PFN on
    BALLOON_GROWS = enum.auto()
    NR_SUSPENDS = enum.auto()
    # PV only
    START_INFO_PFN = 32
    STORE_PFN = enum.auto()
    CONSOLE_PFN = enum.auto()
    GDT_PFN = enum.auto()
    LIST_LIST_PFN = enum.auto()  # frame list list
    LIST_PFN = enum.auto()
    NR_LISTS = enum.auto()
    P2M_PFN = enum.auto()
    NR_P2M = enum.auto()
    P2M_SIZE = enum.auto()
    KERNEL_L4_PFN = enum.auto()
    USER_L4_PFN = enum.auto()
    DIRECT_L1_PFN = enum.auto()
    USER_L2_PFN = enum.auto()
    USER_L1_PFN = enum.auto()
    NR_USER_L1 = enum.auto()
    CHURN = enum.auto()  # changes of page tables so far


class StatePage:
    """:param row: (512,) u64, the page itself, not a copy."""

    def __init__(self, row: NDArray[np.uint64]) -> None:
        self._row = row

    @property
    def is_valid(self) -> bool:
        """False for guests that were not made here, such as real ones."""
        return self[Word.MAGIC] == MAGIC and self[Word.VERSION] == VERSION

    @property
    def workload(self) -> str:
        return WORKLOADS[self[Word.WORKLOAD] % len(WORKLOADS)]

    def __getitem__(self, word: Word) -> int:
        return int(self._row[word])

    def __setitem__(self, word: Word, value: int) -> None:
        self._row[word] = value
