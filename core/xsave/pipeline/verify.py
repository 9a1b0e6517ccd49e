"""Is this image whole and right? Strictly, and with the place of what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import field

from ..domain import Domain
from ..errors import StreamError
from ..format import Format, PageMode
from ..manager import HandlerTable, PluginManager, build_manager
from ..progress import ProgressCallback, RunReport
from ..value_class import define
from ..workers import Workers
from .base import open_base
from .collect import Collector
from .look import DomainLook, Look, open_domain
from .run import DEFAULT_POLICY
from .save import DomainReader
from .stream import Watch, is_salvaged, open_stream, used_plugins


@define
class VerifyReport(RunReport):
    """What was looked at, and found right.

    :ivar fast: only the structure was looked at; page contents were passed over.
    :ivar digest: xxh3-128 of all bytes of the input, hexadecimal; "" when fast.
    :ivar look: of a domain: how it was looked at.
    :ivar not_understood: mandatory records whose plugin is not here: their framing and
        checksums are right, their contents were not looked at.
    """

    fast: bool = False
    digest: str = ""
    look: Look | None = None
    not_understood: list[str] = field(factory=list)

    @property
    def partial(self) -> bool:
        return bool(self.not_understood) or self.is_source_partial


def verify(
    source: Any,
    *,
    fast: bool = False,
    plugins: Iterable[str] | None = None,
    base: str | Path | None = None,
    workers: int = 0,
    manager: PluginManager | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> VerifyReport:
    """Read an image as strictly as a restorer would, and more so; or a domain, as an image that
    would be saved of it now: live, and thrown away. A domain has no digest.

    Framing, order, every record's fields, the rules that span records; of a native image
    every checksum and the seal.

    :param source: as for :func:`xsave.run`.
    :param fast: pass over page contents where the input can seek.
    :param base: the image that this one was written against: its structure and seal are looked
        at, and that it has the pages referred to. Without it, what is in this image is.
    :raises StreamError: what is wrong, and where.
    """
    import xxhash

    manager = manager or build_manager()
    handlers = manager.handler_table(plugins)
    digest = xxhash.xxh3_128()

    def mode(_format: Format) -> PageMode:
        return PageMode.SKIP if fast else PageMode.CHECK

    with Workers(workers) as pool, ExitStack() as stack:
        domain = open_domain(stack, source, manager, base)
        if domain is not None:
            return _verify_domain(stack, domain, manager, handlers, progress, cancelled, fast=fast)
        hasher = None if fast else digest.update
        opened = open_stream(
            source, manager, pool, pages=mode, hasher=hasher, base=open_base(stack, base)
        )
        try:
            report = VerifyReport(opened.reader.info, fast=fast)
            bytes_in = opened.source
            watch = Watch(
                manager, handlers, opened.reader, report,
                lambda: (bytes_in.offset, bytes_in.size_bytes), progress, cancelled,
                stage="verify", tolerate_missing=True,
            )  # fmt: skip
            for _event, _state in watch.events():
                pass
        finally:
            opened.source.close()
    if is_salvaged(report.source):
        raise StreamError(
            "every piece is right, but the image was salvaged from a damaged one: parts of the "
            "guest are missing"
        )
    _count(report)
    report.digest = "" if fast else digest.hexdigest()
    return report


def _count(report: VerifyReport) -> None:
    report.plugins = used_plugins(report.records.values())
    report.not_understood = [
        count.name for count in report.records.values() if not count.understood and count.mandatory
    ]


def _verify_domain(
    stack: ExitStack, domain: Domain, manager: PluginManager, handlers: HandlerTable,
    progress: ProgressCallback | None, cancelled: Callable[[], bool] | None, *, fast: bool,
) -> VerifyReport:  # fmt: skip
    """As if it were saved while it runs, but for state beside memory, which would change what
    the guest may do; or, fast, its types and state while it is paused."""
    reader: DomainReader | DomainLook
    if fast:
        reader = DomainLook(domain, manager, handlers, at_rest=True)
    else:
        policy = manager.choose_policy(DEFAULT_POLICY)
        reader = DomainReader(domain, manager, handlers, policy, lambda: 0, with_beside=False)
        stack.callback(reader.release, "resume")
    report = VerifyReport(reader.info, fast=fast)
    watch = Watch(
        manager, handlers, reader, report, lambda: (0, None), progress, cancelled, stage="verify",
        tolerate_missing=True,
    )  # fmt: skip
    for _event, _state in watch.events():
        pass
    if isinstance(reader, DomainReader):
        reader.release("resume")
        not_looked_at = Collector(domain, manager, handlers).streaming()
        report.look = Look(reader.report.downtime.total_s, 0, not_looked_at)
    else:
        report.look = reader.look
    _count(report)
    return report
