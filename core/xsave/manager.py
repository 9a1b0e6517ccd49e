"""Finds plugins, loads them one by one, and keeps what they offer.

Built, never global: tests and embedding programs make as many as they like, with the
plugins they mean. pluggy's own entry-point loader stops at the first plugin that fails
to import and silently skips a second one of the same name; this loop lists the first
as failed, and refuses the second naming both distributions.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import Distribution, EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy
from attrs import field

from . import hookspecs
from .check import StreamCheck
from .codec import Codec, CodecChoice, parse_codec
from .domain import Backend, Host
from .errors import (
    DuplicateNameError,
    PluginError,
    UnknownNameError,
    UsageError,
    XsaveError,
)
from .format import Format
from .handler import Handler, order_handlers
from .hookspecs import CONTRACT_VERSION, ENTRY_POINT_GROUP, PluginInfo
from .negotiation import GuestOffer, HostDescription, Notice, Refusal, check_plain
from .plugin_option import PluginOption, split_option
from .policy import PrecopyPolicy
from .record import ImageInfo, Owner, RecordType
from .registry import Entry, Registry
from .transport import Transport
from .value_class import define


@define
class PluginStatus:
    """One plugin as found: loaded, or failed and why.

    :ivar error: "" when it loaded.
    :ivar provides: kind of thing to the names offered: {"codec": ["zstd"]}.
    """

    name: str
    distribution: str
    version: str
    module: str
    error: str = ""
    info: PluginInfo | None = None
    hooks: list[str] = field(factory=list)
    provides: dict[str, list[str]] = field(factory=dict)
    load_time_s: float = 0.0

    @property
    def owner(self) -> Owner:
        return Owner(self.name, f"{self.distribution} {self.version}".strip())


class HandlerTable:
    """The record handlers of the plugins in use, and whose the others are.

    :param configured: by name, handlers made with the options of their plugins.
    """

    def __init__(
        self, all_handlers: Registry[Handler], plugins: frozenset[str],
        configured: Mapping[str, Handler] | None = None,
    ) -> None:  # fmt: skip
        self._all = all_handlers
        self._configured = configured or {}
        self.plugins = plugins

    def get(self, kind: RecordType) -> Handler | None:
        """The handler that understands this record, or None."""
        entry = self._all.get(kind.name)
        if entry is None or entry.owner.plugin not in self.plugins:
            return None
        if kind.version > entry.item.version:
            return None
        return self._configured.get(kind.name, entry.item)

    def owner_of(self, kind: RecordType) -> Owner | None:
        """Who would understand it: by the plugins installed, else by the image's word."""
        entry = self._all.get(kind.name)
        return entry.owner if entry is not None else kind.owner

    def identify(self, kind: RecordType) -> RecordType:
        """With owner, version and obligation filled in, where a handler is at hand."""
        entry = self._all.get(kind.name)
        if entry is None or kind.owner is not None:
            return kind
        return RecordType(kind.name, entry.item.version, kind.mandatory, entry.owner)


