"""``xsave plugins``: what is installed, whether it loaded, and what it provides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import click

from .options import PLUGIN, json_option, pass_settings
from .settings import Settings

if TYPE_CHECKING:
    from ..manager import PluginManager, PluginStatus
    from ..plugin_option import PluginOption
    from ..registry import Registry
    from .tree import Node


@click.command("plugins")
@click.argument("name", type=PLUGIN, required=False)
@json_option
@pass_settings
def command(settings: Settings, name: str | None) -> int:
    """List the plugins with version, status and what they provide.

    With NAME, one plugin in detail: its hooks, and each record it handles, in the order in
    which they stand in a stream. A plugin that failed is listed with the reason; it costs
    only itself.

    \b
    Examples:
      xsave plugins
      xsave plugins hvm
      xsave plugins --json | jq -r '.plugins[] | select(.status == "failed").error'
    """
    from ..errors import UnknownNameError
    from ..manager import build_manager
    from .output import write_json, write_text
    from .tree import write_tree

    manager = build_manager()
    listed = manager.plugins
    if name is not None:
        status = manager.status(name)
        if status is None:
            known = sorted(known.name for known in listed)
            raise UnknownNameError(kind="plugin", name=name, known=known)
        listed = [status]
    if settings.json:
        write_json(settings, "plugins", plugins_as_json(manager, listed))
    elif name is not None:
        write_tree(plugin_tree(manager, listed[0]))
    else:
        write_text(plugin_table(manager))
    return 0


def plugins_as_json(manager: PluginManager, listed: list[PluginStatus]) -> dict[str, Any]:
    """What docs/schemas/plugins.json describes, without its ``schema``."""
    from ..hookspecs import CONTRACT_VERSION

    return {
        "contract_version": CONTRACT_VERSION,
        "plugins": [_plugin_as_json(manager, status) for status in listed],
    }


def _plugin_as_json(manager: PluginManager, status: PluginStatus) -> dict[str, Any]:
    info = status.info
    return {
        "name": status.name,
        "summary": info.summary if info else "",
        "distribution": status.distribution,
        "version": status.version,
        "module": status.module,
        "status": "failed" if status.error else "loaded",
        "error": status.error,
        "contract": list(info.contract) if info else None,
        "needs": sorted(info.needs) if info else [],
        "options": [attrs.asdict(option) for option in info.options] if info else [],
        "hooks": status.hooks,
        "provides": {
            kind: [_item_as_json(item) for item in items]
            for kind, items in provided(manager, status).items()
        },
        "load_time_s": status.load_time_s,
    }


def provided(manager: PluginManager, status: PluginStatus) -> dict[str, list[Any]]:
    """Kind to what the plugin offers of it; records in the order of a stream."""
    registries: tuple[Registry[Any], ...] = (
        manager.formats, manager.codecs, manager.backends, manager.transports, manager.policies,
        manager.handlers,
    )  # fmt: skip
    places = {name: place for place, name in enumerate(manager.record_order())}
    return {
        registry.kind: sorted(
            (registry.find(name) for name in status.provides[registry.kind]),
            key=lambda item: (places.get(item.name, 0), item.name),
        )
        for registry in registries
        if status.provides.get(registry.kind)
    }


def _item_as_json(item: Any) -> dict[str, Any]:
    from ..codec import Codec
    from ..format import Format
    from ..handler import Handler

    shown: dict[str, Any] = {"name": item.name, "summary": getattr(item, "summary", "")}
    if isinstance(item, Handler):
        shown |= {
            "version": item.version,
            "mandatory": item.mandatory,
            "phase": item.phase.name.lower(),
            "guest_types": sorted(kind.value for kind in item.guest_types),
            "before": sorted(item.before),
            "after": sorted(item.after),
        }
    elif isinstance(item, Format):
        shown |= {
            "suffixes": list(item.suffixes),
            "readable": item.readable,
            "writable": item.writable,
        }
    elif isinstance(item, Codec):
        shown |= {"levels": list(item.levels), "default_level": item.default_level}
    return shown


def plugin_table(manager: PluginManager) -> list[str]:
    from .output import columns

    rows = [("PLUGIN", "VERSION", "STATUS", "CONTRACT", "LOAD", "PROVIDES", "HOOKS")]
    failed: list[str] = []
    for status in manager.plugins:
        version = f"{status.distribution} {status.version}".strip()
        load = f"{status.load_time_s * 1000:.1f} ms"
        contract = "{}-{}".format(*status.info.contract) if status.info else "-"
        hooks = ", ".join(hook.removeprefix("xsave_") for hook in status.hooks)
        if status.error:
            failed.append(f"{status.name} FAILED to load: {status.error}")
        rows.append((status.name, version, "FAILED" if status.error else "loaded", contract,
                     load, _count_provided(status), hooks))  # fmt: skip
    return [*columns(rows), *([""] if failed else []), *failed]


def _count_provided(status: PluginStatus) -> str:
    parts = []
    for kind, names in status.provides.items():
        if kind == "record handler":
            parts.append(f"{len(names)} record{'s' if len(names) != 1 else ''}")
        else:
            parts.append(f"{kind}{'s' if len(names) != 1 else ''} {', '.join(names)}")
    return "; ".join(parts) or "nothing"


def plugin_tree(manager: PluginManager, status: PluginStatus) -> Node:
    from .tree import Node

    info = status.info
    facts = [
        Node("from", f"{status.distribution} {status.version}, module {status.module}".strip()),
        Node("status", f"FAILED: {status.error}" if status.error else "loaded"),
        Node("load time", f"{status.load_time_s * 1000:.1f} ms"),
    ]
    if info is not None:
        facts += [
            Node("contract", f"versions {info.contract[0]} to {info.contract[1]}"),
            Node("needs", ", ".join(sorted(info.needs)) or "no other plugin"),
            Node("hooks", ", ".join(status.hooks)),
        ]
        if info.options:
            facts.append(Node("options", "", [_option_node(status.name, o) for o in info.options]))
    for kind, items in provided(manager, status).items():
        facts.append(Node(f"{kind}s", "", [Node(i.name, _about_item(i)) for i in items]))
    return Node(status.name, info.summary if info else "", facts)


def _option_node(plugin: str, option: PluginOption) -> Node:
    """With the default first."""
    from .tree import Node

    values = " or ".join(option.values)
    ends = " or ".join(option.ends)
    about = f"{option.summary}; {values}, default {option.default}; of a domain as {ends}"
    return Node(f"{plugin}.{option.name}", about)


def _about_item(item: Any) -> str:
    facts = _item_as_json(item)
    parts = [facts["summary"]] if facts["summary"] else []
    if "phase" in facts:
        parts.append(facts["phase"].replace("_", " "))
        parts.append("mandatory" if facts["mandatory"] else "optional")
        if facts["version"] != 1:
            parts.append(f"version {facts['version']}")
    elif "levels" in facts and facts["levels"] != [0, 0]:
        low, high = facts["levels"]
        parts.append(f"levels {low} to {high}, default {facts['default_level']}")
    elif "suffixes" in facts:
        parts += facts["suffixes"]
        can = [
            word
            for word, is_so in (("reads", facts["readable"]), ("writes", facts["writable"]))
            if is_so
        ]
        parts.append(" and ".join(can))
    return "; ".join(parts)
