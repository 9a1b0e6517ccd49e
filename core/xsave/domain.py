"""Contract: a hypervisor that holds domains. Backends know no stream.

Only the contract: no backend is bundled yet. An address such as ``xen:NAME`` names the
backend before the colon; what follows is the backend's own.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

from attrs import field, frozen

from .record import GuestType

if TYPE_CHECKING:
    from .pages import Entries, Pages


@frozen
class DomainInfo:
    """:ivar p2m_size: number of pfns, highest one plus one.
    :ivar nr_vcpus: highest vcpu id plus one, offline ones included.
    """

    name: str
    guest_type: GuestType
    p2m_size: int
    nr_vcpus: int
    page_size: int = 4096
    xen_version: str = ""
    details: Mapping[str, object] = field(factory=dict)


class Domain(Protocol):
    """One guest, to be saved from or restored into. Not shared between threads."""

    @property
    def info(self) -> DomainInfo: ...

    def pause(self) -> None:
        """Stop all vcpus at a consistent point; returns when they have stopped."""

    def resume(self) -> None:
        """Let them run again: the guest continues here."""

    def page_types(self, pfns: Entries) -> Entries:
        """(n,) u64 entries: the pfns given, with their types in bits 63-60."""

    def map_pages(self, pfns: Entries) -> Pages:
        """(n, page_size) u8, a view of guest memory, valid until the next call.

        :raises XsaveError: a pfn has no page; the message has the first such pfn.
        """

    def populate(self, pfns: Entries) -> None:
        """Give these pfns memory, where they have none yet."""

    def write_pages(self, pfns: Entries, pages: Pages) -> None:
        """(n, page_size) u8 into (n,) populated pfns."""

    def start_dirty_log(self) -> None:
        """From now on, remember which pfns are written."""

    def read_dirty_log(self, *, clean: bool) -> Entries:
        """Ascending pfns written since the last call with ``clean``."""

    def stop_dirty_log(self) -> None: ...

    def close(self) -> None:
        """Let go of all mappings; the guest stays as it is."""


class Backend(abc.ABC):
    """:cvar name: the scheme of its addresses: ``xen`` in ``xen:guest7``."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""

    @abc.abstractmethod
    def open(self, address: str) -> Domain:
        """The domain that an address names, without the scheme.

        :raises UsageError: the address makes no sense to this backend.
        """

    @abc.abstractmethod
    def create(self, address: str, info: DomainInfo) -> Domain:
        """A new, empty, paused domain to restore into."""