class PluginManager:
    """What all plugins offer, one registry a kind. Made by :func:`build_manager`."""

    def __init__(self) -> None:
        self.handlers: Registry[Handler] = Registry("record handler")
        self.formats: Registry[Format] = Registry("format")
        self.codecs: Registry[Codec] = Registry("codec")
        self.backends: Registry[Backend] = Registry("domain backend")
        self.transports: Registry[Transport] = Registry("transport")
        self.policies: Registry[PrecopyPolicy] = Registry("pre-copy policy")
        self.plugins: list[PluginStatus] = []
        self._pluggy = pluggy.PluginManager("xsave")
        self._pluggy.add_hookspecs(hookspecs)

    @property
    def _registries(self) -> dict[str, Registry[Any]]:
        return {
            "xsave_register_handlers": self.handlers,
            "xsave_register_formats": self.formats,
            "xsave_register_codecs": self.codecs,
            "xsave_register_backends": self.backends,
            "xsave_register_transports": self.transports,
            "xsave_register_policies": self.policies,
        }

    def load_entry_point(self, entry: EntryPoint) -> None:
        """Import and register one plugin. Whatever it raises is its own failure, except
        that a name offered twice is everyone's."""
        distribution, version = _name_and_version(entry.dist)
        status = PluginStatus(entry.name, distribution, version, entry.value)
        self.plugins.append(status)
        started = time.perf_counter()
        try:
            self._register(entry.load(), status)
        except DuplicateNameError:
            raise
        except (Exception, SystemExit) as error:  # some scripts leave when they are imported
            self._forget(status, error)
        status.load_time_s = time.perf_counter() - started

    def register(self, module: Any, *, distribution: str = "", version: str = "") -> None:
        """Add a plugin that is no entry point: a module or any object with ``PLUGIN`` and
        hook implementations. For tests and embedding programs.

        :raises PluginError: it cannot be used.
        """
        info = _plugin_info(module)
        name = module.__name__ if isinstance(module, ModuleType) else type(module).__name__
        status = PluginStatus(info.name, distribution, version, name)
        if any(known.name == status.name for known in self.plugins):
            first = next(known for known in self.plugins if known.name == status.name)
            raise DuplicateNameError(
                kind="plugin", name=status.name, first=str(first.owner), second=str(status.owner)
            )
        self.plugins.append(status)
        try:
            self._register(module, status)
        except Exception as error:
            self._forget(status, error)
            raise

    def _register(self, module: Any, status: PluginStatus) -> None:
        info = _plugin_info(module)
        if info.name != status.name:
            raise PluginError(
                f"it is entered as {status.name!r} but calls itself {info.name!r} (PLUGIN.name)"
            )
        lowest, highest = info.contract
        if not lowest <= CONTRACT_VERSION <= highest:
            raise PluginError(
                f"it was made for contract versions {lowest} to {highest}, "
                f"and this xsave has {CONTRACT_VERSION}: install a matching version of either"
            )
        status.info = info
        self._pluggy.register(module, name=info.name)
        self._pluggy.check_pending()
        status.hooks = sorted(caller.name for caller in self._pluggy.get_hookcallers(module) or [])
        for hook, registry in self._registries.items():
            implementation = getattr(module, hook, None)
            if hook not in status.hooks or implementation is None:
                continue
            offered = status.provides.setdefault(registry.kind, [])

            def register(
                item: Any, registry: Registry[Any] = registry, offered: list[str] = offered
            ) -> None:
                _check_offer(item, registry, status)
                registry.add(item, status.owner)
                offered.append(item.name)

            implementation(register=register)

    def _forget(self, status: PluginStatus, error: BaseException) -> None:
        """A plugin failed half-way: keep nothing of it but the reason."""
        for registry in self._registries.values():
            registry.drop(status.name)
        if self._pluggy.has_plugin(status.name):
            self._pluggy.unregister(name=status.name)
        status.hooks, status.provides = [], {}
        reason = str(error) or "no reason given"
        status.error = (
            reason if isinstance(error, XsaveError) else f"{type(error).__name__}: {reason}"
        )

    def status(self, plugin: str) -> PluginStatus | None:
        return next((status for status in self.plugins if status.name == plugin), None)

    @property
    def failed(self) -> list[PluginStatus]:
        return [status for status in self.plugins if status.error]

    def handler_table(
        self, plugins: Iterable[str] | None = None, options: Mapping[str, str] | None = None
    ) -> HandlerTable:
        """The handlers of the named plugins and of what they need; None for all.

        :param options: of plugins, ``PLUGIN.NAME`` to value.
        :raises UnknownNameError: a name that is not installed; lists those that are.
        :raises UsageError: an option that there is not, or a value that it cannot have.
        :raises PluginError: a plugin needed here failed to load; or the declared order of
            the records has a cycle.
        """
        loaded = frozenset(status.name for status in self.plugins if not status.error)
        chosen = loaded if plugins is None else self._with_needs(plugins)
        entries = [entry for entry in self.handlers if entry.owner.plugin in chosen]
        order_handlers(entry.item for entry in entries)
        return HandlerTable(self.handlers, chosen, self._configure(entries, chosen, options or {}))

    def find_option(self, key: str) -> PluginOption:
        """What a plugin declares as ``PLUGIN.NAME``.

        :raises UsageError: there is none such; lists those that there are.
        """
        plugin, name = split_option(key)
        declared = {
            status.name: {option.name: option for option in status.info.options}
            for status in self.plugins
            if status.info is not None and status.info.options and not status.error
        }
        if plugin not in declared:
            known = sorted(declared)
            raise UnknownNameError(kind="plugin that has options", name=plugin, known=known)
        if name not in declared[plugin]:
            known = list(declared[plugin])
            raise UnknownNameError(kind=f"option of plugin {plugin}", name=name, known=known)
        return declared[plugin][name]

    def _configure(
        self, entries: Iterable[Entry[Handler]], chosen: frozenset[str], given: Mapping[str, str]
    ) -> dict[str, Handler]:
        """By name, the handlers of plugins that have options, made with these."""
        asked: dict[str, dict[str, str]] = {}
        for key, value in given.items():
            option = self.find_option(key)
            option.check(key, value)
            plugin = key.partition(".")[0]
            if plugin not in chosen:
                among = ", ".join(sorted(chosen))
                raise UsageError(f"option {key}: its plugin is not among those chosen ({among})")
            asked.setdefault(plugin, {})[option.name] = value
        found = {}
        for entry in entries:
            status = self.status(entry.owner.plugin)
            if status is None or status.info is None or not status.info.options:
                continue
            said = asked.get(status.name, {})
            found[entry.item.name] = entry.item.configure({
                option.name: said.get(option.name, option.default)
                for option in status.info.options
            })  # fmt: skip
        return found

    def _with_needs(self, names: Iterable[str]) -> frozenset[str]:
        wanted, chosen = list(names), set[str]()
        while wanted:
            name = wanted.pop()
            status = self.status(name)
            if status is None:
                known = sorted(known.name for known in self.plugins)
                raise UnknownNameError(kind="plugin", name=name, known=known)
            if status.error or status.info is None:
                raise PluginError(f"plugin {name} cannot be used: {status.error}")
            if name not in chosen:
                chosen.add(name)
                wanted += sorted(status.info.needs)
        return frozenset(chosen)

    def record_order(self) -> list[str]:
        """Names of all registered records, in the order of a stream."""
        return order_handlers(entry.item for entry in self.handlers)

    def make_checks(self, info: ImageInfo, plugins: frozenset[str]) -> Sequence[StreamCheck]:
        """The checks that the plugins in use offer for such a stream."""
        unused = [
            self._pluggy.get_plugin(status.name)
            for status in self.plugins
            if status.name not in plugins and not status.error
        ]
        caller = self._pluggy.subset_hook_caller("xsave_make_check", unused)
        return [check for check in caller(info=info) if check is not None]

    def describe_host(self, host: Host) -> dict[str, dict[str, Any]]:
        """What each plugin says of a host, by plugin; one that fails says how."""
        facts: dict[str, dict[str, Any]] = {}
        for status in self.plugins:
            if status.error or "xsave_describe_host" not in status.hooks:
                continue
            said: dict[str, Any] = {}
            try:
                self._caller("xsave_describe_host", status)(host=host, tell=said.update)
                check_plain(said, status.name)
            except Exception as error:
                said = {"error": f"{type(error).__name__}: {error}"}
            facts[status.name] = said
        return facts

    def examine(
        self, guest: GuestOffer, host: HostDescription, plugins: frozenset[str]
    ) -> tuple[list[Refusal], list[Notice]]:
        """What the plugins in use say to a guest that is to go to a host. One that fails
        refuses: nobody knows what it would have said."""
        refusals: list[Refusal] = []
        notices: list[Notice] = []
        for status in self.plugins:
            if status.name not in plugins or "xsave_examine" not in status.hooks:
                continue

            def refuse(name: str, reason: str, remedy: str) -> None:
                refusals.append(Refusal(name, reason, remedy))

            def stay(name: str, text: str, without: Sequence[tuple[str, Any]] = ()) -> None:
                notices.append(Notice(name, text, tuple(without)))

            try:
                self._caller("xsave_examine", status)(
                    guest=guest, host=host, refuse=refuse, stay=stay
                )
            except Exception as error:
                refuse(
                    "plugin-failed", f"plugin {status.name}: {type(error).__name__}: {error}",
                    f"mend plugin {status.name}, or leave it out with --plugins",
                )  # fmt: skip
        return refusals, notices

    def _caller(self, hook: str, status: PluginStatus) -> Any:
        """That hook of that plugin only."""
        module = self._pluggy.get_plugin(status.name)
        others = [plugin for plugin in self._pluggy.get_plugins() if plugin is not module]
        return self._pluggy.subset_hook_caller(hook, others)

    def doctor(self) -> list[tuple[str, str, bool, str]]:
        """(plugin, what was looked at, whether it is fine, remark), from every plugin."""
        found: list[tuple[str, str, bool, str]] = []
        for status in self.plugins:
            if status.error:
                found.append((status.name, "loads", False, status.error))
                continue
            found.append((status.name, "loads", True, f"{status.load_time_s * 1000:.1f} ms"))
            examine = getattr(self._pluggy.get_plugin(status.name), "xsave_doctor", None)
            if examine is None or "xsave_doctor" not in status.hooks:
                continue

            def report(what: str, fine: bool, remark: str, name: str = status.name) -> None:
                found.append((name, what, fine, remark))

            try:
                examine(report=report)
            except Exception as error:  # one plugin's doctor does not silence the others
                found.append(
                    (status.name, "xsave_doctor", False, f"{type(error).__name__}: {error}")
                )
        return found

    def choose_codec(self, text: str) -> CodecChoice:
        """Understand ``NAME[:LEVEL]``; where the name belongs to a plugin that failed to
        load, say that instead."""
        try:
            return parse_codec(text, self.codecs.find)
        except UnknownNameError as error:
            status = self.status(error.name)
            if status is not None and status.error:
                raise PluginError(f"codec {error.name} cannot be used: {status.error}") from None
            raise

    def choose_policy(self, text: str) -> PrecopyPolicy:
        """Understand ``NAME[:OPTION=VALUE,...]``: a policy for one migration."""
        name, _, rest = text.partition(":")
        options = {}
        for part in filter(None, rest.split(",")):
            option, equals, value = part.partition("=")
            if not equals:
                raise UsageError(f"policy {name}: {part!r} is no OPTION=VALUE")
            options[option] = value
        return self.policies.find(name).configure(options)


