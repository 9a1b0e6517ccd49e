"""Iterations and guests for these tests, in pages of 4096 bytes at round rates."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from xsave import Iteration, PrecopyPolicy, PrecopyStats, Ruling

PAGE = 4096
MIB = 1 << 20


def iteration(
    nr_pages: int = 25600, duration_s: float = 1.0, nr_dirty: int = 0, share: float = 1.0
) -> Iteration:
    """25600 pages in a second are 100 MiB/s."""
    return Iteration(
        number=0, nr_sent=nr_pages, nr_pages=nr_pages, sent_bytes=nr_pages * PAGE,
        duration_s=duration_s, nr_dirty=nr_dirty, share=share,
    )  # fmt: skip


def stats(*iterations: Iteration) -> PrecopyStats:
    numbered = [evolve(one, number=number) for number, one in enumerate(iterations)]
    return PrecopyStats(numbered, p2m_size=1 << 20, page_size=PAGE)


def drive(
    policy: PrecopyPolicy, dirty: Sequence[int], *, shares: Sequence[float] | None = None
) -> list[Ruling]:
    """What the policy says after each of these iterations, which all sent 100 MiB in a
    second and left so many pages dirty.

    :param shares: that the guest was left; None for what the policy asked for.
    """
    rulings: list[Ruling] = []
    done: list[Iteration] = []
    for number, nr_dirty in enumerate(dirty):
        asked = rulings[-1].share if rulings else 1.0
        share = asked if shares is None else shares[number]
        done.append(iteration(nr_dirty=nr_dirty, share=share))
        rulings.append(policy.decide(stats(*done)))
    return rulings
