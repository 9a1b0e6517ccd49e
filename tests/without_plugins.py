"""A pytest plugin: the tests run as if ``plugins/`` were deleted and nothing were installed.

python -m pytest -p tests.without_plugins tests/core
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import xsave.manager
from xsave.hookspecs import ENTRY_POINT_GROUP


class Deleted:
    """Finds no bundled plugin, and ends the search for it."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if name.partition(".")[0] == "xsave_plugins":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def nothing_installed(*, group: str) -> list[EntryPoint]:
    assert group == ENTRY_POINT_GROUP
    return []


assert "xsave_plugins" not in sys.modules
sys.meta_path.insert(0, Deleted)
xsave.manager.entry_points = nothing_installed  # type: ignore[attr-defined,assignment]  # for the whole run
