"""``xsave-libxl-helper``: what libxl runs to save and restore a guest, in place of its own.

libxl runs the program that the environment variable ``LIBXL_SAVE_HELPER`` names, for ``xl
save``, ``xl restore``, ``xl migrate`` and for libvirt. It writes and reads the part of an
image that is libxc's; everything around it stays libxl's, and so does the guest: whether it
goes on or ends is libxl's to decide, after what it is told here. That part is a libxc stream, or
where both ends are xsave a native one, as it was set. How: docs/xen.md.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from xsave import Progress, UsageError, XsaveError, build_manager, frozen, run

from .backend import locator_of
from .helper_settings import NATIVE, HelperSettings, load_settings
from .libxl_link import DEBUG, ERROR, INFO, WARN, LibxlGoneError, LibxlLink

if TYPE_CHECKING:
    from xsave import Domain

    from .domain import BuiltDomain, SavedDomain

PLAIN = 0  # the other stream types are Remus and COLO
LIVE = 1 << 0
LEVELS = {logging.DEBUG: DEBUG, logging.INFO: INFO, logging.WARNING: WARN}
USAGE = (
    "xsave-libxl-helper is run by libxl: export "
    "LIBXL_SAVE_HELPER=$(command -v xsave-libxl-helper), "
    "then xl save, xl restore or xl migrate as usual"
)


@frozen
class SaveRequest:
    fd: int
    back_fd: int
    domid: int
    flags: int
    offered: int
    stream_type: int


@frozen
class RestoreRequest:
    fd: int
    back_fd: int
    domid: int
    store_port: int
    store_domid: int
    console_port: int
    console_domid: int
    offered: int
    stream_type: int


Request = SaveRequest | RestoreRequest
_MODES: dict[str, tuple[type[SaveRequest] | type[RestoreRequest], int]] = {
    "--save-domain": (SaveRequest, 6),
    "--restore-domain": (RestoreRequest, 9),
}


def parse(arguments: Sequence[str]) -> Request:
    """:raises UsageError: libxl never calls it like that."""
    kind, count = _MODES.get(arguments[0] if arguments else "", (None, 0))
    if kind is None or len(arguments) != 1 + count:
        raise UsageError(USAGE)
    try:
        return kind(*map(int, arguments[1:]))
    except ValueError:
        raise UsageError(USAGE) from None


class _StoppedError(XsaveError):
    """libxl wants it to end."""


def main() -> int:
    try:
        request = parse(sys.argv[1:])
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201  # to a person: libxl does not call it so
        return error.exit_code
    # What anything might print must not get between the messages.
    out_fd = os.dup(1)
    os.dup2(2, 1)
    link = LibxlLink.over(request.offered, 0, out_fd)
    signal.signal(signal.SIGTERM, _stop)
    try:
        status = serve(request, link)
    except LibxlGoneError:
        status = 1
    # libxl waits for the end of this process before it goes on, and the guest stands still
    # meanwhile. Nothing is left to be done that taking the interpreter apart would do.
    sys.stderr.flush()
    os._exit(status)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """Once; a second one does not interrupt what is put back on the way out."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _StoppedError("libxl has asked to stop")


def serve(request: Request, link: LibxlLink) -> int:
    """Save or restore, and tell libxl how it went.

    :returns: the exit status; 0 whenever libxl was told.
    """
    handler = _LogHandler(link)
    root = logging.getLogger("xsave")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        (_save if isinstance(request, SaveRequest) else _restore)(request, link)  # type: ignore[arg-type]
    except LibxlGoneError:
        raise
    except _StoppedError as error:
        _fail(request, link, str(error), errno.EINTR)
    except XsaveError as error:
        _fail(request, link, str(error), errno.EIO)
    except Exception as error:
        traceback.print_exc()
        text = f"this is a bug in xsave or in a plugin: {error!r}"
        _fail(request, link, text, errno.EINVAL)
    else:
        link.complete(0, 0)
    finally:
        root.removeHandler(handler)
        gc.unfreeze()
    return 0


def _fail(request: Request, link: LibxlLink, text: str, number: int) -> None:
    link.log(ERROR, text)
    if isinstance(request, RestoreRequest):
        link.restore_results(0, 0)  # libxl wants them in any case
    link.complete(-1, number)


