"""The two ends of a run: an image, or a domain on a hypervisor.

Each destination makes a writer once the source's headers are known, counts what it took,
and at the end either commits (the image appears, the guest is complete) or leaves nothing.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from ..domain import Backend, Domain, DomainInfo
from ..errors import UnknownNameError, UsageError
from ..format import Format, WriteOptions, Writer
from ..io.sink import Pace, open_sink
from ..manager import HandlerTable, PluginManager
from ..record import ImageInfo
from ..value_class import frozen
from .collect import in_order, prepare
from .restore import PFN_LIMIT, DomainWriter
from .stream import is_salvaged

# Two characters at least, so that no drive letter or single-letter file is meant.
SCHEME = re.compile(r"([a-z][a-z0-9-]+):(.*)", re.DOTALL)


@frozen
class DomainAddress:
    """``sim:pv?memory=64M`` taken apart."""

    backend: Backend
    rest: str


class _Given(Backend):
    """Stands for a domain that the caller has opened or made: no address leads to it."""

    name = "domain"

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def open(self, address: str) -> Domain:
        return self._domain

    def create(self, address: str, info: DomainInfo) -> Domain:
        return self._domain


def domain_address(where: Any, manager: PluginManager) -> DomainAddress | None:
    """:returns: None for anything but a domain or the address of one; an existing file is a
        file, whatever its name.
    :raises UnknownNameError: it looks like one, but no such backend is there.
    """
    if isinstance(where, Domain):
        return DomainAddress(_Given(where), "")
    if not isinstance(where, str) or (found := SCHEME.fullmatch(where)) is None:
        return None
    if Path(where).exists():
        return None
    scheme, rest = found.groups()
    entry = manager.backends.get(scheme)
    if entry is None:
        raise UnknownNameError(kind="domain backend", name=scheme, known=manager.backends.names())
    return DomainAddress(entry.item, rest)


class Destination(Protocol):
    """:ivar name: of the format, or of the backend."""

    name: str

    def open(self, info: ImageInfo) -> Writer: ...

    def taken_bytes(self) -> int:
        """What it took so far."""

    def drop(self) -> None:
        """It will not be wanted; take what comes and do nothing with it, where that is less
        work."""

    def commit(self) -> None:
        """Everything is there."""


class ImageDestination:
    """:param limit: bytes a second, 0 for no limit."""

    def __init__(
        self, stack: ExitStack, where: Any, format_: Format, options: WriteOptions, limit: int
    ) -> None:
        self.name = format_.name
        self._format = format_
        self._options = options
        self._sink = stack.enter_context(open_sink(where, Pace(limit) if limit else None))
        if format_.needs_file and not self._sink.is_file:
            raise UsageError(f"format {format_.name} is written into a file, not into a pipe")

    def open(self, info: ImageInfo) -> Writer:
        return self._format.writer(self._sink, info, self._options)

    def taken_bytes(self) -> int:
        return self._sink.taken_bytes

    def drop(self) -> None:
        self._sink.drop()

    def commit(self) -> None:
        self._sink.commit()


class DomainDestination:
    """A guest being built. It never runs before :meth:`commit` or :meth:`fall_back`. If neither
    is reached it is destroyed, unless a whole checkpoint of it has come: then it stays, as of
    that and paused. If :meth:`give_up` came after it was complete it is destroyed, too.

    :param limit: bytes a second, 0 for no limit.
    """

    def __init__(
        self, stack: ExitStack, address: DomainAddress, manager: PluginManager,
        handlers: HandlerTable, limit: int,
    ) -> None:  # fmt: skip
        self.name = address.backend.name
        self._pace = Pace(limit) if limit else None
        self.domain: Domain | None = None
        self._address = address
        self._manager = manager
        self._handlers = handlers
        self._writer: DomainWriter | None = None
        self._complete = self._unwanted = False
        stack.callback(self._close)

    def open(self, info: ImageInfo) -> Writer:
        # An image keeps under "source" what its source said about itself.
        kept = info.details.get("source")
        details = kept if isinstance(kept, dict) else info.details
        if is_salvaged(info):
            raise UsageError("the image was salvaged: parts of the guest are missing")
        if details.get("redacted"):
            raise UsageError("the image was redacted: the guest's data is gone, so it cannot run")
        size, name = details.get("p2m_size"), details.get("name")
        about = DomainInfo(
            name=name if isinstance(name, str) else "restored",
            guest_type=info.guest_type,
            p2m_size=size if isinstance(size, int) and 0 <= size <= PFN_LIMIT else 0,
            nr_vcpus=0,
            page_size=info.page_size,
            xen_version=info.xen_version,
            details=details,
        )
        self.domain = self._address.backend.create(self._address.rest, about)
        prepare(in_order(self._manager, self._handlers, info.guest_type))
        self._writer = DomainWriter(self.domain, self._manager, self._handlers, self._pace)
        return self._writer

    def taken_bytes(self) -> int:
        return 0 if self._writer is None else self._writer.taken_bytes

    def drop(self) -> None:
        """A domain is destroyed at the end anyway."""

    def commit(self) -> None:
        self._complete = True

    def fall_back(self) -> bool:
        """The stream broke off. :returns: whether a guest stays, as of a whole checkpoint."""
        self._complete = self._writer is not None and self._writer.fall_back()
        return self._complete

    @property
    def nr_checkpoints(self) -> int:
        """Whole ones that came; with any, the guest being built is a standby."""
        return 0 if self._writer is None else self._writer.nr_checkpoints

    @property
    def ended(self) -> bool:
        """Whether the stream said that it was over."""
        return self._writer is not None and self._writer.ended

    def give_up(self) -> None:
        """It was complete, and is not wanted."""
        self._complete = False
        self._unwanted = True

    def _close(self) -> None:
        if self.domain is None:
            return
        with ExitStack() as each:
            each.callback(self.domain.close)
            each.callback(self._destroy_unless_complete)
            if self._writer is not None:
                each.callback(self._writer.close)
            if not self._complete and not self._unwanted:
                self.fall_back()  # interrupted

    def _destroy_unless_complete(self) -> None:
        if self.domain is not None and not self._complete:
            self.domain.destroy()


def same_file(source: Any, dest: Any) -> bool:
    """Whether both are paths of one regular file."""
    if not isinstance(source, str | os.PathLike) or not isinstance(dest, str | os.PathLike):
        return False
    if "-" in (source, dest) or not Path(source).is_file() or not Path(dest).exists():
        return False
    return Path(source).samefile(dest)
