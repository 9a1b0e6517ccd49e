"""What guests hold: contents that follow from a seed and look like those of real guests.

Of real idle guests, 37 to 51 % of the pages were zero and 24 to 28 % of the others
duplicates. Here it is 40 % and 25 %; the rest are text-like pages with a quarter of
their words at random, so that zstd at level 1 gets to about a third.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xsave import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries

    Words = NDArray[np.uint64]  # (n, 512), pages

WORDS_PER_PAGE = 512
NR_TEMPLATES = 64
NR_SHARED = 256  # contents that several pages have
ZERO_PERCENT, SHARED_QUARTERS = 40, 1

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_EVERY = 4  # one word in so many is random
_STEPS = np.arange(WORDS_PER_PAGE // _EVERY, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)


def mix(values: Entries) -> Entries:
    """A number for each number that tells nothing of it: splitmix64. Wraps silently, so
    only for arrays."""
    mixed: Entries = values * _GOLDEN
    mixed ^= mixed >> np.uint64(30)
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(31)
    return mixed


def numbers(seed: int, first: int, count: int) -> Entries:
    """(count,) u64, the numbers from ``first`` on of an endless row that the seed names."""
    start = mix(np.array([seed], np.uint64))
    return mix(np.arange(first, first + count, dtype=np.uint64) ^ start)


@frozen(eq=False)
class Contents:
    """:ivar templates: (64, 512) u64, made of 64 words of letters each."""

    seed: int
    templates: Words

    @classmethod
    def of(cls, seed: int) -> Contents:
        rng = np.random.default_rng(seed)
        letters = rng.integers(ord("a"), ord("z") + 1, (NR_TEMPLATES, 64, 8), np.uint8)
        words = letters.view(np.uint64)[..., 0]
        chosen = rng.integers(0, 64, (NR_TEMPLATES, WORDS_PER_PAGE))
        return cls(seed, np.take_along_axis(words, chosen, axis=1))

    def keys(self, pfns: Entries) -> tuple[NDArray[np.bool_], Entries]:
        """:returns: (n,) bool, which pages are not zero; and for these, what names the
        contents."""
        hashed = mix(pfns ^ mix(np.array([self.seed], np.uint64)))
        filled = hashed % np.uint64(100) >= ZERO_PERCENT
        keys = hashed[filled]
        shared = keys >> np.uint64(62) < SHARED_QUARTERS
        keys[shared] = mix(keys[shared] % np.uint64(NR_SHARED))
        return filled, keys

    def make(self, keys: Entries, out: Words) -> None:
        """Contents by what names them: (n,) into (n, 512)."""
        which = (keys % np.uint64(NR_TEMPLATES)).astype(np.intp)
        np.take(self.templates, which, axis=0, out=out, mode="clip")
        out[:, ::_EVERY] = mix(keys[:, None] + _STEPS)
