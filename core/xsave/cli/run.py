"""``xsave run``: the pipeline, from any source to any destination."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .live_options import (
    domain_options,
    join_checkpoints,
    only_given,
    refuse_for_image,
    refuse_policy_without_live,
)
from .options import (
    ADDITION,
    ADDRESS,
    CODEC,
    FORMAT,
    RECORDS,
    F,
    base_option,
    json_option,
    pass_settings,
    plugins_option,
    telling_options,
    workers_option,
)
from .settings import Settings

if TYPE_CHECKING:
    from ..progress import RunReport


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


def _split_names(
    _context: click.Context, _parameter: click.Parameter, given: Sequence[str]
) -> list[str]:
    names = [name.strip() for text in given for name in text.split(",")]
    if not all(names):
        raise click.BadParameter("a name is empty")
    return names


def pipeline_options(function: F) -> F:
    """Options of every name of the pipeline."""
    for option in (
        telling_options,
        json_option,
        workers_option,
        click.option(
            "--add", type=ADDITION, multiple=True, metavar="NAME=FILE", callback=_split_addition,
            help="Put a record in, its body from a file. May be given several times.",
        ),
        click.option(
            "--allow-loss", type=RECORDS, multiple=True, metavar="NAME,...",
            callback=_split_names,
            help="Mandatory records that may be left out if DEST's format has no place for them; "
            "vendor.thing stands for all vendor.thing.* too.",
        ),
        plugins_option,
        click.option(
            "--delta/--no-delta", "deltas", default=None,
            help="Store pages that come again as differences, where that is smaller; by default "
            "when a guest is saved while it runs. An image keeps those it has.",
        ),
        base_option(
            "An earlier image of the same guest. If SOURCE was written against it, DEST is "
            "whole; otherwise DEST holds only what changed since."
        ),
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
    ):  # fmt: skip
        function = option(function)
    return function


def take(
    settings: Settings, source: str, dest: str, report_file: str | None = None, **options: Any
) -> int:
    """Run the pipeline and tell what it did. Returns the exit code.

    :param report_file: of the page to write, None for none.
    """
    from ..errors import EXIT_BROKEN_OFF, EXIT_OK, EXIT_PARTIAL
    from ..manager import build_manager
    from ..pipeline.run import run
    from .memory import keep_freed_memory
    from .output import write_json, write_stderr
    from .progress_bar import progress_shown
    from .report import broken_off, left_out, run_as_json, run_as_text
    from .report_file import page_file

    keep_freed_memory()
    manager = options.pop("manager", None) or build_manager()
    additions: dict[str, Path] = options.pop("add")
    options["workers"] = options["workers"] or 0
    added = list(additions)
    with page_file(report_file, source, dest) as write_report:
        with progress_shown(settings) as progress:
            report = run(
                source,
                dest,
                manager=manager,
                progress=progress,
                add={name: _read_body(path) for name, path in additions.items()},
                **options,
            )
        write_report(lambda: _page(report))
    if settings.json:
        write_json(settings, "run", run_as_json(report, added))
    elif settings.quiet:
        write_stderr(f"xsave: {line}" for line in [*left_out(report), *broken_off(report)])
    else:
        write_stderr(run_as_text(report, added))
    if report.standby is not None and report.standby.broke:
        return EXIT_BROKEN_OFF
    return EXIT_PARTIAL if report.partial else EXIT_OK


def _page(report: RunReport) -> str:
    from ..report_html import run_page

    return run_page(report)


def _read_body(path: Path) -> bytes:
    from ..errors import SourceError

    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


@click.command("run")
@click.argument("source", type=ADDRESS, required=False)
@click.argument("dest", type=ADDRESS, required=False)
@pipeline_options
@domain_options
@pass_settings
def command(
    settings: Settings, /, source: str | None, dest: str | None, report: str | None,
    **options: Any,
) -> int:  # fmt: skip
    """Take every record from SOURCE to DEST.

    Each is an image or a domain. An image may be of any known format, also compressed as a
    whole; its format is recognised. A domain is named by a backend's address, such as sim:pv;
    it is saved while it runs, and a new one runs when everything has arrived. DEST appears
    whole, or not at all. A single - is standard input or output. The report goes to standard
    error.

    With --checkpoint the stream of a domain goes on after its first complete state. Read into
    a domain, it makes a standby that is as of the last whole checkpoint: complete and paused,
    with exit code 7 if the stream broke off. It runs only with --take-over: a guest must not
    run twice.

    Without SOURCE and DEST the main job is shown on simulated guests: each is saved while it
    runs, restored from its image, and moved while it runs, and is compared with what arrived.
    The exit code is 1 if anything differs.

    A mandatory record whose plugin is missing, or not among --plugins, stops the run; an
    optional one is carried unchanged and reported. Where DEST's format has no place for an
    optional record it is left out, named in the report, and the exit code is 6; a mandatory
    one stops the run, unless --allow-loss names it.

    \b
    Examples:
      xsave run guest.save guest.xsv --codec zstd:1
      xsave run guest.save.zst guest.xsv
      xsave run guest.xsv - --to xl | ssh host 'cat > guest.save'
      xsave run later.save later.xsv --base guest.xsv --codec zstd:1
      xsave run guest.save guest.xsv --plugins hvm --json
      xsave run 'sim:pv?memory=64M&dirty=40M/s' guest.xsv --policy downtime:target=50ms
      xsave run guest.xsv 'sim:pv?host=b'
      xsave run 'sim:hvm?dirty=40M/s' 'sim:hvm?host=b' --limit 100M --report moved.html
      xsave run 'sim:pv?dirty=20M/s' guest.xsv --checkpoint 200ms --checkpoints 10
      xsave run --plugins tmem,hvm
    """
    from ..errors import UsageError
    from ..manager import build_manager
    from .addresses import names_domain

    settings.json_on_stderr = dest == "-"
    refuse_policy_without_live(options)
    join_checkpoints(options)
    if source is None:
        from .main_job import take_main_job

        return take_main_job(settings, report, options)
    if dest is None:
        raise UsageError(f"DEST is missing: where shall {source} go?")
    manager = build_manager()
    if not names_domain(source, manager):
        refuse_for_image(source, options)
    names_domain(dest, manager)  # refuses what looks like a domain and is none
    given = only_given(options)
    return take(settings, source, dest, report_file=report, manager=manager, **given)
