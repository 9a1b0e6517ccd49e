"""``xsave migrate``: a guest that runs goes to another process, or stays."""

from __future__ import annotations

from typing import Any

import click

from .link_options import journal_in, link_options, patience_options, state_option
from .live_options import only_given, refuse_policy_without_live
from .options import (
    CODEC,
    POLICY,
    json_option,
    pass_settings,
    plugin_options_option,
    plugins_option,
    telling_options,
    workers_option,
)
from .rates import RATE
from .settings import Settings


@click.command("migrate")
@click.argument("source", metavar="SOURCE")
@click.argument("dest", metavar="ADDRESS")
@click.option(
    "--codec",
    type=CODEC,
    metavar="NAME[:LEVEL]",
    help="Compress the stream with this; by default it is not compressed.",
)
@click.option(
    "--checksum",
    default="",
    metavar="NAME",
    help="Of the stream's pieces: xxh3-128 (the default) or sha256.",
)
@plugins_option
@plugin_options_option
@click.option(
    "--live/--no-live",
    default=None,
    help="Send memory while the guest runs (the default), or pause it first.",
)
@click.option(
    "--policy",
    type=POLICY,
    metavar="NAME[:OPT=V,...]",
    help="Decides when the guest is paused; by default fixed, as Xen does.",
)
@click.option(
    "--limit",
    type=RATE,
    default=0,
    metavar="RATE",
    help="Send at most so many bytes a second: 40M, 1.5G, 512K.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 16),
    default=1,
    metavar="N",
    show_default=True,
    help="Channels at once.",
)
@patience_options
@click.option(
    "--ask",
    "ask_s",
    type=click.FloatRange(min=0, max=86400),
    default=60.0,
    metavar="SECONDS",
    show_default=True,
    help="How long to ask what became of the guest, if the link is lost after it was given away.",
)
@workers_option
@state_option
@click.option(
    "--report",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the report as one HTML page too.",
)
@json_option
@telling_options
@pass_settings
def command(
    settings: Settings, /, source: str, dest: str, report: str | None, state: str | None,
    patience_s: float, connections: int, **options: Any,
) -> int:  # fmt: skip
    """Move a guest to another process, which runs 'xsave receive'.

    SOURCE is the address of a guest; ADDRESS says how the other end is reached. Before the
    guest is touched both ends find out whether it can go there (see 'xsave preflight'). It
    goes on running here until everything else has been sent, and ends here only when it is
    known to run there. Whatever fails before it was given away: it runs on here. If the link is
    lost just after that, the other end is asked; if nobody answers the guest stays paused, the
    exit code is 9, and 'xsave resolve' finds out later. docs/migration.md tells all of it.

    \b
    Examples:
      xsave migrate sim:pv tcp:127.0.0.1:7777
      xsave migrate 'sim:?name=web&at=hosts.sock' tcp:127.0.0.1:7777 --codec zstd:1
      xsave migrate 'sim:hvm?dirty=40M/s' unix:xsave.sock --policy downtime:target=50ms --json
    """
    from ..errors import EXIT_OK, EXIT_PARTIAL
    from ..manager import build_manager
    from ..pipeline.migrate import migrate
    from .memory import keep_freed_memory
    from .migration_report import migration_as_json, migration_as_text, stayed_behind
    from .output import write_json, write_stderr
    from .progress_bar import progress_shown

    refuse_policy_without_live(options)
    keep_freed_memory()
    options["workers"] = options["workers"] or 0
    with progress_shown(settings) as progress:
        done = migrate(
            source, dest, manager=build_manager(), journal=journal_in(state),
            link_options=link_options(patience_s, connections), progress=progress,
            **only_given(options),
        )  # fmt: skip
    if report is not None:
        from ..report_html import migration_page
        from .report_file import write_page

        write_page(report, migration_page(done))
    if settings.json:
        write_json(settings, "migration", migration_as_json(done))
    elif settings.quiet:
        write_stderr(f"xsave: {line}" for line in stayed_behind(done))
    else:
        write_stderr(migration_as_text(done))
    return EXIT_PARTIAL if stayed_behind(done) else EXIT_OK
