"""``xsave diff``: what differs between two images of one guest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .options import (
    ADDRESS,
    RECORD,
    base_option,
    json_option,
    pass_settings,
    plugins_option,
    telling_options,
)
from .settings import Settings

if TYPE_CHECKING:
    from ..pipeline.diff import DiffReport, FieldChange, PageRange, RecordChange

EXIT_DIFFERENT = 1
EXIT_TROUBLE = 2  # as diff's: so that 1 says that they differ, and nothing else
RANGES_SHOWN = 32
FIELDS_SHOWN = 32  # of one record
TEXT_SHOWN = 32  # characters of a text or of bytes in hexadecimal, around the difference

_CHANGES = {
    "contents": "other contents",
    "type": "of another type",
    "only_a": "only in the first",
    "only_b": "only in the second",
}


@click.command("diff")
@click.argument("a", type=ADDRESS)
@click.argument("b", type=ADDRESS)
@click.option(
    "--ignore", type=RECORD, metavar="RECORD", multiple=True,
    help="A record that may differ; may be given several times.",
)  # fmt: skip
@base_option("The earlier image that one of them, or both, were written against.")
@click.option("--all", "whole", is_flag=True, help="Shorten nothing.")
@plugins_option
@json_option
@telling_options
@pass_settings
def command(
    settings: Settings, a: str, b: str, ignore: Sequence[str], base: str | None, whole: bool,
    plugins: Sequence[str] | None,
) -> int:  # fmt: skip
    """Show what differs between the images A and B of one guest.

    Records are compared field by field, pages by pfn as a restored guest would have them:
    neither the format of an image matters, nor its codec, nor the order in which pages came.
    The exit code is diff's: 0 if they are the same, 1 if they differ, and 2 or more if that
    could not be found out.

    \b
    Examples:
      xsave diff before.xsv after.xsv
      xsave diff guest.save guest.xsv && echo the same guest
      xsave diff a.save b.save --ignore xen.xl.header --ignore xen.x86.tsc_info
      xsave diff a.xsv b.xsv --json | jq '.memory.contents'
    """
    from ..errors import EXIT_FAILED, UsageError, XsaveError
    from ..manager import build_manager
    from ..pipeline.diff import diff
    from .addresses import image_address
    from .failure import report_error
    from .output import write_json, write_text
    from .progress_bar import progress_shown

    if a == b == "-":
        raise UsageError("only one of the two can be standard input")
    manager = build_manager()
    try:
        with progress_shown(settings) as progress:
            report = diff(
                image_address(a, manager), image_address(b, manager), ignore=ignore, base=base,
                plugins=plugins, manager=manager, progress=progress,
            )  # fmt: skip
    except XsaveError as error:
        code = report_error(error, settings)
        return EXIT_TROUBLE if code == EXIT_FAILED else code
    if settings.json:
        write_json(settings, "diff", diff_as_json(report))
    elif not settings.quiet:
        write_text(diff_as_text(report, a, b, whole=whole))
    return 0 if report.equal else EXIT_DIFFERENT


def diff_as_json(report: DiffReport) -> dict[str, Any]:
    """What docs/schemas/diff.json describes, without its ``schema``."""
    import attrs

    from .report import info_as_json

    shown = attrs.asdict(report, recurse=True)
    return {
        **shown,
        "equal": report.equal,
        "a": info_as_json(report.a),
        "b": info_as_json(report.b),
    }


def diff_as_text(report: DiffReport, a: str, b: str, *, whole: bool) -> Iterator[str]:
    """:param whole: shorten nothing."""
    memory = report.memory
    if report.equal:
        yield f"{a} and {b} are the same: {report.nr_same_records} records, {memory.same} pfns"
        return
    for change in report.records:
        yield from _record(change, whole=whole)
    if not memory.equal:
        yield "memory"
        shown = memory.ranges if whole else memory.ranges[:RANGES_SHOWN]
        for one in shown:
            yield f"  {_range(one)}"
        if more := len(memory.ranges) - len(shown) + memory.ranges_left_out:
            yield f"  … {more} more ranges"
    if report.a.guest_type is not report.b.guest_type:
        yield f"guest type  {report.a.guest_type.value} -> {report.b.guest_type.value}"
    counts = [
        f"{count} {about}" for name, about in _CHANGES.items() if (count := getattr(memory, name))
    ]
    yield (
        f"{a} and {b} differ: {len(report.records)} records, {report.nr_same_records} the same; "
        f"{', '.join([*counts, f'{memory.same} pfns the same'])}"
    )


def _record(change: RecordChange, *, whole: bool) -> Iterator[str]:
    name = change.name if change.key == "0" else f"{change.name} ({change.key})"
    if change.change != "changed":
        size = change.size_a if change.size_b is None else change.size_b
        yield f"{name}  {_CHANGES[change.change]}, {size} bytes"
        return
    yield name
    if not change.shown:
        sizes = f"{change.size_a} and {change.size_b} bytes"
        yield f"  the bytes differ, no field that is known does; {sizes}"
    shown = change.fields if whole else change.fields[:FIELDS_SHOWN]
    for one in shown:
        yield f"  {_field(one, whole=whole)}"
    if more := len(change.fields) - len(shown):
        yield f"  … {more} more fields"


def _field(one: FieldChange, *, whole: bool) -> str:
    if one.change == "only_a":
        return f"{one.path}  {_value(one.a, 0, whole=whole)} -> nothing"
    if one.change == "only_b":
        return f"{one.path}  nothing -> {_value(one.b, 0, whole=whole)}"
    at = 0
    if isinstance(one.a, str) and isinstance(one.b, str):
        at = next(
            (at for at, (x, y) in enumerate(zip(one.a, one.b, strict=False)) if x != y),
            min(len(one.a), len(one.b)),
        )
    return f"{one.path}  {_value(one.a, at, whole=whole)} -> {_value(one.b, at, whole=whole)}"


def _value(value: Any, at: int, *, whole: bool) -> str:
    """:param at: of a long text: where the part begins that matters."""
    from .tree import one_line

    if isinstance(value, str) and len(value) > 2 * TEXT_SHOWN and not whole:
        start = max(0, at - TEXT_SHOWN // 2)
        before, after = "…" * (start > 0), "…" * (start + TEXT_SHOWN < len(value))
        return f"{before}{value[start : start + TEXT_SHOWN]}{after} (from character {start})"
    line = one_line(value)
    return line if line is not None else "several values"


def _range(one: PageRange) -> str:
    last = one.first_pfn + one.nr_pfns - 1
    pfns = f"{one.first_pfn:#x}" if one.nr_pfns == 1 else f"{one.first_pfn:#x}-{last:#x}"
    types = one.type_a or one.type_b or ""
    if one.change == "type":
        types = f"{one.type_a} -> {one.type_b}"
    return f"{pfns}  {_CHANGES[one.change]}, {types}"
