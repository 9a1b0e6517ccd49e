"""``xsave redact``: an image without its guest's data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .options import (
    ADDRESS,
    CODEC,
    FORMAT,
    json_option,
    pass_settings,
    plugins_option,
    telling_options,
)
from .settings import Settings

if TYPE_CHECKING:
    from ..pipeline.redact import RedactReport


@click.command("redact")
@click.argument("source", type=ADDRESS)
@click.argument("dest", type=ADDRESS)
@click.option("--to", type=FORMAT, metavar="FORMAT", help="Format of DEST; by default as for run.")
@click.option("--codec", type=CODEC, metavar="NAME[:LEVEL]", help="Compress with this codec.")
@plugins_option
@json_option
@telling_options
@pass_settings
def command(
    settings: Settings, source: str, dest: str, to: str | None, codec: str | None,
    plugins: Sequence[str] | None,
) -> int:  # fmt: skip
    """Write DEST: the image SOURCE without its guest's data.

    What says how the guest is built stays: page tables, p2m, control registers, devices of
    the hypervisor. Pages, registers of general use and of the FPU, names and paths become
    zeroes; records of which nobody says what of them is data are left out. What stayed is
    listed on standard error: read it before you give the image to somebody. Such an image can
    be inspected and converted; it is not restored into a domain.

    \b
    Examples:
      xsave redact guest.save report.xsv --codec zstd:3
      xsave redact guest.xsv report.save --to xl
      xsave redact guest.save report.xsv --json | jq .cleaned
    """
    from ..manager import build_manager
    from ..pipeline.redact import redact
    from .addresses import image_address
    from .output import write_json, write_stderr
    from .progress_bar import progress_shown

    settings.json_on_stderr = dest == "-"
    manager = build_manager()
    with progress_shown(settings) as progress:
        report = redact(
            image_address(source, manager), image_address(dest, manager), to=to, codec=codec,
            plugins=plugins, manager=manager, progress=progress,
        )  # fmt: skip
    if settings.json:
        write_json(settings, "redact", redact_as_json(report))
    elif not settings.quiet:
        write_stderr(redact_as_text(report))
    return 0


def redact_as_json(report: RedactReport) -> dict[str, Any]:
    """What docs/schemas/redact.json describes, without its ``schema``."""
    done = report.run
    return {
        "dest": {"format": done.dest_format, "size_bytes": done.dest_bytes},
        "kept": report.kept,
        "cleaned": report.cleaned,
        "left_out": report.left_out,
        "pages": report.pages,
        "nr_erased": report.nr_erased,
    }


def redact_as_text(report: RedactReport) -> Iterator[str]:
    yield "kept"
    for name, count in report.pages.items():
        yield f"  {count} pages: {name}"
    for name in report.kept:
        yield f"  {name}"
    if report.cleaned:
        yield "cleaned"
    for name, fields in report.cleaned.items():
        yield f"  {name}: {', '.join(fields) or 'there was nothing to erase'}"
    yield "gone"
    yield f"  the contents of {report.nr_erased} pages"
    for name, count in report.left_out.items():
        yield f"  {name}{f' ({count})' if count > 1 else ''}"
