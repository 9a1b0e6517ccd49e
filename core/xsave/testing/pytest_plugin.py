"""pytest fixtures that are there wherever xsave is installed.

Loaded by every pytest run in such an environment, so it imports nothing but pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from ..manager import PluginManager

# The suites' assertions are to show values when they fail, as those of test files do.
pytest.register_assert_rewrite(
    "xsave.testing.codec_suite", "xsave.testing.format_suite", "xsave.testing.handler_suite"
)


class MakeManager(Protocol):
    def __call__(self, *plugins: Any, load_installed: bool = False) -> PluginManager:
        """A new manager with these plugin modules or objects."""


@pytest.fixture
def make_manager() -> MakeManager:
    """Make a manager with just the plugins given, or those beside the installed ones."""
    from ..manager import build_manager

    def make(*plugins: Any, load_installed: bool = False) -> PluginManager:
        return build_manager(plugins, load_installed=load_installed)

    return make


@pytest.fixture
def xsave_manager(make_manager: MakeManager) -> PluginManager:
    """A new manager with all installed plugins."""
    return make_manager(load_installed=True)
