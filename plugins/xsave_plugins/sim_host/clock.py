"""Guests run beside the pipeline: locks, and the thread that lets time pass for a guest."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

Lock = threading.RLock

TICK_S = 0.01
# A guest that was kept from running (a busy machine) does not make up for all of it.
MAX_TICK_S = 0.1


def now_ns() -> int:
    """On the clock that all processes of this machine share, and that never goes back."""
    return time.monotonic_ns()


class Runner:
    """A thread that calls ``tick`` with the seconds passed on a clock that never goes back,
    about a hundred times a second, until it is stopped, or nobody knows the guest any more.

    :param tick: a method of the guest.
    """

    def __init__(self, tick: Callable[[float], None], name: str) -> None:
        self._tick = weakref.WeakMethod(tick)  # a thread alone keeps no guest alive
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sim {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when no tick runs any more."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(TICK_S):
            tick = self._tick()
            if tick is None:
                return
            now = time.monotonic()
            tick(min(now - last, MAX_TICK_S))
            del tick
            last = now
