"""Options and arguments that several commands share, and how they complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from .logs import set_verbosity
from .settings import Settings

if TYPE_CHECKING:
    from ..manager import PluginManager

    _ParamType = click.ParamType[str]
else:
    _ParamType = click.ParamType  # not generic before click 8.4

F = TypeVar("F", bound=Callable[..., Any])


class Name(_ParamType):
    """Something that plugins provide, by name. Unknown names are the library's to refuse:
    only there is it known what is registered.

    :param names: of all there are, with a line about each; asked for by completion only.
    :param ending: of a completed name, where the argument goes on: ``NAME=FILE``.
    """

    def __init__(
        self, name: str, names: Callable[[PluginManager], dict[str, str]], *,
        is_list: bool = False, ending: str = "",
    ) -> None:  # fmt: skip
        self.name = name
        self._names = names
        self._is_list = is_list
        self._ending = ending

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[Any]]:
        from ..errors import XsaveError
        from ..manager import build_manager

        try:
            names = self._names(build_manager())
        except XsaveError:
            return []
        before, comma, begun = incomplete.rpartition(",") if self._is_list else ("", "", incomplete)
        return [
            CompletionItem(f"{before}{comma}{name}{self._ending}", help=summary or None)
            for name, summary in sorted(names.items())
            if name.startswith(begun)
        ]


def _records(manager: PluginManager) -> dict[str, str]:
    return {entry.item.name: entry.item.summary for entry in manager.handlers}


def _summaries(manager: PluginManager) -> dict[str, str]:
    return {s.name: s.info.summary for s in manager.plugins if s.info is not None and not s.error}


def _plugin_options(manager: PluginManager) -> dict[str, str]:
    return {
        f"{status.name}.{option.name}": f"{option.summary} ({' or '.join(option.values)})"
        for status in manager.plugins
        if status.info is not None and not status.error
        for option in status.info.options
    }


def _writable(manager: PluginManager) -> dict[str, str]:
    return {e.item.name: e.item.summary for e in manager.formats if e.item.writable}


CODEC = Name("codec", lambda manager: {e.item.name: e.item.summary for e in manager.codecs})
FORMAT = Name("format", _writable)
PLUGIN = Name("plugin", _summaries)
PLUGINS = Name("plugins", _summaries, is_list=True)
POLICY = Name("policy", lambda manager: {e.item.name: e.item.summary for e in manager.policies})
RECORD = Name("record", _records)
RECORDS = Name("records", _records, is_list=True)
ADDITION = Name("name=file", _records, ending="=")
PLUGIN_OPTION = Name("plugin option", _plugin_options, ending="=")
# Not looked at here: an address may be a path, -, or a domain.
ADDRESS = click.Path(allow_dash=True)


def _set(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def set_it(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        settings = context.find_object(Settings)
        if settings is not None and value is not None:
            setattr(settings, attribute, value)

    return set_it


def _set_quiet(context: click.Context, _parameter: click.Parameter, quiet: bool) -> None:
    if quiet:
        _set_verbose(context, _parameter, -1)


def _set_verbose(context: click.Context, _parameter: click.Parameter, verbosity: int) -> None:
    settings = context.find_object(Settings)
    if settings is None or not verbosity:
        return
    if settings.verbosity and (settings.verbosity < 0) != (verbosity < 0):
        raise click.UsageError("-q and -v contradict each other", context)
    settings.verbosity = verbosity
    set_verbosity(verbosity)


def _split(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> Sequence[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise click.BadParameter(f"{text!r} is not a list of names with commas between them")
    return names


def json_option(function: F) -> F:
    return click.option(
        "--json", is_flag=True, is_eager=True, expose_value=False, callback=_set("json"),
        help="Print one JSON object instead of text.",
    )(function)  # fmt: skip


def plugins_option(function: F) -> F:
    return click.option(
        "--plugins", type=PLUGINS, metavar="A,B", callback=_split, envvar="XSAVE_PLUGINS",
        show_envvar=True,
        help="Handle only the records of these plugins, and of those that they need.",
    )(function)  # fmt: skip


def _split_plugin_options(
    _context: click.Context, _parameter: click.Parameter, given: Sequence[str]
) -> dict[str, str]:
    options: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{text!r} is not PLUGIN.NAME=VALUE")
        if key in options:
            raise click.BadParameter(f"{key} is given twice")
        options[key] = value
    return options


def plugin_options_option(function: F) -> F:
    """Becomes the parameter ``options``, a dict."""
    return click.option(
        "--option", "options", type=PLUGIN_OPTION, multiple=True,
        metavar="PLUGIN.NAME=VALUE", callback=_split_plugin_options,
        help="Ask something of a plugin: 'xsave plugins NAME' lists what there is. May be "
        "given several times.",
    )(function)  # fmt: skip


def base_option(what: str) -> Callable[[F], F]:
    """:param what: the help, in a sentence."""
    return click.option("--base", type=click.Path(), metavar="FILE", help=what)


OF_A_SUCCESSOR = "The earlier image that it was written against."


def telling_options(function: F) -> F:
    """``--progress``, ``-q`` and ``-v``."""
    for option in (
        click.option(
            "-v", "--verbose", count=True, expose_value=False, callback=_set_verbose,
            help="Tell more; twice: everything, and tracebacks of bugs.",
        ),
        click.option(
            "-q", "--quiet", is_flag=True, expose_value=False, callback=_set_quiet,
            help="Tell only what is wrong.",
        ),
        click.option(
            "--progress/--no-progress", default=None, expose_value=False,
            callback=_set("progress"),
            help="Show progress on standard error; by default when that is a terminal.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def workers_option(function: F) -> F:
    return click.option(
        "--workers", type=click.IntRange(min=1), default=None, metavar="N",
        help="Threads to compress or decompress with; by default one for each processor.",
    )(function)  # fmt: skip


pass_settings = click.make_pass_decorator(Settings, ensure=True)