def build_manager(
    plugins: Iterable[Any] | None = None, *, load_installed: bool | None = None
) -> PluginManager:
    """Make a manager.

    :param plugins: modules or objects to register beside, or instead of, the installed.
    :param load_installed: load the entry points of group ``xsave``; by default only when
        no ``plugins`` are given.
    :raises DuplicateNameError: two distributions enter a plugin of the same name, or two
        plugins offer the same thing.
    """
    manager = PluginManager()
    if load_installed or (load_installed is None and plugins is None):
        for entry in _distinct(entry_points(group=ENTRY_POINT_GROUP)):
            manager.load_entry_point(entry)
    for plugin in plugins or ():
        manager.register(plugin)
    return manager


def _distinct(entries: Iterable[EntryPoint]) -> list[EntryPoint]:
    """In order of name; the same name from two distributions is an error."""
    # A distribution can be found twice on the path (an editable install seen from its own
    # folder): the same name from the same distribution is one plugin.
    found = {(entry.name, _name_and_version(entry.dist)[0]): entry for entry in entries}
    for name, count in Counter(name for name, _ in found).items():
        if count > 1:
            first, second, *_ = sorted(dist or "an unnamed one" for n, dist in found if n == name)
            raise DuplicateNameError(
                kind="plugin", name=name,
                first=f"distribution {first}", second=f"distribution {second}",
            )  # fmt: skip
    return [found[key] for key in sorted(found)]


