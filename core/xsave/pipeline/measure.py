"""How a running domain dirties its memory: its log, looked at ever later."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..domain import Domain
from ..errors import UsageError
from ..estimate import Trace

ROUNDS = 2  # so that there are means
FIRST_LOOK_S = 0.05
_PFNS = 1 << 20  # asked about at once


def measure_trace(
    domain: Domain, seconds: float, clock: Callable[[], float], wait: Callable[[float], object],
    *, about: str = "",
) -> Trace:  # fmt: skip
    """Watch a guest work; it is not paused, and no page is read.

    :param seconds: in all.
    :param clock: seconds, never going back; :param wait: for so many of them.
    :raises UsageError: less than a tenth of a second.
    """
    import numpy as np

    if not seconds >= 2 * FIRST_LOOK_S:
        raise UsageError(f"a guest must be watched for {2 * FIRST_LOOK_S:g} s at least")
    samples = []
    domain.start_dirty_log()
    try:
        for _ in range(ROUNDS):
            domain.read_dirty_log(clean=True)
            began = clock()
            for look_s in looks(seconds / ROUNDS):
                wait(max(0.0, began + look_s - clock()))
                passed_s = clock() - began
                nr_dirty = int(np.count_nonzero(domain.read_dirty_log(clean=False)))
                samples.append((passed_s, nr_dirty))
    finally:
        domain.stop_dirty_log()
    nr_pages = max(1, count_contents(domain))
    return Trace(
        nr_pages,
        tuple((passed_s, min(nr_dirty, nr_pages)) for passed_s, nr_dirty in samples),
        domain.info.page_size,
        about,
    )


def looks(seconds: float) -> Iterator[float]:
    """0.05, 0.1, 0.2, 0.5, 1, 2, 5 ... and at the end: each a good deal later than the one
    before."""
    number, look_s = 0, FIRST_LOOK_S
    while look_s < seconds * 0.9:
        yield look_s
        number += 1
        look_s = FIRST_LOOK_S * (1, 2, 4, 10)[number % 3] * 10 ** (number // 3)
    yield seconds


def count_contents(domain: Domain) -> int:
    """Pages that an iteration over everything would send."""
    import numpy as np

    from ..pages import carries_page

    count = 0
    for start in range(0, domain.info.p2m_size, _PFNS):
        end = min(start + _PFNS, domain.info.p2m_size)
        entries = domain.page_types(np.arange(start, end, dtype=np.uint64))
        count += int(np.count_nonzero(carries_page(entries)))
    return count
