"""Guests whose streams go on after a checkpoint, and what they were at each of their pauses.

What they were is found by the simulated host's own means; nothing of the pipeline is used.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, field

import xsave
from xsave import Checkpoints
from xsave.pipeline.save import DomainReader

PERIOD_S = 0.05
_numbers = itertools.count()


@define
class Watched:
    """A guest, and its fingerprint at each pause so far."""

    manager: xsave.PluginManager
    name: str
    kind: str
    guest: Any
    pauses: list[Mapping[str, bytes]] = field(factory=list)

    @property
    def address(self) -> str:
        return f"sim:{self.kind}?name={self.name}"

    def end(self) -> None:
        self.guest.destroy()


def boot(manager: xsave.PluginManager, kind: str, options: str, clock: str = "manual") -> Watched:
    backend: Any = manager.backends.find("sim")
    name = f"protected{next(_numbers)}"
    guest = backend.open(f"{kind}?memory=4M&{options}&clock={clock}&name={name}").guest
    watched = Watched(manager, name, kind, guest)
    pause = guest.pause

    def pause_and_note() -> None:
        pause()
        watched.pauses.append(guest.fingerprint().as_digests())

    guest.pause = pause_and_note
    return watched


def record(watched: Watched, to: str, count: int, codec: str | None = None) -> bytes:
    """A stream with so many checkpoints; time passes only between these, and at reads."""
    manager, guest = watched.manager, watched.guest
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds
        guest.step(seconds)

    out = io.BytesIO()
    domain = manager.backends.find("sim").open(f"{watched.kind}?name={watched.name}")
    reader = DomainReader(
        domain, manager, manager.handler_table(), manager.choose_policy("fixed:iterations=2"),
        out.tell, lambda: now, checkpoints=Checkpoints(PERIOD_S, count), wait=wait,
    )  # fmt: skip
    try:
        xsave.run(reader, out, to=to, codec=codec, manager=manager)
    finally:
        reader.release("resume")
        domain.close()
    return out.getvalue()


def events(data: bytes, manager: xsave.PluginManager) -> Iterator[Any]:
    """What is in a stream, without contents of pages."""
    from xsave.pipeline.stream import open_stream
    from xsave.workers import Workers

    with Workers(1) as pool:
        opened = open_stream(
            io.BytesIO(data), manager, pool, pages=lambda _format: xsave.PageMode.SKIP
        )
        yield from opened.reader
