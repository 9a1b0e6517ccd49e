"""A guest on a simulated host of another process: the contract, call by call, over a socket."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from xsave import Domain, DomainInfo, Entries, Pages, TryAgainError, UsageError, XsaveError

from .abilities import Abilities, from_map
from .address import locator
from .calls import FACETS
from .connection import Connection, connect
from .server import ERRORS, MAX_PAGES, as_map, info_of
from .wire import Message, WireError

if TYPE_CHECKING:
    from .domain import Flags

_ENTRIES_AT_ONCE = 1 << 20


class Hosts:
    """The simulated hosts that a process serves.

    :param path: of its socket.
    :raises TryAgainError: nobody serves there now.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - as text
        self._connection: Connection = connect(path)

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def call(self, verb: str, *items: Any) -> Sequence[Any]:
        """:returns: what came back; pages are valid until the next call.
        :raises XsaveError: as the host raised it.
        :raises TryAgainError: the host went away; whether it did what was asked is not known.
        """
        try:
            self._connection.send(Message(verb, items))
            answer = self._connection.receive()
        except OSError as error:
            raise self._gone(str(error)) from None
        if answer is None:
            raise self._gone("it closed the connection")
        if answer.verb == "done" and len(answer.items) > 0:
            return answer.items
        if answer.verb == "refused" and len(answer.items) == 2:
            name, reason = answer.items
            raise ERRORS.get(str(name), XsaveError)(str(reason))
        raise WireError(f"sim: the host at {self.path} answered with {answer.verb!r}")

    def connect_again(self) -> None:
        """After the connection was lost. :raises TryAgainError: nobody serves there now."""
        self._connection.close()
        self._connection = connect(self.path)

    def open(self, address: str) -> RemoteDomain:
        """As the backend's. This connection is the domain's from now on, as with the next
        two."""
        return self._domain("open", address)

    def create(self, address: str, info: DomainInfo) -> RemoteDomain:
        return self._domain("create", address, as_map(info))

    def find(self, guest_id: str) -> RemoteDomain | None:
        """None for one that is no more."""
        if self.call("find", guest_id)[0] is True:
            return RemoteDomain(self, guest_id)
        self.close()
        return None

    def host_of(self, address: str) -> Abilities:
        """As the backend's; this connection ends with it."""
        try:
            return from_map(self.call("host_of", address)[0])
        finally:
            self.close()

    def guests(self) -> Sequence[Mapping[str, Any]]:
        """Of all hosts there, what each is and does; see ``Guest.status``."""
        told: Sequence[Mapping[str, Any]] = self.call("guests")[0]
        return told

    def guest(self, name: str) -> Mapping[str, Any] | None:
        """The one of that name, if there is one."""
        found = [guest for guest in self.guests() if guest["name"] == name]
        if len(found) > 1:
            raise UsageError(f"sim: several hosts at {self.path} have a guest {name}")
        return found[0] if found else None

    def proofs(self) -> Mapping[str, Mapping[str, Mapping[str, bytes]]]:
        """What hosts kept of guests with ``prove=yes``: ``left`` and ``arrived``, by name of
        the guest, digests by what they are of."""
        told: Mapping[str, Mapping[str, Mapping[str, bytes]]] = self.call("proofs")[0]
        return told

    def history(self, name: str) -> Sequence[tuple[int, str, str, str]]:
        """When guests of that name with ``prove=yes`` ran, stood still and ended there: see
        ``Host.history``. Of processes of one machine, the times can be compared."""
        told: Sequence[tuple[int, str, str, str]] = self.call("history", name)[0]
        return told

    def close(self) -> None:
        self._connection.close()

    def _domain(self, verb: str, *items: Any) -> RemoteDomain:
        try:
            return RemoteDomain(self, self.call(verb, *items)[0])
        except BaseException:
            self.close()
            raise

    def _gone(self, why: str) -> TryAgainError:
        return TryAgainError(f"sim: the host at {self.path} does not answer: {why}")


