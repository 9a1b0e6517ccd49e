"""What tests of the core share: standard input and output that a test chooses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest


@pytest.fixture
def stand_in() -> Iterator[Callable[[int, int], None]]:
    """``stand_in(fd, other)`` puts another descriptor at the place of 0 or 1."""
    with ExitStack() as stack:

        def put(fd: int, other: int) -> None:
            kept = os.dup(fd)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, fd)
            os.dup2(other, fd)

        yield put


@pytest.fixture
def terminal() -> Iterator[int]:
    controller, device = os.openpty()
    yield device
    os.close(device)
    os.close(controller)
