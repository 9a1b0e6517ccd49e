"""``xsave convert``: the pipeline, where both ends are images."""

from __future__ import annotations

from typing import Any

import click

from .options import ADDRESS, pass_settings
from .run import pipeline_options, take
from .settings import Settings


@click.command("convert")
@click.argument("source", type=ADDRESS)
@click.argument("dest", type=ADDRESS)
@pipeline_options
@pass_settings
def command(settings: Settings, /, source: str, dest: str, **options: Any) -> int:
    """Write the image SOURCE as the image DEST.

    This is 'xsave run' where both ends are images: the same options, the same report.
    Going from a format to native and back gives the same bytes.

    \b
    Examples:
      xsave convert guest.save guest.xsv
      xsave convert guest.xsv small.xsv --codec brotli:5
      xsave convert guest.xsv guest.save --to xl
      zstd -dc guest.save.zst | xsave convert - guest.xsv
    """
    from ..manager import build_manager
    from .addresses import image_address

    settings.json_on_stderr = dest == "-"
    manager = build_manager()
    source, dest = image_address(source, manager), image_address(dest, manager)
    return take(settings, source, dest, manager=manager, **options)
