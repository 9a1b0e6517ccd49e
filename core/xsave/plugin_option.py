"""Contract: what a user may ask of a plugin beside choosing it.

An option is declared (``PluginInfo.options``), so that ``xsave plugins`` can list it and a
mistake is found before anything is begun. Its value holds for one run: the plugin's handlers
are asked for ones made with it (:meth:`Handler.configure`), and keep nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field

from .errors import UsageError
from .value_class import frozen

SOURCE, DEST = "source", "dest"


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(texts)


@frozen
class PluginOption:
    """:ivar name: as in ``--option PLUGIN.NAME=VALUE``.
    :ivar summary: one line.
    :ivar values: that it can have; the first is the default.
    :ivar ends: of a run which it is about where they are domains, ``source`` or ``dest`` or
        both: it is refused in a run where it could do nothing.
    """

    name: str
    summary: str
    values: tuple[str, ...] = field(converter=_texts)
    ends: tuple[str, ...] = field(default=(SOURCE,), converter=_texts)

    @property
    def default(self) -> str:
        return self.values[0]

    def check(self, key: str, value: str) -> None:
        """:raises UsageError: it cannot have this value; lists those that it can."""
        if value not in self.values:
            raise UsageError(f"option {key}: expected {' or '.join(self.values)}, got {value!r}")


def split_option(key: str) -> tuple[str, str]:
    """``PLUGIN.NAME`` as plugin and name.

    :raises UsageError: it is no such thing.
    """
    plugin, dot, name = key.partition(".")
    if not (plugin and dot and name):
        raise UsageError(f"{key!r} is no option of a plugin: expected PLUGIN.NAME")
    return plugin, name
