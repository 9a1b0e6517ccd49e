"""Threads for what releases the interpreter: compression, checksums of large buffers.

Results come back in the order of submission, so that what is written does not depend
on how many threads there were.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of threads that is made when it is first used.

    :param nr_threads: 0 for as many as there are processors to run on; 1 runs everything
        in the caller.
    """

    def __init__(self, nr_threads: int = 0) -> None:
        self.nr_threads = nr_threads or len(os.sched_getaffinity(0))
        self._pool: ThreadPoolExecutor | None = None

    def submit(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[], T]:
        """Start a call; the result is had by calling what is returned, which waits."""
        # Importing it takes 4 ms: a tenth of what a command needs that submits nothing.
        from concurrent.futures import Future, ThreadPoolExecutor

        if self.nr_threads == 1:
            future: Future[T] = Future()
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)
            return future.result
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.nr_threads, thread_name_prefix="xsave")
        return self._pool.submit(function, *args, **kwargs).result

    def close(self) -> None:
        """End the threads; what has not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: Any) -> None:
        self.close()
