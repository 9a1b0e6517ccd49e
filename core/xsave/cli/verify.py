"""``xsave verify``: is this image whole and right?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .options import (
    ADDRESS,
    OF_A_SUCCESSOR,
    base_option,
    json_option,
    pass_settings,
    plugins_option,
    telling_options,
    workers_option,
)
from .settings import Settings

if TYPE_CHECKING:
    from ..errors import MissingPluginError
    from ..manager import PluginManager
    from ..pipeline.verify import VerifyReport


@click.command("verify")
@click.argument("file", type=ADDRESS)
@click.option(
    "--fast", is_flag=True, help="Look at the structure only, and pass over page contents."
)
@base_option(f"{OF_A_SUCCESSOR} Without it, what FILE itself holds is looked at.")
@plugins_option
@workers_option
@json_option
@telling_options
@pass_settings
def command(
    settings: Settings, file: str, fast: bool, base: str | None, plugins: Sequence[str] | None,
    workers: int | None,
) -> int:  # fmt: skip
    """Read FILE as strictly as a restorer would, and more so.

    Looks at the framing, the order, every field of every record, the rules between records,
    and of a native image at each checksum and the seal. Prints what was looked at, and
    'whole and right'; or says what is wrong, and where. An image that is right, but was saved
    without all of the guest's state (old releases of Xen did so), is told of with exit code 6.

    \b
    Examples:
      xsave verify guest.save
      xsave verify --fast guest.xsv
      xsave verify later.xsv --base guest.xsv
      xsave verify --json - < guest.xsv
      xsave verify sim:pv
    """
    from ..errors import EXIT_OK, EXIT_PARTIAL
    from ..manager import build_manager
    from ..pipeline.verify import verify
    from .addresses import any_address
    from .memory import keep_freed_memory
    from .output import write_json, write_text
    from .progress_bar import progress_shown
    from .report import verify_as_json, verify_as_text

    if not fast:
        keep_freed_memory()
    manager = build_manager()
    with progress_shown(settings) as progress:
        report = verify(
            any_address(file, manager), fast=fast, base=base, plugins=plugins,
            workers=workers or 0, manager=manager, progress=progress,
        )  # fmt: skip
    if report.not_understood:
        raise not_understood(report, manager, plugins)
    if settings.json:
        write_json(settings, "verify", verify_as_json(report))
    elif not settings.quiet:
        write_text(verify_as_text(report, with_base=base is not None))
    return EXIT_PARTIAL if report.partial else EXIT_OK


def not_understood(
    report: VerifyReport, manager: PluginManager, plugins: Sequence[str] | None
) -> MissingPluginError:
    """The framing is right, but of what a mandatory record holds nothing can be said."""
    from ..pipeline.stream import missing_plugin
    from ..record import Owner

    count = report.records[report.not_understood[0]]
    owner = Owner(count.plugin, "") if count.plugin else None
    handlers = manager.handler_table(plugins)
    return missing_plugin(count.name, count.version, owner, manager, handlers)