@functools.lru_cache(maxsize=64)
def _name_and_version(distribution: Distribution | None) -> tuple[str, str]:
    """Once for each distribution: its metadata is parsed anew whenever it is asked for, and
    asking thirty times took 15 ms."""
    if distribution is None:
        return "", ""
    metadata = distribution.metadata
    return metadata["Name"], metadata["Version"]


def _plugin_info(module: Any) -> PluginInfo:
    info = getattr(module, "PLUGIN", None)
    if not isinstance(info, PluginInfo):
        raise PluginError("it declares no PLUGIN = PluginInfo(name, summary, contract)")
    return info


_CONTRACTS: dict[str, type] = {
    "record handler": Handler,
    "format": Format,
    "codec": Codec,
    "domain backend": Backend,
    "transport": Transport,
    "pre-copy policy": PrecopyPolicy,
}


def _check_offer(item: Any, registry: Registry[Any], status: PluginStatus) -> None:
    """Find a mistake in an offer while it is still its plugin's own: later it would break
    the order of records, or the choice of a format, for everyone."""
    contract = _CONTRACTS[registry.kind]
    if not isinstance(item, contract):
        raise PluginError(
            f"it offers {item!r} as a {registry.kind}: expected an object of a class "
            f"derived from {contract.__name__}"
        )
    wanted = ("name", "phase") if contract is Handler else ("name",)
    for attribute in wanted:
        if not hasattr(item, attribute):
            raise PluginError(f"the {registry.kind} {type(item).__name__} has no {attribute}")
    if not isinstance(item, Format):
        return
    for entry in registry:
        if shared := sorted(set(item.suffixes) & set(entry.item.suffixes)):
            raise DuplicateNameError(
                kind="format suffix", name=shared[0],
                first=str(entry.owner), second=str(status.owner),
            )  # fmt: skip
