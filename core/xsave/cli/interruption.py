"""SIGINT, SIGTERM and SIGHUP end a command the same way: what it began is undone, exit 130.

The signal becomes a KeyboardInterrupt, which also ends a read from a pipe that says
nothing; every ``with`` on the way out cleans up. A second signal does not interrupt that.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within it, the signals raise KeyboardInterrupt; what was ignored (nohup) stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    before = {
        number: handler
        for number in SIGNALS
        if (handler := signal.getsignal(number)) not in {signal.SIG_IGN, None}
    }
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
