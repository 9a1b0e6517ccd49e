"""State that goes out beside memory, counted by the pass over memory that it went with."""

from __future__ import annotations

from attrs import field

from ..handler import StateStream
from ..progress import StatePass, StateReport
from ..record import Record
from ..value_class import define, frozen

PAUSED, BEFORE = "paused", "before"


@frozen
class _Mark:
    """All that went out when a pass ended."""

    name: str
    nr_records: int = 0
    body_bytes: int = 0
    values: tuple[int, ...] = ()


@define
class BesideMemory:
    """One stream of state, and what the report says of it.

    :ivar plugin: whose it is.
    """

    plugin: str
    stream: StateStream
    report: StateReport = field(init=False)
    _marks: list[_Mark] = field(init=False, factory=lambda: [_Mark("")])
    _nr_records: int = field(init=False, default=0)
    _body_bytes: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.report = StateReport(self.plugin)

    def went_out(self, record: Record) -> None:
        self._nr_records += 1
        self._body_bytes += len(record.body)

    def mark(self, name: str) -> None:
        """A pass ended, or what followed it before the next began."""
        figures = list(self.stream.figures())
        values = tuple(figure.value for figure in figures)
        if self._marks[-1].name == name:
            self._marks.pop()
        self._marks.append(_Mark(name, self._nr_records, self._body_bytes, values))
        before, after = self._marks[-2:]
        grown = {
            figure.name: figure.value - (before.values[place] if before.values else 0)
            for place, figure in enumerate(figures)
        }
        report = self.report
        report.figures = figures
        del report.passes[len(self._marks) - 2 :]
        report.passes.append(
            StatePass(
                name, after.nr_records - before.nr_records, after.body_bytes - before.body_bytes,
                grown,
            )
        )  # fmt: skip
