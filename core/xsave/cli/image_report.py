"""``xsave report``: one HTML page about an image."""

from __future__ import annotations

from collections.abc import Sequence

import click

from .options import ADDRESS, pass_settings, plugins_option, telling_options
from .settings import Settings


@click.command("report")
@click.argument("source", type=ADDRESS)
@click.argument("page", type=click.Path(dir_okay=False, allow_dash=True))
@plugins_option
@telling_options
@pass_settings
def command(settings: Settings, source: str, page: str, plugins: Sequence[str] | None) -> int:
    """Write PAGE, a self-contained HTML file about the image SOURCE.

    It has a map of the guest's memory by page type and contents, its processors and devices,
    what a host must have to restore it, and every record field by field. The page needs no
    network, no script and no other file; it holds what the records hold, so it is as private
    as the image is.

    \b
    Examples:
      xsave report guest.xsv guest.html
      xsave report guest.save - > guest.html
      xsave redact guest.save shown.xsv && xsave report shown.xsv shown.html
    """
    from ..manager import build_manager
    from ..pipeline.survey import survey
    from .addresses import image_address
    from .image_html import image_page
    from .output import write_stderr
    from .progress_bar import progress_shown
    from .report_file import write_page

    manager = build_manager()
    with progress_shown(settings) as progress:
        found = survey(
            image_address(source, manager), plugins=plugins, manager=manager, progress=progress
        )
    write_page(page, image_page("standard input" if source == "-" else source, found))
    if not settings.quiet and page != "-":
        write_stderr([f"{page}: {len(found.records)} records, {found.nr_present} pages of memory"])
    return 0
