"""Closing what other threads may be using."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable


class Guard:
    """As a context: in use. What is guarded is let go of when it is closed and nobody is
    within any more; so no number of a descriptor belongs to something else while a thread is
    about to read or write it.

    :param wake: makes those who wait within come out. Called once.
    :param let_go: called once, last.
    """

    def __init__(self, wake: Callable[[], None], let_go: Callable[[], None]) -> None:
        self.closed = False
        self._wake = wake
        self._let_go = let_go
        self._nr_users = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.check()
            self._nr_users += 1

    def __exit__(self, *_exc: object) -> None:
        with self._lock:
            self._nr_users -= 1
            last = self.closed and not self._nr_users
        if last:
            self._let_go()

    def close(self) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed = True
            if self._nr_users:
                self._wake()
                return  # who leaves last lets go
        self._let_go()

    def check(self) -> None:
        """:raises OSError: it is closed."""
        if self.closed:
            raise OSError(errno.EBADF, "it was closed")
