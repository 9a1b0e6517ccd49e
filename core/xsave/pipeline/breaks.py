"""Telling that a link is broken at the moment: nothing else goes on then that could tell it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import evolve

from ..progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from ..link.link import Link

LOOK_S = 0.5


@contextmanager
def breaks_told(link: Link, progress: ProgressCallback | None) -> Iterator[ProgressCallback | None]:
    """Within it, what was told last is told again, as ``reconnecting``, while the link is broken.

    :param progress: who is told; None for nobody.
    """
    if progress is None:
        yield None
        return
    teller = _Teller(link, progress)
    thread = threading.Thread(target=teller.look, name="xsave looks at the link", daemon=True)
    thread.start()
    try:
        yield teller
    finally:
        teller.ended.set()
        thread.join()


class _Teller:
    def __init__(self, link: Link, progress: ProgressCallback) -> None:
        self.ended = threading.Event()
        self._link = link
        self._progress = progress
        self._last: Progress | None = None
        self._lock = threading.Lock()  # one tells at a time

    def __call__(self, progress: Progress) -> None:
        with self._lock:
            self._last = progress
            self._progress(progress)

    def look(self) -> None:
        while not self.ended.wait(LOOK_S):
            if self._link.is_broken:
                with self._lock:
                    if self._last is not None:
                        stage = f"{self._last.stage}: reconnecting"
                        self._progress(evolve(self._last, stage=stage))
