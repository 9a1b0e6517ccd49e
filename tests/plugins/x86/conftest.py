from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

RECORDS = Path(__file__).parents[2] / "golden" / "records"


@pytest.fixture(scope="session")
def golden_body() -> Callable[[str], memoryview]:
    """A record of a real image by its name in tests/golden/records."""
    return lambda name: memoryview((RECORDS / f"{name}.bin").read_bytes())
