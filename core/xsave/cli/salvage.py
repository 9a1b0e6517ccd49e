"""``xsave salvage``: what is whole of a damaged image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .options import ADDRESS, CODEC, json_option, pass_settings, plugins_option, telling_options
from .settings import Settings

if TYPE_CHECKING:
    from ..format import Loss
    from ..pipeline.salvage import SalvageReport

LOSSES_SHOWN = 40
RANGES_SHOWN = 4


@click.command("salvage")
@click.argument("source", type=ADDRESS)
@click.argument("dest", type=ADDRESS)
@click.option("--codec", type=CODEC, metavar="NAME[:LEVEL]", help="Compress with this codec.")
@click.option(
    "--base", type=click.Path(dir_okay=False), metavar="IMAGE",
    help="The earlier image that SOURCE was written against.",
)  # fmt: skip
@plugins_option
@json_option
@telling_options
@pass_settings
def command(
    settings: Settings, source: str, dest: str, codec: str | None, base: str | None,
    plugins: Sequence[str] | None,
) -> int:  # fmt: skip
    """Write DEST, a native image of what is provably whole in the damaged image SOURCE.

    Of a native image each piece is proved by its own checksum, so what lies behind the damage
    is saved as well. Xen's formats have no checksums: of them everything before the damage is
    saved, as far as it can be right. What is lost is listed, with its place and its pages. DEST
    is for looking at: it cannot become a guest again. The exit code is 6 if anything is lost.

    \b
    Examples:
      xsave salvage damaged.xsv saved.xsv
      xsave salvage cut.save saved.xsv --codec zstd:1 --json | jq .losses
    """
    from ..errors import EXIT_OK, EXIT_PARTIAL
    from ..manager import build_manager
    from ..pipeline.salvage import salvage
    from .addresses import image_address
    from .output import write_json, write_stderr
    from .progress_bar import progress_shown

    settings.json_on_stderr = dest == "-"
    manager = build_manager()
    with progress_shown(settings) as progress:
        report = salvage(
            image_address(source, manager), image_address(dest, manager), codec=codec, base=base,
            plugins=plugins, manager=manager, progress=progress,
        )  # fmt: skip
    if settings.json:
        write_json(settings, "salvage", salvage_as_json(report))
    elif not settings.quiet or report.partial:
        write_stderr(salvage_as_text(report))
    return EXIT_PARTIAL if report.partial else EXIT_OK


def salvage_as_json(report: SalvageReport) -> dict[str, Any]:
    """What docs/schemas/salvage.json describes, without its ``schema``."""
    import attrs

    from .report import info_as_json

    return {
        "source": {**info_as_json(report.source), "size_bytes": report.source_bytes},
        "dest": {"format": report.dest_format, "size_bytes": report.dest_bytes},
        "records": [attrs.asdict(count) for count in report.records.values()],
        "nr_pages": report.nr_pages,
        "nr_losses": report.nr_losses,
        "nr_lost_pages": report.nr_lost_pages,
        "losses": [attrs.asdict(loss) for loss in report.losses],
    }


def salvage_as_text(report: SalvageReport) -> Iterator[str]:
    saved = sum(count.count for count in report.records.values()) - report.nr_batches
    yield f"saved: {saved} records, {report.nr_pages} pages"
    if not report.partial:
        yield "nothing is lost: the image is whole"
        return
    yield f"lost: {report.nr_lost_pages} pages for certain, in {report.nr_losses} places"
    for loss in report.losses[:LOSSES_SHOWN]:
        yield f"  {describe_loss(loss)}"
    if more := report.nr_losses - len(report.losses[:LOSSES_SHOWN]):
        yield f"  … {more} more places"


def describe_loss(loss: Loss) -> str:
    where = f"{loss.what} at {loss.offset:#x}"
    if loss.size_bytes:
        where += f", {loss.size_bytes} bytes"
    if loss.pfns:
        shown = [
            f"{first:#x}" if first == last else f"{first:#x}-{last:#x}"
            for first, last in loss.pfns[:RANGES_SHOWN]
        ]
        more = f" and {len(loss.pfns) - RANGES_SHOWN} ranges more" * (len(loss.pfns) > RANGES_SHOWN)
        kind = "pfns" if loss.is_exact else "some of the pfns"
        where += f", {kind} {', '.join(shown)}{more}"
    elif not loss.is_exact:
        where += ", pages that nobody knows"
    return f"{where}: {loss.reason}"
