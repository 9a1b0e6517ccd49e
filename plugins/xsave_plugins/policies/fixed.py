"""Policy ``fixed``: so many iterations, or hardly anything dirty; blind to time.

Xen's own rule (``simple_precopy_policy`` in tools/libs/guest/xg_sr_save.c): five passes while
the guest runs, or until fewer than 50 pages are dirty. Xen sends those few once more before it
pauses the guest; here the last pass sends them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from xsave import Decision, PrecopyPolicy, PrecopyStats, Ruling, frozen

from . import words
from .options import read_options, whole_option

_OPTIONS = (whole_option("iterations", "nr_iterations", 1), whole_option("dirty", "nr_dirty", 0))


@frozen(eq=False)
class FixedPolicy(PrecopyPolicy):
    """:ivar nr_iterations: at most so many while the guest runs.
    :ivar nr_dirty: fewer dirty pages than this are not worth another; 0 for never.
    """

    name: ClassVar[str] = "fixed"
    summary: ClassVar[str] = "Xen's rule: stop after iterations=5, or with fewer than dirty=50"

    nr_iterations: int = 5
    nr_dirty: int = 50

    def configure(self, options: Mapping[str, str]) -> FixedPolicy:
        return FixedPolicy(**read_options(self.name, _OPTIONS, options))

    def decide(self, stats: PrecopyStats) -> Ruling:
        last, nr_done = stats.last, len(stats.iterations)
        dirty = f"{words.pages(last.nr_dirty)} dirty ({words.mib(last.nr_dirty * stats.page_size)})"
        took = (
            f"the last took {words.ms(last.duration_s)} at "
            f"{words.mib_per_s(last.pages_per_s * stats.page_size)}"
        )
        if last.nr_dirty < self.nr_dirty:
            return Ruling(
                Decision.STOP_AND_COPY,
                f"{dirty}, fewer than {self.nr_dirty}, after {words.iterations(nr_done)}; {took}",
            )
        if nr_done >= self.nr_iterations:
            return Ruling(
                Decision.STOP_AND_COPY,
                f"{words.iterations(nr_done)}, as many as there may be, with {dirty}; {took}",
            )
        return Ruling(
            Decision.CONTINUE, f"{dirty} after iteration {nr_done} of {self.nr_iterations}; {took}"
        )