class RemoteDomain(Domain):
    """Used by one thread, like every domain."""

    def __init__(self, hosts: Hosts, guest_id: str) -> None:
        self._hosts = hosts
        self._id = guest_id

    @property
    def info(self) -> DomainInfo:  # type: ignore[override]  # only looked at: guests grow
        return info_of(self._ask("info"))

    @property
    def locator(self) -> str:
        return locator(self._id, self._hosts.path)

    def pause(self) -> None:
        self._ask("pause")

    def resume(self) -> None:
        """:raises TryAgainError: the host cannot be reached: whether it runs is not known.
        Whatever else is raised, it did not start."""
        try:
            self._ask("resume")
        except TryAgainError:
            self._hosts.connect_again()
            if self._hosts.call("find", self._id)[0] is not True:
                raise
            self._ask("resume")  # harmless where the first one was heard

    def destroy(self) -> None:
        """Harmless when it is no more."""
        if self._hosts.call("find", self._id)[0] is True:
            self._ask("destroy")

    def page_types(self, pfns: Entries) -> Entries:
        parts = [self._ask("page_types", part) for part in _parts(pfns, _ENTRIES_AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)

    def read_pages(self, pfns: Entries, out: Pages) -> Flags:
        good = np.zeros(len(pfns), np.bool_)
        for start in range(0, len(pfns), MAX_PAGES):
            part = slice(start, start + MAX_PAGES)
            out[part], good[part] = self._hosts.call("read_pages", self._id, pfns[part])
        return good

    def populate(self, pfns: Entries) -> None:
        for part in _parts(pfns, _ENTRIES_AT_ONCE):
            self._ask("populate", part)

    def depopulate(self, pfns: Entries) -> None:
        for part in _parts(pfns, _ENTRIES_AT_ONCE):
            self._ask("depopulate", part)

    def write_pages(self, pfns: Entries, pages: Pages) -> None:
        for start in range(0, len(pfns), MAX_PAGES):
            part = slice(start, start + MAX_PAGES)
            self._ask("write_pages", pfns[part], pages[part])

    def start_dirty_log(self) -> None:
        self._ask("start_dirty_log")

    def read_dirty_log(self, *, clean: bool) -> Flags:
        dirty: Flags = self._ask("read_dirty_log", clean)
        return dirty

    def stop_dirty_log(self) -> None:
        self._ask("stop_dirty_log")

    def is_at_rest(self) -> bool:
        return bool(self._ask("is_at_rest"))

    def throttle(self, share: float) -> bool:
        return bool(self._ask("throttle", share))

    def fingerprint(self) -> Mapping[str, bytes]:
        digests: Mapping[str, bytes] = self._ask("fingerprint")
        return digests

    def step(self, seconds: float) -> None:
        """Let a guest whose clock is manual run for so long."""
        self._ask("step", seconds)

    def facet(self, name: str) -> Any:
        if name not in FACETS or not self._ask("has_facet", name):
            return None
        return RemoteFacet(self, name)

    def close(self) -> None:
        """The guest is the host's, and stays as it is."""
        self._hosts.close()

    def _ask(self, verb: str, *items: Any) -> Any:
        return self._hosts.call(verb, self._id, *items)[0]


class RemoteFacet:
    """Has the methods and properties that :data:`.calls.FACETS` lists for its name."""

    def __init__(self, domain: RemoteDomain, name: str) -> None:
        self._domain = domain
        self._name = name

    def __getattr__(self, method: str) -> Any:
        call = FACETS[self._name].get(method)
        if call is None:
            raise AttributeError(f"facet {self._name!r} has no {method!r}")
        verb = f"{self._name}.{method}"
        if call.is_property:
            return self._domain._ask(verb)
        if call.keyword:
            return lambda *given, **named: self._domain._ask(verb, *given, *named.values())
        return partial(self._domain._ask, verb)


def _parts(pfns: Entries, count: int) -> Sequence[Entries]:
    return [pfns[start : start + count] for start in range(0, len(pfns), count)]
