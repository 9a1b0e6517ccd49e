"""The fixtures that are there wherever xsave is installed."""

from __future__ import annotations

from types import SimpleNamespace

from xsave import PluginInfo, PluginManager
from xsave.testing.pytest_plugin import MakeManager


def plugin(name: str) -> SimpleNamespace:
    return SimpleNamespace(PLUGIN=PluginInfo(name, "for a test", (1, 1)))


def test_a_manager_has_just_the_plugins_given(make_manager: MakeManager) -> None:
    assert make_manager().plugins == []
    names = [status.name for status in make_manager(plugin("one"), plugin("two")).plugins]
    assert names == ["one", "two"]


def test_a_manager_may_have_the_installed_plugins_too(
    make_manager: MakeManager, xsave_manager: PluginManager
) -> None:
    installed = [status.name for status in xsave_manager.plugins]
    both = make_manager(plugin("one"), load_installed=True)
    assert [status.name for status in both.plugins] == [*installed, "one"]
