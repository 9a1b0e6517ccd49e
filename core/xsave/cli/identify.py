"""``xsave identify``: what is this file?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import ADDRESS, json_option, pass_settings
from .settings import Settings

if TYPE_CHECKING:
    from ..pipeline.identify import Identification


@click.command("identify")
@click.argument("file", type=ADDRESS)
@json_option
@pass_settings
def command(settings: Settings, file: str) -> int:
    """Name the format of FILE, and say by what it is recognised.

    Any save image, whoever wrote it, and whatever it is compressed with; and what lies beside
    such images: core files, QEMU's streams, xenstored's state. What is known by sight only is
    named too, with why it is not read. No more is read than the headers.

    \b
    Examples:
      xsave identify guest.save
      xsave identify old.save.gz
      xsave identify --json - < unknown
    """
    from ..manager import build_manager
    from ..pipeline.identify import identify
    from .addresses import image_address
    from .output import write_json, write_text

    manager = build_manager()
    found = identify(image_address(file, manager), manager=manager)
    if settings.json:
        write_json(settings, "identify", identification_as_json(found))
    else:
        write_text(identification_as_text(file, found))
    return 0


def identification_as_json(found: Identification) -> dict[str, Any]:
    """What docs/schemas/identify.json describes, without its ``schema``."""
    from .report import info_as_json

    return {
        "ok": True,
        "format": found.name,
        "summary": found.summary,
        "why": found.why,
        "codecs": found.codecs,
        "readable": found.readable,
        "writable": found.writable,
        "info": None if found.info is None else info_as_json(found.info),
        "fault": found.fault or None,
        "others": found.others,
    }


def identification_as_text(file: str, found: Identification) -> list[str]:
    from .output import columns
    from .report import describe

    shown = "standard input" if file == "-" else file
    inside = "".join(f"{codec}, in it " for codec in found.codecs)
    rows = [("why", found.why)]
    if found.info is not None:
        rows.append(("holds", describe(found.info)))
        if found.info.word_size:
            rows.append(("saved by", f"a toolstack of {8 * found.info.word_size} bits"))
        if within := found.info.details.get("inside"):
            rows.append(("inside", f"a stream of format {within}"))
    if found.fault:
        rows.append(("but", found.fault))
    rows.append(("here", _use(found)))
    rows += [("also", f"format {name} claims it") for name in found.others]
    return [f"{shown}  {inside}{found.name}: {found.summary}", *columns(rows, "  ")]


def _use(found: Identification) -> str:
    if not found.readable:
        return "recognised, not read"
    return "read and written" if found.writable else "read"
