"""An image as one HTML page that needs nothing else: a picture of its memory, what the guest
has, what a host must have to restore it, and every record field by field. Survey in, text out.

What comes from an image is escaped, whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from ..handler import Highlight
from ..pipeline.inspect import RecordItem
from ..pipeline.survey import ABSENT, CELLS, CONTENTS, MapRow, MemoryMap, Survey, by_topic
from ..quantities import percent, size
from ..record import GuestType
from ..report_html import WIDTH, figure, page, svg, table, text_mark

_LEFT = 92  # room for a row's first pfn
_CELL, _ROW = 4.75, 9
_ROWS_PER_NAME = 4  # a name is higher than a row
_FIELDS_MAX = 400  # lines of one record
_LINE_MAX = 160  # characters of a value

_CAPTIONS = {"vcpus": "Processors", "devices": "Devices", "needs": "What it needs to be restored"}
# By index of CONTENTS; the page's own colours, so that it is readable in the dark, too.
_KINDS = ("", "m1", "m2", "m3", "m4", "m5", "m6")
_STYLE = """
:root { --m1: #cbd5e1; --m2: #2563eb; --m3: #94a3b8; --m4: #d97706; --m5: #b45309; --m6: #b91c1c; }
@media (prefers-color-scheme: dark) {
  :root { --m1: #334155; --m2: #6ea8fe; --m3: #64748b; --m4: #f5b454; --m5: #fbbf24;
    --m6: #f87171; } }
.m1 { fill: var(--m1); } .m2 { fill: var(--m2); } .m3 { fill: var(--m3); }
.m4 { fill: var(--m4); } .m5 { fill: var(--m5); } .m6 { fill: var(--m6); }
details { margin: .3rem 0; } summary { cursor: pointer; }
pre { margin: .4rem 0 .8rem; padding: .6rem .8rem; background: var(--card); border-radius: 6px;
  overflow-x: auto; font: 12px/1.45 ui-monospace, monospace; }
""".strip()


def image_page(name: str, found: Survey) -> str:
    """:param name: of the image, as it was asked for."""
    info = found.info
    xen = f", Xen {escape(info.xen_version)}" if info.xen_version else ""
    topics = by_topic([*found.highlights, *_own_needs(found)])
    lines = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="dim">{escape(info.format)} image, {_guest(info.guest_type)}{xen}, '
        f"{size(found.report.source_bytes)}</p>",
        "<h2>Memory</h2>",
        *_memory(found),
    ]
    known = [topic for topic in _CAPTIONS if topic in topics]
    for topic in [*known, *(topic for topic in topics if topic not in _CAPTIONS)]:
        lines += [f"<h2>{escape(_CAPTIONS.get(topic, topic))}</h2>", _topic(topics[topic])]
    lines += ["<h2>Records</h2>", *_records(found)]
    return page(f"xsave: {name}", lines, _STYLE)


def _guest(kind: GuestType) -> str:
    return "a guest of unknown type" if kind is GuestType.UNKNOWN else f"an {kind.value} guest"


def _own_needs(found: Survey) -> Iterator[Highlight]:
    present = found.nr_present
    text = f"{size(present * found.info.page_size)} for {present} pages"
    yield Highlight("needs", "room for its pages", text)
    for plugin, kinds in found.needs_plugins.items():
        records = "record" if kinds == 1 else "records"
        yield Highlight("needs", f"plugin {plugin}", f"for {kinds} mandatory {records}")


def _topic(things: list[Highlight]) -> str:
    return table((), [(one.name, one.text) for one in things], words=(1,))


# -- memory --------------------------------------------------------------------------


def _memory(found: Survey) -> Iterator[str]:
    page_size, counts = found.info.page_size, found.statistics
    if not found.map.rows:
        yield "<p>No pfn has memory.</p>"
        return
    per_cell = size(found.map.pfns_per_cell * page_size)
    caption = f"By pfn: each cell is {per_cell}; ranges without memory are left out"
    yield figure(caption, map_plot(found.map))
    present = found.nr_present
    yield table(("contents", "pfns", "size", "share"), [
        (name, str(count), size(count * page_size), percent(count / present))
        for name, count in found.contents.items()
    ])  # fmt: skip
    yield table(("page type", "pfns"), [(name, str(n)) for name, n in found.types.items()])
    estimated = ", estimated from a sample" if counts.estimated else ""
    share = percent(counts.nr_duplicate / counts.nr_pages) if counts.nr_pages else "0 %"
    yield (
        f'<p class="dim">Equal to an earlier page that is not zero: {counts.nr_duplicate} of '
        f"{counts.nr_pages} pages ({share}{estimated}).</p>"
    )


def map_plot(memory: MemoryMap) -> str:
    """A row of cells for each row of the map, runs of equal cells as one rectangle."""
    marks, shown = [], {cell for row in memory.rows for cell in row.cells} - {ABSENT}
    for number, kind in enumerate(sorted(shown)):
        x, y = 4 + number % 4 * WIDTH / 4, 12 + number // 4 * 18
        marks.append(
            f'<rect class="{_KINDS[kind]}" x="{x:.1f}" y="{y - 9}" width="10" height="10"/>'
        )
        marks.append(text_mark(x + 15, y, CONTENTS[kind], anchor="start"))
    top = 14 + 18 * -(-len(shown) // 4)
    expected, unnamed = -1, 0
    for row in memory.rows:
        if row.first_pfn != expected:
            top += 4  # ranges are missing here
            unnamed = 0
        expected = row.first_pfn + CELLS * memory.pfns_per_cell
        if not unnamed:
            marks.append(text_mark(_LEFT - 8, top + 9, f"{row.first_pfn:#x}", "axis", "end"))
        unnamed = (unnamed + 1) % _ROWS_PER_NAME
        marks += _runs(row, top)
        top += _ROW + 1
    return svg(top + 4, marks, "memory by page frame number")


def _runs(row: MapRow, top: int) -> Iterator[str]:
    start = 0
    for end in range(1, len(row.cells) + 1):
        if end < len(row.cells) and row.cells[end] == row.cells[start]:
            continue
        if (kind := row.cells[start]) != ABSENT:
            x, width = _LEFT + start * _CELL, (end - start) * _CELL
            yield (
                f'<rect class="{_KINDS[kind]}" x="{x:.2f}" y="{top}" width="{width:.2f}" '
                f'height="{_ROW}"/>'
            )
        start = end


# -- records -------------------------------------------------------------------------


def _records(found: Survey) -> Iterator[str]:
    for one in found.records:
        number = f" #{one.number}" if one.number else ""
        about = f"{one.size_bytes} bytes at {one.offset:#x}"
        notes = [about, f"plugin {one.plugin or 'unknown'}"]
        notes += ["optional"] * (not one.mandatory) + ["not understood"] * (not one.understood)
        summary = (
            f"<summary>{escape(one.name)}{number} "
            f'<span class="dim">{escape(", ".join(notes))}</span></summary>'
        )
        yield f"<details>{summary}\n<pre>{escape(_fields(one))}</pre></details>"


def _fields(one: RecordItem) -> str:
    lines: list[str] = []
    for line in _lines(one.fields, ""):
        if len(lines) == _FIELDS_MAX:
            lines.append("… more: see xsave inspect --record")
            break
        lines.append(line)
    return "\n".join(lines) or "no fields"


def _lines(value: Any, indent: str) -> Iterator[str]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = ((f"[{at}]", item) for at, item in enumerate(value))
    else:
        yield f"{indent}{_shortened(value)}"
    for name, item in items:
        if isinstance(item, dict | list) and item:
            yield f"{indent}{name}"
            yield from _lines(item, indent + "  ")
        else:
            yield f"{indent}{name}  {_shortened(item)}"


def _shortened(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 255:
        return f"{value} ({value:#x})"
    text = "-" if value is None or value in ([], {}) else str(value)
    return text if len(text) <= _LINE_MAX else f"{text[:_LINE_MAX]}… ({len(text)} characters)"
