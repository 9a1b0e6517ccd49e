"""The programs of this folder, as modules for their tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def load_bench() -> Callable[[str], ModuleType]:
    """Load ``NAME.py`` of this folder, which is no package, without running it."""

    def load(name: str) -> ModuleType:
        full_name = f"xsave_bench_{name}"
        if full_name not in sys.modules:
            spec = importlib.util.spec_from_file_location(
                full_name, Path(__file__).with_name(f"{name}.py")
            )
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[full_name] = module
            spec.loader.exec_module(module)
        return sys.modules[full_name]

    return load
