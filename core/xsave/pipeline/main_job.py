"""The main job: guests that keep changing their memory are saved, restored and moved while
they run, and what arrives is proved to be what left.

Which guests those are is said by the one backend that offers some for it. The proof is the
backend's own: digests of the source and of the destination at the same moment, when the
source stands still and the destination has not run yet. Nothing of the pipeline takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from attrs import evolve

from ..domain import Backend, Domain
from ..errors import UsageError
from ..handler import MemoryHandler
from ..manager import HandlerTable, PluginManager, build_manager
from ..plugin_option import DEST
from ..progress import GuestReport, MainJobReport, Progress, ProgressCallback
from ..record import GuestType
from .run import DEFAULT_POLICY, run

Prints = Mapping[str, bytes] | None


def run_main_job(
    folder: str,
    *,
    plugins: Iterable[str] | None = None,
    policy: str = DEFAULT_POLICY,
    codec: str | None = None,
    options: Mapping[str, str] | None = None,
    manager: PluginManager | None = None,
    progress: ProgressCallback | None = None,
    **further: Any,
) -> MainJobReport:
    """Save, restore and move one guest after another.

    :param folder: for the images, each of which is as large as a guest; the caller removes it.
    :param plugins: as for :func:`xsave.run`. A guest whose memory none of them knows is left
        out, and the report says so.
    :param options: of plugins.
    :param further: what else :func:`xsave.run` takes for saving and moving: ``limit``,
        ``workers``, ``checksum``, ``cancelled``.
    :raises UsageError: no backend offers guests, or several do; or none is left.
    :raises XsaveError: something failed; no guest of the main job is left. A guest that
        differs is no error but in the report.
    """
    manager = manager or build_manager()
    chosen = None if plugins is None else sorted(plugins)
    handlers = manager.handler_table(chosen, options)
    backend = demo_backend(manager)
    report = MainJobReport(backend.name, chosen, policy)
    for source, dest in backend.demo_addresses():
        with ExitStack() as stack:
            domain = backend.open(source)
            stack.callback(domain.close)
            stack.callback(domain.destroy)  # harmless where it has moved
            name, kind = domain.info.name, domain.info.guest_type
            guest = GuestReport(name, f"{backend.name}:{source}", kind)
            report.guests.append(guest)
            if missing := _memory_plugins(manager, handlers, kind):
                guest.left_out = f"its memory belongs to {missing}, not among those chosen"
                continue
            job = _Job(backend, guest, dest, progress)
            job.through_image(
                f"{folder}/{name}.xsv", plugins=chosen, policy=policy, codec=codec,
                options=options, manager=manager, **further,
            )  # fmt: skip
            job.directly(plugins=chosen, policy=policy, options=options, manager=manager, **further)
    if all(guest.left_out for guest in report.guests):
        raise UsageError("the plugins chosen know the memory of no guest: choose pv or hvm too")
    return report


def demo_backend(manager: PluginManager) -> Backend:
    """The backend that offers guests.

    :raises UsageError: none does, or several.
    """
    found = [entry.item for entry in manager.backends if entry.item.demo_addresses()]
    if len(found) != 1:
        names = " and ".join(backend.name for backend in found)
        reason = f"{names} all offer guests for it" if found else "no backend offers guests for it"
        raise UsageError(f"without SOURCE and DEST there is nothing to do: {reason}")
    return found[0]


def _memory_plugins(manager: PluginManager, handlers: HandlerTable, kind: GuestType) -> str:
    """:returns: "" where one in use knows the memory of such guests, else those that would."""
    owners = {
        entry.owner.plugin
        for entry in manager.handlers
        if isinstance(entry.item, MemoryHandler) and kind in entry.item.guest_types
    }
    if owners & handlers.plugins:
        return ""
    return " or ".join(f"plugin {owner}" for owner in sorted(owners)) or "no plugin installed"


class _Job:
    """One guest."""

    def __init__(
        self, backend: Backend, guest: GuestReport, dest: str, progress: ProgressCallback | None
    ) -> None:
        self._backend = backend
        self._guest = guest
        self._dest = dest
        self._progress = progress
        self._left: Prints = None
        self._arrived: Prints = None

    def through_image(
        self, image: str, *, plugins: Iterable[str] | None, policy: str, codec: str | None,
        options: Mapping[str, str] | None, manager: PluginManager, **further: Any,
    ) -> None:  # fmt: skip
        """Save it while it runs, and restore another from that; the first one runs on."""
        guest = self._guest
        guest.saved = run(
            guest.address, image, to="native", codec=codec, plugins=plugins, policy=policy,
            options=options, manager=manager, then="resume", at_rest=self._compare,
            progress=self._told("save"), **further,
        )  # fmt: skip
        of_dest = {
            key: value
            for key, value in (options or {}).items()
            if DEST in manager.find_option(key).ends
        }
        guest.restored = run(
            image, f"{self._backend.name}:{self._dest}", plugins=plugins, options=of_dest,
            manager=manager, at_rest=self._compare, progress=self._told("restore"), **further,
        )  # fmt: skip
        self._end_there()
        guest.image_differs = self._differences()

    def directly(self, **further: Any) -> None:
        """Move it while it runs."""
        self._guest.moved = run(
            self._guest.address, f"{self._backend.name}:{self._dest}", at_rest=self._compare,
            progress=self._told("move"), **further,
        )  # fmt: skip
        self._end_there()
        self._guest.move_differs = self._differences()

    def _compare(self, source: Domain | None, dest: Domain | None) -> None:
        if source is not None:
            self._left = source.fingerprint()
        if dest is not None:
            self._arrived = dest.fingerprint()

    def _differences(self) -> list[str]:
        left, arrived = self._left, self._arrived
        self._left = self._arrived = None
        if left is None or arrived is None:
            return []
        self._guest.parts = sorted(left.keys() | arrived.keys())
        return [part for part in self._guest.parts if left.get(part) != arrived.get(part)]

    def _end_there(self) -> None:
        """It has arrived and runs; now it is in the way of the next."""
        domain = self._backend.open(self._dest)
        domain.destroy()
        domain.close()

    def _told(self, stage: str) -> ProgressCallback | None:
        tell = self._progress
        if tell is None:
            return None

        def told(progress: Progress, tell: Callable[[Progress], None] = tell) -> None:
            tell(evolve(progress, stage=f"{self._guest.name}: {stage}"))

        return told
