"""What a run tells while it goes on, and when it is over."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen

from .record import ImageInfo


@frozen
class Progress:
    """:ivar bytes_done: of the source, taken so far.
    :ivar bytes_total: of the source, None for a pipe.
    :ivar nr_pages: pages with contents so far.
    :ivar elapsed_s: since the run began.
    """

    stage: str
    bytes_done: int
    bytes_total: int | None
    nr_pages: int
    elapsed_s: float

    @property
    def bytes_per_s(self) -> float:
        return self.bytes_done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Estimated; None while there is nothing to estimate from."""
        if self.bytes_total is None or self.bytes_per_s == 0:
            return None
        return max(self.bytes_total - self.bytes_done, 0) / self.bytes_per_s


ProgressCallback = Callable[[Progress], None]


@define
class RecordCount:
    """How often a record came by, and what became of it."""

    name: str
    plugin: str = ""
    mandatory: bool = True
    understood: bool = True
    version: int = 1
    count: int = 0
    body_bytes: int = 0


@define
class RunReport:
    """What a run did.

    :ivar carried: optional records nobody here understands, taken along unchanged.
    :ivar left_out: optional records the destination's format has no place for.
    :ivar headers_left_out: headers of the source's container, likewise: an xl file's
        configuration is no part of a libxl stream. The guest's state is whole without them.
    """

    source: ImageInfo
    source_bytes: int = 0
    dest_format: str = ""
    dest_bytes: int = 0
    codec: str = ""
    plugins: list[str] = field(factory=list)
    records: dict[str, RecordCount] = field(factory=dict)
    nr_batches: int = 0
    nr_pfns: int = 0
    nr_pages: int = 0
    elapsed_s: float = 0.0
    left_out: dict[str, int] = field(factory=dict)
    headers_left_out: list[str] = field(factory=list)

    @property
    def carried(self) -> list[str]:
        return [count.name for count in self.records.values() if not count.understood]

    @property
    def partial(self) -> bool:
        return bool(self.left_out)
