"""``xsave run``: the pipeline, from any source to any destination."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .options import (
    ADDITION,
    ADDRESS,
    CODEC,
    FORMAT,
    F,
    json_option,
    pass_settings,
    plugins_option,
    telling_options,
    workers_option,
)
from .settings import Settings


def _split_addition(
    _context: click.Context, _parameter: click.Parameter, given: Sequence[str]
) -> dict[str, Path]:
    additions: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise click.BadParameter(f"{text!r} is not NAME=FILE")
        if name in additions:
            raise click.BadParameter(f"{name} is given twice")
        additions[name] = Path(path)
    return additions


def pipeline_options(function: F) -> F:
    """Arguments and options of every name of the pipeline."""
    for option in (
        telling_options,
        json_option,
        workers_option,
        click.option(
            "--add", type=ADDITION, multiple=True, metavar="NAME=FILE", callback=_split_addition,
            help="Put a record in, its body from a file. May be given several times.",
        ),
        plugins_option,
        click.option(
            "--checksum", default="", metavar="NAME",
            help="Of the destination's pieces, where its format offers a choice: "
            "native has xxh3-128 (the default) and sha256.",
        ),
        click.option(
            "--codec", type=CODEC, metavar="NAME[:LEVEL]",
            help="Compress with this; by default bodies stay as the source has them.",
        ),
        click.option(
            "--to", type=FORMAT, metavar="FORMAT",
            help="The destination's format; by default by DEST's suffix, else native.",
        ),
        click.argument("dest", type=ADDRESS),
        click.argument("source", type=ADDRESS),
    ):  # fmt: skip
        function = option(function)
    return function


def take(settings: Settings, source: str, dest: str, **options: Any) -> int:
    """Run the pipeline and tell what it did. Returns the exit code."""
    settings.json_on_stderr = dest == "-"
    from ..errors import EXIT_OK, EXIT_PARTIAL
    from ..manager import build_manager
    from ..pipeline.run import run
    from .addresses import image_address
    from .memory import keep_freed_memory
    from .output import write_json, write_stderr
    from .progress_bar import progress_shown
    from .report import left_out, run_as_json, run_as_text

    keep_freed_memory()
    manager = build_manager()
    additions: dict[str, Path] = options.pop("add")
    options["workers"] = options["workers"] or 0
    with progress_shown(settings) as progress:
        report = run(
            image_address(source, manager),
            image_address(dest, manager),
            manager=manager,
            progress=progress,
            add={name: _read_body(path) for name, path in additions.items()},
            **options,
        )
    added = list(additions)
    if settings.json:
        write_json(settings, "run", run_as_json(report, added))
    elif settings.quiet:
        write_stderr(f"xsave: {line}" for line in left_out(report))
    else:
        write_stderr(run_as_text(report, added))
    return EXIT_PARTIAL if report.partial else EXIT_OK


def _read_body(path: Path) -> bytes:
    from ..errors import SourceError

    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


@click.command("run")
@pipeline_options
@pass_settings
def command(settings: Settings, /, source: str, dest: str, **options: Any) -> int:
    """Take every record from SOURCE to DEST.

    SOURCE is an image of any known format, also one compressed as a whole; its format is
    recognised. DEST appears whole, or not at all. A single - is standard input or output.
    The report goes to standard error.

    A mandatory record whose plugin is missing, or not among --plugins, stops the run; an
    optional one is carried unchanged and reported. Where DEST's format has no place for an
    optional record it is left out, named in the report, and the exit code is 6.

    \b
    Examples:
      xsave run guest.save guest.xsv --codec zstd:1
      xsave run guest.save.zst guest.xsv
      xsave run guest.xsv - --to xl | ssh host 'cat > guest.save'
      xsave run guest.save guest.xsv --plugins hvm --json
    """
    return take(settings, source, dest, **options)
