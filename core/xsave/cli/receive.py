"""``xsave receive``: take guests that come from other processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from .link_options import (
    backend_address,
    journal_in,
    link_options,
    patience_options,
    state_option,
)
from .options import (
    json_option,
    pass_settings,
    plugin_options_option,
    plugins_option,
    telling_options,
    workers_option,
)
from .rates import RATE
from .settings import Settings

if TYPE_CHECKING:
    from ..io.journal import Entry
    from ..manager import PluginManager
    from ..pipeline.receive import Service
    from ..progress import MigrationReport

LOOK_S = 0.2  # how often it is looked whether the last one has ended


@click.command("receive")
@click.argument("address", metavar="ADDRESS")
@click.option(
    "--into",
    required=True,
    metavar="BACKEND-ADDRESS",
    envvar="XSAVE_INTO",
    show_envvar=True,
    help="Where guests are made, such as sim:?host=b.",
)
@click.option("--once", is_flag=True, help="End after one guest has come, or has not.")
@plugins_option
@plugin_options_option
@click.option(
    "--limit",
    type=RATE,
    default=0,
    metavar="RATE",
    help="Take at most so many bytes a second from each.",
)
@patience_options
@workers_option
@state_option
@click.option(
    "--report",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="With --once: write the report as one HTML page too.",
)
@json_option
@telling_options
@pass_settings
def command(
    settings: Settings, /, address: str, into: str, once: bool, state: str | None,
    patience_s: float, report: str | None, **options: Any,
) -> int:  # fmt: skip
    """Take guests that 'xsave migrate' sends to ADDRESS.

    Each is built paused, and started only when everything has come, was verified, and the
    source has given it away; otherwise nothing is left of it. Whatever an xsave that was
    killed left open is finished first, and 'xsave migrate' and 'xsave resolve' elsewhere are told
    what became of their guests. It ends with --once, or when it is interrupted.

    \b
    Examples:
      xsave receive tcp:127.0.0.1:7777 --into 'sim:?host=b'
      xsave receive unix:xsave.sock --into 'sim:?at=hosts.sock' --once --json
    """
    from ..errors import UsageError
    from ..manager import build_manager
    from ..pipeline.receive import Receiver, Service
    from .memory import keep_freed_memory
    from .output import write_stderr
    from .progress_bar import progress_shown

    if report is not None and not once:
        raise UsageError("--report is about one migration: only with --once")
    keep_freed_memory()
    settings.json_on_stderr = address.startswith("pipe:")  # standard output is a link
    manager = build_manager()
    teller = _Teller(settings, report)
    options["workers"] = options["workers"] or 0
    with progress_shown(settings) as progress:
        receiver = Receiver(
            backend_address(into, manager), manager, journal=journal_in(state),
            progress=progress, told=teller, **options,
        )  # fmt: skip
        write_stderr(_recovered(receiver.recover()))
        service = Service(receiver)
        with _listening(address, manager, patience_s) as server:
            if not settings.quiet:
                write_stderr([f"xsave: receiving on {server.scheme}:{server.address}"])
            try:
                _serve(server, service, once)
            except BaseException:
                receiver.stop()
                raise
            finally:
                service.join()
    return teller.exit_code if once else 0


def _serve(server: _Server, service: Service, once: bool) -> None:
    from ..errors import SilentPeerError

    while not (once and service.nr_migrations) and not (server.is_one_link and service.nr_links):
        try:
            link = server.accept(LOOK_S)
        except SilentPeerError:
            continue
        service.start(link)


class _Server:
    """Links at an address, whatever the transport.

    :ivar is_one_link: as of standard input and output: when that has ended, so has all.
    """

    def __init__(self, scheme: str, links: Any, is_one_link: bool) -> None:
        self.scheme = scheme
        self.is_one_link = is_one_link
        self.address = links.address
        self.accept = links.accept


@contextmanager
def _listening(address: str, manager: PluginManager, patience_s: float) -> Iterator[_Server]:
    from ..link.server import serve
    from ..pipeline.migrate import find_transport

    transport, rest = find_transport(address, manager)
    with (
        transport.listen(rest) as listener,
        serve(listener, link_options(patience_s)) as links,
    ):
        yield _Server(transport.name, links, not transport.reconnects)


def _recovered(entries: list[Entry]) -> Iterator[str]:
    for entry in entries:
        remark = f": {entry.remark}" if entry.remark else ""
        yield f"xsave: migration {entry.id} of guest {entry.guest} is {entry.state} now{remark}"


class _Teller:
    """Tells what became of each migration."""

    def __init__(self, settings: Settings, report_file: str | None) -> None:
        self.exit_code = 0
        self._settings = settings
        self._report_file = report_file

    def __call__(self, report: MigrationReport, error: BaseException | None) -> None:
        from ..errors import EXIT_FAILED, XsaveError
        from .failure import report_failure
        from .migration_report import migration_as_json, migration_as_text
        from .output import write_json, write_stderr

        if isinstance(error, Exception):
            self.exit_code = error.exit_code if isinstance(error, XsaveError) else EXIT_FAILED
            report_failure(error, self._settings)
            return
        if self._report_file is not None:
            from ..report_html import migration_page
            from .report_file import write_page

            write_page(self._report_file, migration_page(report))
        if self._settings.json:
            write_json(self._settings, "migration", migration_as_json(report))
        elif not self._settings.quiet:
            write_stderr(migration_as_text(report))
