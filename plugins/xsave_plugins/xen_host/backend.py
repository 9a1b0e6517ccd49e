"""The ``xen`` backend: addresses to domains of this host."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsave import Backend, DomainInfo, UsageError

if TYPE_CHECKING:
    from xsave import Domain

    from .connection import Connection

_LOCATOR = re.compile(r"(\d{1,5})/([0-9a-f-]{36})")
_NAME = re.compile(r"[A-Za-z0-9_.:+-]{1,128}")


class XenBackend(Backend):
    """``xen:NAME`` or ``xen:DOMID``, in dom0."""

    name = "xen"
    summary = "domains of this Xen host, from its dom0"

    def open(self, address: str) -> Domain:
        if not _NAME.fullmatch(address):
            raise UsageError(f"xen: expected xen:NAME or xen:DOMID, got xen:{address}")
        from .connection import Connection
        from .domain import SavedDomain
        from .guard import Guard

        connection = Connection()
        try:
            domid = _find(connection, address)
            locator = locator_of(connection, domid)
        except BaseException:
            connection.close()
            raise
        return SavedDomain(connection, domid, guard=Guard(locator, puts_back=True))

    def find(self, locator: str) -> Domain | None:
        if not (found := _LOCATOR.fullmatch(locator)):
            raise UsageError(f"xen: expected DOMID/UUID, got {locator!r}")
        from .connection import Connection
        from .domain import SavedDomain

        connection = Connection()
        try:
            is_there = _is(connection, int(found[1]), found[2])
        except BaseException:
            connection.close()
            raise
        if not is_there:
            connection.close()
            return None
        return SavedDomain(connection, int(found[1]), resumes=True)

    def create(self, address: str, info: DomainInfo) -> Domain:
        """A domain needs more than its records: disks, networks, a device model, all of which
        the toolstack makes after its configuration."""
        raise UsageError(
            "xen: a domain is restored through its toolstack, which makes its devices: "
            "xsave convert IMAGE guest.xl --to xl, then xl restore guest.xl"
        )


def _find(connection: Connection, name: str) -> int:
    from .toolstack import find_domid

    domid = find_domid(connection.store, name)
    if domid == 0:
        raise UsageError("xen: domain 0 is the host itself, and stays here")
    return domid


def locator_of(connection: Connection, domid: int) -> str:
    """Number and uuid: numbers of domains that have ended are given out again."""
    from .control import Control

    return f"{domid}/{Control(connection.hypercalls, domid).state().uuid}"


def _is(connection: Connection, domid: int, uuid: str) -> bool:
    from .control import Control, NoDomainError

    try:
        state = Control(connection.hypercalls, domid).state()
    except NoDomainError:
        return False
    return str(state.uuid) == uuid and not state.dying
