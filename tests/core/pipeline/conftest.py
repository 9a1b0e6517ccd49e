"""The toy world, and an ordinary image of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core import toy
from xsave import PluginManager


@pytest.fixture(scope="session")
def manager() -> PluginManager:
    return toy.make_manager()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.toy"
    path.write_bytes(toy.image())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    return made
