"""What the tests of this plugin share: real bodies, and made-up ones."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

RECORDS = Path(__file__).parents[2] / "golden" / "records"
HEADER = struct.pack("<IIQII", 0x54381286, 1, 2**64 - 1, 0x60FB1, 2596128)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], bytes]:
    """The body of a real record, by the name of its file without ``.bin``."""
    return lambda name: (RECORDS / f"{name}.bin").read_bytes()


def _save_record(typecode: int, payload: bytes = b"", instance: int = 0) -> bytes:
    return struct.pack("<HHI", typecode, instance, len(payload)) + payload


@pytest.fixture(scope="session")
def save_record() -> Callable[..., bytes]:
    """``save_record(typecode, payload, instance)``: descriptor and payload."""
    return _save_record


@pytest.fixture(scope="session")
def context() -> Callable[..., bytes]:
    """``context(save_record, ...)``: those between HEADER and END."""
    return lambda *parts: _save_record(1, HEADER) + b"".join(parts) + _save_record(0)