def _save(request: SaveRequest, link: LibxlLink) -> None:
    _check_plain(request)
    settings = load_settings(os.environ)
    further: dict[str, Any] = {}
    if settings.stream == NATIVE:
        further = {
            "codec": settings.codec, "checksum": settings.checksum, "deltas": settings.deltas
        }  # fmt: skip
    domain = _open_saved(request, link)
    report = run(
        domain, request.fd, to=settings.format, live=bool(request.flags & LIVE), then="pause",
        plugins=settings.plugins, options=_options(settings, "source"), policy=settings.policy,
        progress=_Percent(link, "saving"), **further,
    )  # fmt: skip
    link.log(DEBUG, f"domain {request.domid} saved: {report.nr_pages} pages as {report.dest_bytes} "
                    f"bytes of {report.dest_format} in {report.elapsed_s:.1f} s")  # fmt: skip
    if report.save is not None and report.save.final is not None:
        parts, final = report.save.downtime, report.save.final
        link.log(
            INFO, f"domain {request.domid} stood still for {parts.total_s:.2f} s until all was "
            f"sent: {parts.pause_s:.2f} to stop, {parts.memory_s:.2f} for {final.nr_pages} pages, "
            f"{parts.state_s:.2f} for its state, {parts.finish_s:.2f} to end",
        )  # fmt: skip


def _restore(request: RestoreRequest, link: LibxlLink) -> None:
    _check_plain(request)
    settings = load_settings(os.environ)
    results: list[tuple[int, int]] = []

    def complete(_source: Domain | None, domain: Domain | None) -> None:
        built: Any = domain
        results.append(built.complete())

    domain = _open_built(request, link)
    run(
        request.fd, domain, at_rest=complete, leave_rest=True, plugins=settings.plugins,
        options=_options(settings, "dest"), progress=_Percent(link, "restoring"),
    )  # fmt: skip
    link.restore_results(*results[0])


def _options(settings: HelperSettings, end: str) -> Mapping[str, str]:
    """Those that are about this end: the others are refused, and meant for the other way."""
    if not settings.options:
        return {}
    manager = build_manager()
    return {
        key: value
        for key, value in settings.options.items()
        if end in manager.find_option(key).ends
    }


def _check_plain(request: Request) -> None:
    if request.stream_type != PLAIN:
        raise XsaveError("checkpointed streams (Remus, COLO) are not made by xsave")


def _open_saved(request: SaveRequest, link: LibxlLink) -> SavedDomain:
    from .connection import Connection
    from .domain import SavedDomain, Toolstack
    from .guard import Guard

    def suspend() -> None:
        # While the guest stands still, garbage is looked for only among what is new.
        gc.freeze()
        link.suspend()

    def log_writes(on: bool) -> None:
        link.switch_qemu_logdirty(request.domid, on)

    connection = Connection()
    try:
        guard = Guard(locator_of(connection, request.domid), puts_back=False)
    except BaseException:
        connection.close()
        raise
    toolstack = Toolstack(suspend, log_writes)
    return SavedDomain(connection, request.domid, toolstack, guard=guard)


def _open_built(request: RestoreRequest, link: LibxlLink) -> BuiltDomain:
    from .connection import Connection
    from .domain import BuiltDomain, Rings

    def static_data_done(missing: int) -> None:
        gc.freeze()  # whenever the guest will stand still: see above
        link.static_data_done(missing)

    rings = Rings(
        request.store_port, request.store_domid, request.console_port, request.console_domid
    )
    return BuiltDomain(Connection(), request.domid, rings, static_data_done)


class _LogHandler(logging.Handler):
    """xsave's own log goes into libxl's."""

    def __init__(self, link: LibxlLink) -> None:
        super().__init__(logging.INFO)
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        self._link.log(LEVELS.get(record.levelno, ERROR), record.getMessage())


class _Percent:
    """Tells libxl, which shows it, when another hundredth is done."""

    def __init__(self, link: LibxlLink, doing: str) -> None:
        self._link = link
        self._doing = doing
        self._last = -1

    def __call__(self, progress: Progress) -> None:
        total = progress.bytes_total
        if total is None or progress.bytes_done * 100 // max(total, 1) != self._last:
            self._last = progress.bytes_done * 100 // max(total or 1, 1)
            self._link.progress(self._doing, progress.bytes_done, total or progress.bytes_done)
