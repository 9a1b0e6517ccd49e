"""Simulated hosts served to other processes. What happens to a client happens to no guest:
one that was paused stays paused, a dirty log stays on, what was half-built stays half-built,
as on a hypervisor whose toolstack is killed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xsave import Domain, DomainInfo, GuestType, TryAgainError, UsageError, XsaveError

from .address import split_socket
from .calls import DOMAIN, HOSTS, find_call
from .connection import Connection, accept
from .domain import SimDomain
from .wire import Message, WireError

if TYPE_CHECKING:
    import socket

    from .backend import SimBackend

MAX_CLIENTS = 32
MAX_PAGES = 4096  # read at once: 16 MiB
# Errors travel by name; any other one comes out as an XsaveError.
ERRORS: Mapping[str, type[XsaveError]] = {
    error.__name__: error for error in (XsaveError, UsageError, TryAgainError, WireError)
}


class Server:
    """:param listener: a listening socket, closed at the end."""

    def __init__(self, backend: SimBackend, listener: socket.socket) -> None:
        self._backend = backend
        self._listener = listener
        self._lock = threading.Lock()
        self._clients: dict[Connection, threading.Thread] = {}

    def run(self) -> None:
        """Serve until :meth:`stop`; each client has a thread of its own."""
        while True:
            try:
                client = accept(self._listener)
            except OSError:
                break  # it was shut down
            self._welcome(client)
        with self._lock:
            left = dict(self._clients)
        for client, thread in left.items():
            client.close()
            thread.join()
        self._listener.close()

    def stop(self) -> None:
        """From any thread, once; clients are cut off between two calls."""
        self._listener.shutdown(2)

    def _welcome(self, client: Connection) -> None:
        with self._lock:
            nr_clients = len(self._clients)
            if nr_clients < 2 * MAX_CLIENTS:
                serve = self._converse if nr_clients < MAX_CLIENTS else self._turn_away
                thread = threading.Thread(
                    target=self._keep, args=[serve, client], name="xsave client", daemon=True
                )
                self._clients[client] = thread
                thread.start()
                return
        client.close()  # there is a limit even to those that are told why

    def _keep(self, serve: Callable[[Connection], None], client: Connection) -> None:
        try:
            serve(client)
        except WireError as error:
            _answer(client, error)
            client.linger()
        except OSError:
            pass  # it was killed, or stopped reading; its guests stay as they are
        finally:
            client.close()
            with self._lock:
                del self._clients[client]
            self._backend.scrub()

    def _converse(self, client: Connection) -> None:
        """Until it goes away, or says what is no call."""
        while (message := client.receive()) is not None:
            items = self._obey(message)
            if isinstance(items, XsaveError):
                _answer(client, items)
            else:
                client.send(Message("done", items))

    def _turn_away(self, client: Connection) -> None:
        if client.receive() is not None:  # an answer before a question could get lost
            _answer(client, TryAgainError(f"sim: these hosts have {MAX_CLIENTS} clients already"))

    def _obey(self, message: Message) -> Sequence[Any] | XsaveError:
        """:returns: what there is to say, or what was refused."""
        call = find_call(message.verb)
        try:
            if message.verb in HOSTS:
                call.check(message.verb, message.items)
                return [getattr(self, f"_{message.verb}")(*message.items)]
            guest_id, *arguments = message.items or [None]
            call.check(message.verb, arguments)
            domain = self._backend.find_id(str(guest_id))
            if domain is None:
                return XsaveError("sim: this guest is no more")
            return _call_domain(domain, message.verb, arguments)
        except WireError:
            raise
        except XsaveError as error:
            return error
        except Exception as error:  # whatever a client sends, the guests of others live on
            return XsaveError(f"sim: {message.verb} failed: {type(error).__name__}: {error}")

    # -- of all hosts ------------------------------------------------------------------

    def _open(self, address: str) -> str:
        return _domain_id(self._backend.open(_of_this_process(address)))

    def _create(self, address: str, info: Mapping[str, Any]) -> str:
        return _domain_id(self._backend.create(_of_this_process(address), info_of(info)))

    def _find(self, guest_id: str) -> bool:
        return self._backend.find_id(guest_id) is not None

    def _host_of(self, address: str) -> Any:
        return self._backend.host_of(_of_this_process(address)).as_map()

    def _guests(self) -> Any:
        return [guest.status for guest in self._backend.guests()]

    def _proofs(self) -> Any:
        return self._backend.proofs()

    def _history(self, name: str) -> Any:
        return self._backend.history(name)


def _domain_id(domain: Domain) -> str:
    assert isinstance(domain, SimDomain)
    return domain.guest.id


def _of_this_process(address: str) -> str:
    if split_socket(address)[1] is not None:
        raise UsageError("sim: a host that is served passes nothing on to another socket")
    return address


def _call_domain(domain: SimDomain, verb: str, arguments: list[Any]) -> Sequence[Any]:
    facet, _, method = verb.rpartition(".")
    call = find_call(verb)
    if not facet and method in _IN_OTHER_WORDS:
        return _IN_OTHER_WORDS[method](domain, *arguments)
    if facet and domain.facet(facet) is None:
        raise XsaveError(f"{domain.guest.name} has no {facet!r} state here")
    asked = getattr(domain.facet(facet) if facet else domain, method)
    if call.is_property:
        return [asked]
    named = {call.keyword: arguments.pop()} if call.keyword else {}
    return [_carried(asked(*arguments, **named))]


def _read_pages(domain: SimDomain, pfns: np.ndarray[Any, Any]) -> Sequence[Any]:
    if len(pfns) > MAX_PAGES:
        raise WireError(f"read_pages: expected at most {MAX_PAGES} pfns, got {len(pfns)}")
    pages = np.zeros((len(pfns), 4096), np.uint8)
    return [pages, domain.read_pages(pfns, pages)]


def _write_pages(domain: SimDomain, pfns: Any, pages: Any) -> Sequence[Any]:
    if len(pfns) != len(pages):
        raise WireError(f"write_pages: {len(pfns)} pfns, but {len(pages)} pages")
    domain.write_pages(pfns, pages)
    return [None]


_IN_OTHER_WORDS: Mapping[str, Callable[..., Sequence[Any]]] = {
    "info": lambda domain: [as_map(domain.info)],
    "read_pages": _read_pages,
    "write_pages": _write_pages,
    "has_facet": lambda domain, name: [domain.facet(name) is not None],
    "step": lambda domain, seconds: [domain.guest.step(min(seconds, 3600))],
}
assert _IN_OTHER_WORDS.keys() <= DOMAIN.keys()


def as_map(info: DomainInfo) -> dict[str, Any]:
    return {
        "name": info.name, "guest_type": info.guest_type.value, "p2m_size": info.p2m_size,
        "nr_vcpus": info.nr_vcpus, "page_size": info.page_size, "xen_version": info.xen_version,
        "details": {key: value for key, value in info.details.items() if _is_plain(value)},
    }  # fmt: skip


def info_of(told: Mapping[str, Any]) -> DomainInfo:
    """:raises WireError: it is none."""
    kinds = [str, str, int, int, int, str, dict]
    try:
        guest_type = GuestType(told["guest_type"])
        info = DomainInfo(**{**told, "guest_type": guest_type})
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"create: what is told of the guest is wrong: {error}") from None
    if list(map(type, as_map(info).values())) != kinds or info.p2m_size < 0 or info.nr_vcpus < 0:
        raise WireError("create: what is told of the guest has wrong types")
    return info


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | bytes)


def _carried(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    return value


def _answer(client: Connection, error: XsaveError) -> None:
    name = type(error).__name__
    with contextlib.suppress(OSError):  # nobody listens
        client.send(Message("refused", [name if name in ERRORS else "XsaveError", str(error)]))
