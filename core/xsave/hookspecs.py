"""The plugin contract: ten hooks. The whole of it, together with what they register.

Contract version: :data:`CONTRACT_VERSION`. It grows by one when a hook or a contract
class changes so that a plugin could notice; each plugin declares the range it was made
for (``PLUGIN = PluginInfo(..., contract=(1, 1))``) and is listed as failed outside it.

Hooks run when a command starts, or once for each stream; never for each record or page.
All implementations of a hook are called: the registries refuse a name that is offered
twice, with :class:`DuplicateNameError` naming both plugins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy
from attrs import field

from .plugin_option import PluginOption
from .value_class import frozen

if TYPE_CHECKING:
    from .check import StreamCheck
    from .codec import Codec
    from .domain import Backend, Host
    from .format import Format
    from .handler import Handler
    from .negotiation import GuestOffer, HostDescription, Refuse, Stay
    from .policy import PrecopyPolicy
    from .record import ImageInfo
    from .transport import Transport

CONTRACT_VERSION = 1
ENTRY_POINT_GROUP = "xsave"

hookspec = pluggy.HookspecMarker("xsave")
hookimpl = pluggy.HookimplMarker("xsave")


def _names(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


@frozen
class PluginInfo:
    """What a plugin module says of itself, as its attribute ``PLUGIN``.

    :ivar name: as in ``--plugins``; the same as the entry point's.
    :ivar summary: one line.
    :ivar contract: lowest and highest contract version it was made for.
    :ivar needs: names of plugins whose records its own make no sense without; they come
        along when ``--plugins`` names this one.
    :ivar options: what a user may ask of it; see :meth:`xsave.Handler.configure`.
    """

    name: str
    summary: str
    contract: tuple[int, int]
    needs: frozenset[str] = field(default=frozenset(), converter=_names)
    options: tuple[PluginOption, ...] = ()


@hookspec
def xsave_register_handlers(register: Callable[[Handler], None]) -> None:
    """Offer record handlers. Called once, before any stream is opened.

    :param register: takes one handler object. On conflict: a name that another plugin
        already offered is a DuplicateNameError.
    """


@hookspec
def xsave_register_formats(register: Callable[[Format], None]) -> None:
    """Offer image formats. Called once, before any stream is opened.

    :param register: takes one format object. On conflict: DuplicateNameError, also for a
        suffix; when two formats recognise the same input, reading it stops and names both.
    """


@hookspec
def xsave_register_codecs(register: Callable[[Codec], None]) -> None:
    """Offer codecs. Called once, before any stream is opened.

    :param register: takes one codec object. On conflict: DuplicateNameError.
    """


@hookspec
def xsave_register_backends(register: Callable[[Backend], None]) -> None:
    """Offer domain backends. Called once, before any address is opened.

    :param register: takes one backend object, whose name is the scheme of its addresses.
        On conflict: DuplicateNameError.
    """


@hookspec
def xsave_register_transports(register: Callable[[Transport], None]) -> None:
    """Offer transports. Called once, before any address is opened.

    :param register: takes one transport object, whose name is the scheme of its
        addresses. On conflict: DuplicateNameError.
    """


@hookspec
def xsave_register_policies(register: Callable[[PrecopyPolicy], None]) -> None:
    """Offer pre-copy policies. Called once, before any migration.

    :param register: takes one policy object. On conflict: DuplicateNameError.
    """


@hookspec
def xsave_make_check(info: ImageInfo) -> StreamCheck | None:
    """Offer a check that spans several records. Called once for each stream, when its
    headers are known; only for plugins that are in use (``--plugins``).

    :param info: of the stream.
    :returns: a new check, or None if there is nothing to watch in such a stream. All
        checks run; the first that raises stops the stream.
    """


@hookspec
def xsave_doctor(report: Callable[[str, bool, str], None]) -> None:
    """Say what this plugin finds on this machine. Called by ``xsave doctor`` only, so it
    may import and try what is otherwise loaded late.

    :param report: takes what was looked at, whether it is fine, and a remark: what was
        found, or how to mend it. There is no conflict: all remarks are printed.
    """


@hookspec
def xsave_describe_host(host: Host, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Say what this host can do for guests that have state of this plugin. Called once for
    each description of a host: when a source asks for one, and by ``xsave describe-host``.

    :param host: of the backend into which guests would be restored.
    :param tell: takes facts by name: text, numbers, truths, lists and maps of them. They
        travel, and may be kept in a file. There is no conflict: each plugin's facts are its
        own.
    """


@hookspec
def xsave_examine(guest: GuestOffer, host: HostDescription, refuse: Refuse, stay: Stay) -> None:
    """Find out whether a guest can go to a host with its state of this plugin. Called at both
    ends before the guest is touched, and by ``xsave preflight``; only for plugins in use
    (``--plugins``). Looks at what it is given and at nothing else.

    :param guest: with the records that stand before its first page, decoded.
    :param host: with what this plugin said there; nothing if it is not there.
    :param refuse: takes name, reason and remedy: the guest cannot go. There is no conflict:
        all refusals are told.
    :param stay: takes a name, what will be otherwise there, and the records that stay
        behind for that: pairs of name and :meth:`Handler.key`, or None for all of a name.
    """
