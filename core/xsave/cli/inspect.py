"""``xsave inspect``: what is in an image, from the whole of it down to one page's bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .options import (
    ADDRESS,
    OF_A_SUCCESSOR,
    RECORD,
    base_option,
    json_option,
    pass_settings,
    plugins_option,
    telling_options,
)
from .settings import Settings

if TYPE_CHECKING:
    from ..io.sink import Sink
    from ..manager import PluginManager
    from ..pipeline.inspect import FoundRecord, Inspection, MemoryItem, PageStatistics, RecordItem
    from ..pipeline.look import Look
    from .tree import Node

_NUMBER = r"(0[xX][0-9a-fA-F]+|[0-9]+)"
_PFNS = re.compile(rf"{_NUMBER}(?:([-+]){_NUMBER})?")
PFN_MAX = (1 << 52) - 1  # a pfn of a 64-bit address


def _parse_record(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[str, int] | None:
    if text is None:
        return None
    name, hash_, number = text.partition("#")
    if not name or (hash_ and not (number.isascii() and number.isdigit())):
        raise click.BadParameter(f"{text!r} is not NAME or NAME#NUMBER")
    return name, int(number or 0)


def _parse_pfns(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> range | None:
    if text is None:
        return None
    match = _PFNS.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not A, A-B or A+N (decimal, or 0x and hexadecimal)")
    first, number = (int(part, 16 if part[1:2] in "xX" and len(part) > 2 else 10)
                     for part in (match[1], match[3] or "1"))  # fmt: skip
    last = number if match[2] == "-" else first + number - 1
    if not first <= last <= PFN_MAX:
        raise click.BadParameter(f"{text!r} names no pfns")
    return range(first, last + 1)


@click.command("inspect")
@click.argument("source", type=ADDRESS)
@click.option(
    "--record", type=RECORD, metavar="NAME[#N]", callback=_parse_record,
    help="One record with all of its fields; #N counts those of that name from 0.",
)  # fmt: skip
@click.option(
    "--pfn", "pfns", metavar="RANGE", callback=_parse_pfns,
    help="The latest contents of pages: A, A-B (B included) or A+N; decimal, or 0x.",
)  # fmt: skip
@click.option("--hex", "as_hex", is_flag=True, help="With --record: its body as a hexdump.")
@click.option("--raw", is_flag=True, help="With --record or --pfn: nothing but the bytes.")
@click.option(
    "--pages", is_flag=True, help="Read all page contents, and count zero and equal pages."
)
@base_option(f"{OF_A_SUCCESSOR} Needed to see contents of pages.")
@plugins_option
@json_option
@telling_options
@pass_settings
def command(
    settings: Settings, source: str, record: tuple[str, int] | None, pfns: range | None,
    as_hex: bool, raw: bool, pages: bool, base: str | None, plugins: Sequence[str] | None,
) -> int:  # fmt: skip
    """Show what is in SOURCE: an image, or a domain as a save would have it now.

    A tree of all records with their fields; long ones are shortened, and whole with
    --record or --json. Records that no plugin here understands are shown as CBOR, or in
    hexadecimal.

    A domain is paused for a moment, so that its state belongs together, and runs on. Its memory
    is looked at while it runs, and state that goes out beside memory is not asked for.

    \b
    Examples:
      xsave inspect guest.xsv
      xsave inspect --json guest.save | jq '.items[].name'
      xsave inspect guest.save --record xen.hvm.params
      xsave inspect guest.save --record xen.qemu.context --raw > qemu.bin
      xsave inspect guest.xsv --pfn 0x100-0x103
      xsave inspect guest.xsv --pages
      xsave inspect later.xsv --pfn 0x100 --base guest.xsv
    """
    _refuse_contradictions(
        settings, record=record is not None, pfn=pfns is not None, as_hex=as_hex, raw=raw,
        pages=pages, plugins=plugins is not None,
    )  # fmt: skip
    from ..io.sink import open_sink
    from ..manager import build_manager
    from .addresses import any_address

    # before anything is read: it refuses a terminal
    sink = open_sink("-") if raw else None
    manager = build_manager()
    address = any_address(source, manager)
    if record is not None:
        return _show_record(settings, address, record, plugins, manager, sink, as_hex)
    if pfns is not None:
        return _show_pfns(settings, address, pfns, base, manager, sink)
    return _show_image(settings, address, source, pages, base, plugins, manager)


def _refuse_contradictions(
    settings: Settings, *, record: bool, pfn: bool, as_hex: bool, raw: bool, pages: bool,
    plugins: bool,
) -> None:  # fmt: skip
    wrong = [
        (record and pfn, "--record and --pfn contradict each other"),
        (pages and (record or pfn), "--pages is about the whole image"),
        (raw and not (record or pfn), "--raw needs --record or --pfn"),
        (as_hex and not record, "--hex needs --record"),
        (as_hex + raw + settings.json > 1, "--json, --hex and --raw contradict each other"),
    ]
    # a default from the environment is no contradiction: pages have no plugin to choose
    given = click.get_current_context().get_parameter_source("plugins")
    explicit = given is click.core.ParameterSource.COMMANDLINE
    wrong.append((pfn and plugins and explicit, "--plugins is about records, not about pages"))
    for is_wrong, message in wrong:
        if is_wrong:
            raise click.UsageError(message, click.get_current_context())


def _show_image(
    settings: Settings, address: str, source: str, pages: bool, base: str | None,
    plugins: Sequence[str] | None, manager: PluginManager,
) -> int:  # fmt: skip
    from ..pipeline.inspect import inspect
    from .output import write_json
    from .progress_bar import progress_shown
    from .tree import write_tree

    with progress_shown(settings) as progress:
        found = inspect(
            address, page_statistics=pages, base=base, plugins=plugins, manager=manager,
            progress=progress,
        )  # fmt: skip
    if settings.json:
        write_json(settings, "inspect", image_as_json(found))
    else:
        write_tree(image_tree(source, found))
    return 0


def image_as_json(found: Inspection) -> dict[str, Any]:
    """What docs/schemas/inspect.json describes, without its ``schema``."""
    import attrs

    from ..pipeline.inspect import RecordItem
    from .report import info_as_json, remarks_as_json

    report = found.report
    return {
        "source": {**info_as_json(found.info), "size_bytes": report.source_bytes},
        "items": [
            {"kind": "record" if isinstance(item, RecordItem) else "memory", **attrs.asdict(item)}
            for item in found.items
        ],
        "nr_batches": report.nr_batches,
        "nr_pfns": report.nr_pfns,
        "nr_pages": report.nr_pages,
        "remarks": remarks_as_json(report),
        "page_statistics": attrs.asdict(found.statistics) if found.statistics else None,
        "look": attrs.asdict(found.look) if found.look else None,
    }


def image_tree(source: str, found: Inspection) -> Node:
    from ..pipeline.inspect import RecordItem
    from .output import size
    from .report import describe, remark_lines
    from .tree import Node, field_nodes

    nodes = [Node("about", "", field_nodes(dict(found.info.details), whole=False))]
    nodes += [Node("remarks", "", [Node(line, "") for line in remark_lines(found.report)])][
        : bool(found.report.remarks)
    ]
    for item in found.items:
        if isinstance(item, RecordItem):
            fields = field_nodes(item.fields, whole=False)
            nodes.append(Node(item.name, _about_record(item), fields))
        else:
            nodes.append(_memory_node(item))
    if found.statistics is not None:
        nodes.append(_statistics_node(found.statistics))
    about = describe(found.info)
    if found.look is None:
        about += f", {size(found.report.source_bytes)}"
    else:
        nodes.insert(1, _look_node(found.look))
    return Node("standard input" if source == "-" else source, about, nodes)


def _look_node(look: Look) -> Node:
    """What belongs together, and what does not."""
    from ..quantities import ms
    from .tree import Node

    children = [Node("state", f"of one moment: it was paused for {ms(look.paused_s)}"),
                Node("memory", "as it ran on: batch by batch, of no one moment")]  # fmt: skip
    if look.nr_in_transition:
        children.append(Node("in transition", f"{look.nr_in_transition} pages, shown as absent"))
    if look.not_looked_at:
        children.append(Node("not looked at", ", ".join(look.not_looked_at)))
    return Node("looked at", "", children)


def _about_record(item: RecordItem) -> str:
    parts = [f"{item.size_bytes} bytes" + (f" at {item.offset:#x}" if item.offset else "")]
    if item.number:
        parts.insert(0, f"#{item.number}")
    if item.version != 1:
        parts.append(f"version {item.version}")
    if not item.mandatory:
        parts.append("optional")
    if not item.understood:
        parts.append(f"not understood here, of plugin {item.plugin or 'unknown'}")
    return ", ".join(parts)


def _memory_node(item: MemoryItem) -> Node:
    from .tree import Node

    children = [Node(name, str(count)) for name, count in item.types.items()]
    span = ""
    if item.first_pfn is not None and item.last_pfn is not None:
        span = f" of pfns {item.first_pfn:#x}-{item.last_pfn:#x}"
    return Node(
        item.name,
        f"{item.nr_pages} pages, {item.nr_pfns} entries{span} "
        f"in {item.nr_batches} batches" + (f" from {item.offset:#x} on" if item.offset else ""),
        children,
    )


def _statistics_node(statistics: PageStatistics) -> Node:
    from .tree import Node

    def share(count: int) -> str:
        percent = 100 * count / statistics.nr_pages if statistics.nr_pages else 0
        return f"{count} ({percent:.1f} %)"

    about = "estimated from a sample" if statistics.estimated else "counted"
    return Node("pages with contents", f"{statistics.nr_pages}, {about}", [
        Node("zero", share(statistics.nr_zero)),
        Node("equal to an earlier one", share(statistics.nr_duplicate)),
        Node("others", share(statistics.nr_pages - statistics.nr_zero - statistics.nr_duplicate)),
    ])  # fmt: skip


def _show_record(
    settings: Settings, address: str, wanted: tuple[str, int], plugins: Sequence[str] | None,
    manager: PluginManager, sink: Sink | None, as_hex: bool,
) -> int:  # fmt: skip
    import attrs

    from ..pipeline.inspect import read_record
    from .hexdump import hexdump
    from .output import write_json, write_text
    from .tree import write_tree

    found = read_record(address, *wanted, plugins=plugins, manager=manager)
    if sink is not None:
        sink.put([found.record.body])
        sink.commit()
    elif as_hex:
        write_text(hexdump(bytes(found.record.body)))
    elif settings.json:
        write_json(settings, "record", attrs.asdict(found.item))
    else:
        write_tree(record_tree(found))
    return 0


def record_tree(found: FoundRecord) -> Node:
    from .tree import Node, field_nodes

    item = found.item
    about = _about_record(item)
    if item.understood:
        about += f", of plugin {item.plugin}"
    return Node(item.name, about, field_nodes(item.fields, whole=True))


def _show_pfns(
    settings: Settings, address: str, pfns: range, base: str | None, manager: PluginManager,
    sink: Sink | None,
) -> int:  # fmt: skip
    from ..batch import TYPE_NAMES
    from ..errors import XsaveError
    from ..pipeline.inspect import read_pfns
    from .addresses import names_domain
    from .failure import report_error
    from .hexdump import hexdump
    from .output import write_json, write_text

    found = read_pfns(address, pfns, base=base, manager=manager)
    absent = [pfn for pfn in pfns if pfn not in found]
    what = "domain" if names_domain(address, manager) else "image"
    missing = XsaveError(f"the {what} does not mention {_describe_pfns(absent)}")
    pages = [
        (pfn, TYPE_NAMES[found[pfn][0]] if pfn in found else None, found.get(pfn, (0, None))[1])
        for pfn in pfns
    ]
    if sink is not None:
        empty = [pfn for pfn, name, page in pages if name is not None and page is None]
        if absent:
            raise missing
        if empty:
            raise XsaveError(
                f"no contents were saved of {_describe_pfns(empty)}, so there are no bytes to "
                "write (without --raw their types are shown)"
            )
        sink.put([page.tobytes() for _, _, page in pages if page is not None])
        sink.commit()
        return 0
    if settings.json:
        shown = [
            {"pfn": pfn, "type": name, "hex": None if page is None else page.tobytes().hex()}
            for pfn, name, page in pages
        ]
        write_json(settings, "pages", {"pages": shown})
        settings.json = False  # that was the one object; what is missing has type null
    else:
        for pfn, name, page in pages:
            if page is None:
                about = f"{name}, without contents" if name else f"not in the {what}"
                write_text([f"pfn {pfn:#x}  {about}"])
            else:
                write_text([f"pfn {pfn:#x}  {name}"])
                write_text(hexdump(page.tobytes(), pfn * page.shape[1]))
    return report_error(missing, settings) if absent else 0


def _describe_pfns(pfns: Sequence[int]) -> str:
    """Runs, the first few: ``pfns 0x10-0x1f, 0x30``."""
    runs: list[tuple[int, int]] = []
    for pfn in pfns:
        if runs and runs[-1][1] == pfn - 1:
            runs[-1] = runs[-1][0], pfn
        else:
            runs.append((pfn, pfn))
    shown = [
        f"{first:#x}" if first == last else f"{first:#x}-{last:#x}" for first, last in runs[:8]
    ]
    more = f" and {len(runs) - 8} more ranges" if len(runs) > 8 else ""
    return f"pfn{'s' if len(pfns) > 1 else ''} {', '.join(shown)}{more}"
