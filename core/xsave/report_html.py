"""A run's report as one HTML page that needs nothing else: no script, no font, no image, no
other file; light or dark as the reader's system is. Report in, text out.

What comes from an image or a guest (names, reasons) is escaped, whatever it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeVar

from .figure import BYTES, Figure
from .policy import Iteration
from .progress import (
    DOWNTIME_PARTS,
    HANDING_OVER,
    ROUNDS_KEPT,
    DowntimeReport,
    GuestReport,
    MainJobReport,
    MigrationReport,
    PluginFigures,
    RoundsReport,
    RunReport,
    SaveReport,
    StatePass,
    StateReport,
)
from .quantities import ms, percent, size
from .value_class import frozen

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5b6675; --paper: #ffffff;
  --card: #f5f7fa; --line: #d5dbe3; --one: #2563eb; --two: #d97706; --bad: #b91c1c;
  --good: #15803d; --p0: #64748b; --p1: #2563eb; --p2: #be185d; --p3: #0d9488; --p4: #d97706;
  --p5: #c4b5fd; --p6: #16a34a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f0; --dim: #98a4b3; --paper: #12161c; --card: #1b212a; --line: #36404d;
    --one: #6ea8fe; --two: #f5b454; --bad: #f87171; --good: #4ade80; --p0: #94a3b8;
    --p1: #6ea8fe; --p2: #f472b6; --p3: #2dd4bf; --p4: #f5b454; --p5: #7c6fb0;
    --p6: #4ade80; } }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .3rem 0; } .dim { color: var(--dim); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.wide { overflow-x: auto; }
table { margin: .8rem 0; border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--dim); font-weight: 500; }
th:first-child, td:first-child, th.text, td.text, th.words { text-align: left; }
td.words { text-align: left; white-space: normal; min-width: 18rem; }
figure { margin: 1rem 0; padding: .8rem 1rem; background: var(--card); border-radius: 8px; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .axis { fill: var(--dim); } svg .grid { stroke: var(--line); stroke-width: 1; }
.one { fill: var(--one); } .two { fill: var(--two); }
.line1 { fill: none; stroke: var(--one); stroke-width: 2; }
.line2 { fill: none; stroke: var(--two); stroke-width: 2; }
.p0 { fill: var(--p0); } .p1 { fill: var(--p1); } .p2 { fill: var(--p2); }
.p3 { fill: var(--p3); } .p4 { fill: var(--p4); } .p5 { fill: var(--p5); }
.p6 { fill: var(--p6); }
""".strip()

T = TypeVar("T")

# Of each checkpoint, beside the whole.
_ROUND_PARTS = tuple(name for name in DOWNTIME_PARTS if name not in ("beside_s", "proof_s"))
WIDTH, LEFT, RIGHT, TOP = 720, 56, 704, 34  # of all plots, in their own units
_NAME_WIDTH = 34
_GROUP_MAX = 24  # iterations shown; of more, the first and the last ones


def run_page(report: RunReport) -> str:
    """Of one run; what is about a live domain only where the source was one."""
    info = report.source
    what = _source_name(report)
    lines = [
        f"<h1>{escape(what)} → {escape(report.dest_format)}</h1>",
        f'<p class="dim">{escape(info.guest_type.value)}'
        + (f", Xen {escape(info.xen_version)}" if info.xen_version else "")
        + (f", codec {escape(report.codec)}" if report.codec else "")
        + "</p>",
        *_facts(report),
    ]
    if report.save is not None:
        lines += ["<h2>How its memory went out</h2>", *_save(report.save, info.page_size)]
    lines += _arrived(report.arrived)
    lines += ["<h2>Records</h2>", *_records(report)]
    return page(f"xsave: {what} → {report.dest_format}", lines)


def migration_page(report: MigrationReport) -> str:
    """Of one migration, at either end."""
    way = "to" if report.role == "source" else "from"
    what = f"{report.guest}, {way} {report.peer}"
    lines = [
        f"<h1>{escape(what)}</h1>",
        f'<p class="dim">migration {escape(report.id)}, seen at the {escape(report.role)}: '
        f"{escape(report.outcome)}</p>",
    ]
    link = report.link
    rows = [(HANDING_OVER.get(name, name), ms(seconds)) for name, seconds in report.times.items()]
    if link is not None:
        rows += [
            ("channels", str(link.nr_channels)),
            ("link broke and came back", f"{link.nr_reconnections} times"),
            ("sent again for that", size(link.resent_bytes)),
        ]
    if report.run is not None:
        lines += _facts(report.run)
    lines.append(table((), rows, text=(1,)))
    if report.notices:
        lines += ["<h2>What is otherwise there</h2>", table(
            ("what", "why"), [(notice.name, notice.text) for notice in report.notices], words=(1,)
        )]  # fmt: skip
    if report.run is not None:
        if report.run.save is not None:
            lines += ["<h2>How its memory went out</h2>",
                      *_save(report.run.save, report.run.source.page_size)]  # fmt: skip
        lines += ["<h2>Records</h2>", *_records(report.run)]
    return page(f"xsave: {what}", lines)


def main_job_page(report: MainJobReport) -> str:
    """Of all guests of the main job."""
    which = "all plugins" if report.plugins is None else f"plugins {', '.join(report.plugins)}"
    verdict = (
        '<p class="good">Every guest arrived exactly as it left.</p>'
        if report.ok
        else '<p class="bad">Not every guest is proved to have arrived as it left.</p>'
    )
    lines = [
        "<h1>Main job</h1>",
        f'<p class="dim">backend {escape(report.backend)}, {escape(which)}, policy '
        f"{escape(report.policy)}</p>",
        verdict,
        *_overview(report.guests),
    ]
    for guest in report.guests:
        lines += _guest(guest)
    return page("xsave: main job", lines)


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """A whole document. :param style: beside what all pages have."""
    return "\n".join([
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE}\n{style}\n</style></head>",
        "<body>",
        *body,
        "</body>",
        "</html>",
        "",
    ])  # fmt: skip


def _source_name(report: RunReport) -> str:
    if report.source.format != "domain":
        return f"{report.source.format} image"
    return f"domain {report.source.details.get('name', '')}"


def _facts(report: RunReport) -> list[str]:
    rows = [
        ("pages", f"{report.nr_pages} with contents, {report.nr_pfns} pfns"),
        ("size", f"{size(report.source_bytes)} → {size(report.dest_bytes)}"),
        ("time", f"{report.elapsed_s:.2f} s"),
    ]
    rows += [("carried", f"{name}: no plugin in use understands it") for name in report.carried]
    rows += [
        ("left out", f"{name}, {count} of them: no place for it in {report.dest_format}")
        for name, count in report.left_out.items()
    ]
    rows += [
        ("lost", f"{name}, {count} of them, as allowed: no place for it in {report.dest_format}")
        for name, count in report.lost.items()
    ]
    rows += [("lost before" if r.is_loss else "remark", r.text) for r in report.remarks]
    if (standby := report.standby) is not None:
        how = "took over, and runs" if standby.running else "is complete, and paused"
        rows.append(("standby", f"{standby.name} {how}, as of checkpoint {standby.nr_checkpoints}"))
        if standby.broke:
            rows.append(("broken off", standby.broke))
    return [table((), rows, text=(1,))]


def _records(report: RunReport) -> list[str]:
    rows = [
        (count.name, count.plugin or "unknown", str(count.count),
         size(count.body_bytes) if count.body_bytes else "-")
        for count in report.records.values()
    ]  # fmt: skip
    return [table(("record", "plugin", "count", "bodies"), rows, text=(1,))]


def _overview(guests: Sequence[GuestReport]) -> list[str]:
    rows = []
    for guest in guests:
        kind = guest.guest_type.value
        if guest.left_out:
            rows.append((guest.name, kind, "left out", "-", "-", "-", "-"))
        for way, ran, differs in (
            ("into an image", guest.saved, None),
            ("from the image", guest.restored, guest.image_differs),
            ("straight over", guest.moved, guest.move_differs),
        ):
            if ran is None:
                continue
            downtime = "-"
            if ran.save is not None:
                downtime = ms(ran.save.downtime.total_s - ran.save.downtime.proof_s)
            told = "-" if differs is None else _verdict(guest, differs)
            rows.append((guest.name, kind, way, str(ran.nr_pages), ms(ran.elapsed_s), downtime,
                         told))  # fmt: skip
    return [table(("guest", "type", "way", "pages", "time", "downtime", "arrived"), rows,
                  text=(1, 2))]  # fmt: skip


def _verdict(guest: GuestReport, differs: Sequence[str]) -> str:
    if not guest.parts:
        return "not compared"
    return "different" if differs else "equal"


def _guest(guest: GuestReport) -> list[str]:
    lines = [
        f"<h2>{escape(guest.name)}</h2>",
        f'<p class="dim">{escape(guest.address)}</p>',
    ]
    if guest.left_out:
        return [*lines, f"<p>Left out: {escape(guest.left_out)}.</p>"]
    for way, differs in (
        ("from the image", guest.image_differs), ("straight over", guest.move_differs),
    ):  # fmt: skip
        if differs:
            lines.append(f'<p class="bad">Different {way}: {escape(", ".join(differs))}</p>')
    if guest.parts:
        lines.append(f"<p>Compared at the pause: {escape(', '.join(guest.parts))}.</p>")
    for way, ran in (("Into an image", guest.saved), ("Straight over", guest.moved)):
        if ran is not None and ran.save is not None:
            lines += [f"<h3>{way}</h3>", *_save(ran.save, ran.source.page_size)]
    if guest.moved is not None:
        lines += _arrived(guest.moved.arrived)
        lines += ["<h3>Records that went straight over</h3>", *_records(guest.moved)]
    return lines


def _save(save: SaveReport, page_size: int) -> list[str]:
    """Iterations, rates, rulings, downtime."""
    how = f"live, policy {save.policy}" if save.live else "paused first (not live)"
    pages = "1 page" if save.nr_deferred == 1 else f"{save.nr_deferred} pages"
    throttled = "; was to be slowed, and cannot be here" if save.throttled is False else ""
    lines = [
        f"<p>{escape(how)}; {pages} deferred until later{throttled}</p>",
        *_iteration_plots(save, page_size),
        _downtime_plot(save.downtime, "Downtime" if save.rounds is None else "Last pause"),
        _iteration_table(save, page_size),
    ]
    if save.rounds is not None:
        lines += _rounds(save.rounds)
    if save.rulings:
        rows = [
            (str(number), ruling.decision.value, ruling.reason)
            for number, ruling in enumerate(save.rulings)
        ]
        lines.append(table(("after", "ruling", "reason"), rows, text=(1,), words=(2,)))
    for beside in save.beside:
        lines += _beside(beside)
    return lines


def _beside(beside: StateReport) -> list[str]:
    """What one plugin sent beside memory: over the iterations, in the pause, and in all."""
    lines = [f"<h3>Beside memory: {escape(beside.plugin)}</h3>"]
    if plotted := beside.plotted[:2]:
        groups = [_beside_group(one, plotted) for one in _shortened(beside.passes)]
        names = [figure.label for figure in plotted]
        about = f"Beside memory, {beside.plugin}: {' and '.join(names)} (logarithmic)"
        lines.append(figure(about, bar_plot(groups, names, f"{beside.plugin}, by iteration")))
    if beside.passes and (last := beside.passes[-1]).name == "paused":
        grown = [f"{last.figures[one.name]} {one.label}" for one in beside.plotted]
        told = ", ".join([f"{last.nr_records} records ({size(last.body_bytes)})", *grown])
        lines.append(f"<p>While the guest stood still: {escape(told)}.</p>")
    return [*lines, _figures(beside.figures)]


def _beside_group(one: StatePass, plotted: Sequence[Figure]) -> _Group:
    values = [float(one.figures[figure.name]) for figure in plotted]
    return _Group(one.name, values[0], values[1] if len(values) > 1 else None)


def _arrived(arrived: Sequence[PluginFigures]) -> list[str]:
    lines = []
    for one in arrived:
        lines += [f"<h3>At the destination: {escape(one.plugin)}</h3>", _figures(one.figures)]
    return lines


def _figures(figures: Sequence[Figure]) -> str:
    rows = [
        (one.label, size(one.value) if one.unit == BYTES else str(one.value)) for one in figures
    ]
    return table((), rows)


def _rounds(rounds: RoundsReport) -> list[str]:
    """How long the guest stood still for each checkpoint, and for what."""
    shown = rounds.shown
    times = "1 checkpoint" if rounds.count == 1 else f"{rounds.count} checkpoints"
    left_out = (
        f"; the first and the last {ROUNDS_KEPT} are shown" if rounds.count > len(shown) else ""
    )
    rows = [
        (
            str(one.number), ms(one.ran_s) if one.number else "-", str(one.nr_pages),
            size(one.sent_bytes), ms(one.downtime.total_s),
            *(ms(getattr(one.downtime, name)) for name in _ROUND_PARTS),
        )
        for one in shown
    ]  # fmt: skip
    pauses = [_Group(str(one.number), one.downtime.total_s * 1e3, None) for one in shown]
    head = ("checkpoint", "ran", "pages", "sent", "paused",
            *(DOWNTIME_PARTS[name] for name in _ROUND_PARTS))  # fmt: skip
    return [
        f"<p>{times}, {size(rounds.sent_bytes)}; paused {ms(rounds.pause_s)} in all, "
        f"{ms(rounds.longest_s)} at most{left_out}</p>",
        figure(
            "Pauses of the checkpoints, ms",
            line_plot(pauses, ("paused",), "pauses, by checkpoint"),
        ),
        table(head, rows),
    ]


def _iteration_table(save: SaveReport, page_size: int) -> str:
    rows = [_iteration_row(str(one.number), one, page_size) for one in save.iterations]
    if save.final is not None:
        rows.append((*_iteration_row("paused", save.final, page_size)[:5], "-", "-", "-"))
    head = ("iteration", "pages", "sent", "time", "rate", "dirty then", "dirty rate", "share")
    return table(head, rows)


def _iteration_row(name: str, one: Iteration, page_size: int) -> tuple[str, ...]:
    return (
        name, str(one.nr_pages), size(one.sent_bytes), ms(one.duration_s),
        f"{size(one.pages_per_s * page_size)}/s", str(one.nr_dirty),
        f"{size(one.dirty_per_s * page_size)}/s", percent(one.share),
    )  # fmt: skip


# Plots.


@frozen
class _Group:
    """What is shown of one iteration.

    :ivar sent, dirty: or whatever else two bars or lines are of; None where there is none, as
        when the guest stood still.
    """

    name: str
    sent: float
    dirty: float | None


def _iteration_plots(save: SaveReport, page_size: int) -> list[str]:
    if not save.iterations and save.final is None:
        return []
    shown = _shortened(save.iterations)
    pages = [_Group(str(one.number), one.nr_pages, one.nr_dirty) for one in shown]
    mib = page_size / (1 << 20)
    rates = [_Group(str(one.number), one.pages_per_s * mib, one.dirty_per_s * mib) for one in shown]
    if save.final is not None:
        pages.append(_Group("paused", save.final.nr_pages, None))
    bars = bar_plot(pages, ("sent", "dirty afterwards"), "pages sent and dirty, by iteration")
    plots = [figure("Iterations: pages sent, and dirty afterwards (logarithmic)", bars)]
    if rates:
        plots.append(figure("Rate of sending and of dirtying, MiB/s", line_plot(rates)))
    return plots


def _shortened(iterations: Sequence[T]) -> Sequence[T]:
    if len(iterations) <= _GROUP_MAX:
        return iterations
    return [*iterations[: _GROUP_MAX // 2], *iterations[-_GROUP_MAX // 2 :]]


def bar_plot(groups: Sequence[_Group], names: Sequence[str], about: str) -> str:
    """Two bars for each iteration; a logarithmic scale, since the first one dwarfs all.

    :param names: of the bars; :param about: the plot in words.
    """
    height, floor = 242, 215
    highest = max(1.0, *(max(group.sent, group.dirty or 0) for group in groups))
    decades = max(1, math.ceil(math.log10(highest + 1)))

    def top(value: float) -> float:
        return floor - (floor - TOP) * math.log10(value + 1) / decades

    marks = [*legend(*names)]
    for decade in range(decades + 1):
        marks += _grid(top(10**decade - 1), _count(10**decade if decade else 0))
    step = (RIGHT - LEFT) / len(groups)
    width = min(34.0, step * 0.38)
    for number, group in enumerate(groups):
        middle = LEFT + step * (number + 0.5)
        marks.append(text_mark(middle, floor + 18, group.name, "axis"))
        bars = [("one", group.sent)] + ([] if group.dirty is None else [("two", group.dirty)])
        for place, (kind, value) in enumerate(bars):
            left = middle - width * len(bars) / 2 + width * place
            high = floor - top(value)
            marks.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{top(value):.1f}" '
                f'width="{width - 2:.1f}" height="{high:.1f}"/>'
            )
            if width > 18:
                marks.append(text_mark(left + width / 2 - 1, top(value) - 4, _count(int(value))))
    return svg(height, marks, about)


def line_plot(
    groups: Sequence[_Group], names: Sequence[str] = ("sending", "dirtying"),
    label: str = "rates of sending and dirtying, by iteration",
) -> str:  # fmt: skip
    """A line over the groups, from 0 on; a second one where they are dirty."""
    height, floor = 222, 195
    highest = nice(max(max(group.sent, group.dirty or 0) for group in groups))
    step = (RIGHT - LEFT) / len(groups)
    is_two = any(group.dirty is not None for group in groups)

    def point(number: int, value: float) -> tuple[float, float]:
        return LEFT + step * (number + 0.5), floor - (floor - TOP) * value / highest

    marks = [*legend(*names)]
    for quarter in range(5):
        value = highest * quarter / 4
        marks += _grid(floor - (floor - TOP) * quarter / 4, f"{value:g}")
    every = math.ceil(_NAME_WIDTH / step)  # as many names as there is room for
    for number, group in enumerate(groups[::every]):
        marks.append(text_mark(point(number * every, 0)[0], floor + 18, group.name, "axis"))
    lines = [("line1", "one", [group.sent for group in groups])]
    if is_two:
        lines.append(("line2", "two", [group.dirty or 0.0 for group in groups]))
    for line, kind, values in lines:
        points = [point(number, value) for number, value in enumerate(values)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        marks.append(f'<polyline class="{line}" points="{path}"/>')
        for (x, y), value in zip(points, values, strict=True):
            marks.append(
                f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{min(4, step):.1f}"/>'
            )
            if step > 60:
                marks.append(text_mark(x, y - 8, f"{value:.4g}"))
    return svg(height, marks, label)


def _downtime_plot(downtime: DowntimeReport, what: str = "Downtime") -> str:
    """One bar, as long as the downtime; its parts in it."""
    total = downtime.total_s
    marks: list[str] = []
    left = 0.0
    shown = [(name, about) for name, about in DOWNTIME_PARTS.items() if getattr(downtime, name) > 0]
    for number, (name, about) in enumerate(shown):
        seconds = getattr(downtime, name)
        width = WIDTH * seconds / total
        kind = f"p{list(DOWNTIME_PARTS).index(name)}"
        marks.append(f'<rect class="{kind}" x="{left:.1f}" y="4" width="{width:.1f}" height="30"/>')
        left += width
        column, row = number % 3, number // 3
        x, y = column * WIDTH / 3, 56 + 22 * row
        marks.append(f'<rect class="{kind}" x="{x:.1f}" y="{y - 10}" width="11" height="11"/>')
        marks.append(text_mark(x + 17, y, f"{about}: {ms(seconds)}", anchor="start"))
    height = 52 + 22 * max(1, math.ceil(len(shown) / 3))
    plot = svg(height, marks, "parts of the downtime")
    return figure(f"{what} {ms(total)}: where it went", plot)


def figure(caption: str, plot: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>\n{plot}\n</figure>"


def svg(height: int, marks: Iterable[str], label: str) -> str:
    inner = "\n".join(marks)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">\n'
        f"{inner}\n</svg>"
    )


def legend(*names: str) -> list[str]:
    marks = []
    x = float(LEFT)
    for kind, name in zip(("one", "two"), names, strict=False):
        marks.append(f'<rect class="{kind}" x="{x}" y="2" width="11" height="11"/>')
        marks.append(text_mark(x + 17, 12, name, anchor="start"))
        x += max(110.0, 40 + 7 * len(name))  # as wide as a name may be
    return marks


def _grid(y: float, name: str) -> list[str]:
    return [
        f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}"/>',
        text_mark(LEFT - 8, y + 4, name, "axis", "end"),
    ]


def text_mark(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, text: Sequence[int] = (),
    words: Sequence[int] = (),
) -> str:  # fmt: skip
    """:param head: empty for none.
    :param text: columns of words instead of numbers; :param words: of sentences.
    """
    kinds = {**dict.fromkeys(text, ' class="text"'), **dict.fromkeys(words, ' class="words"')}
    lines = ['<div class="wide"><table>']
    if head:
        cells = (f"<th{kinds.get(at, '')}>{escape(name)}</th>" for at, name in enumerate(head))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    for row in rows:
        cells = (f"<td{kinds.get(at, '')}>{escape(cell)}</td>" for at, cell in enumerate(row))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append("</table></div>")
    return "\n".join(lines)


def nice(value: float) -> float:
    """A round number not below it."""
    if value <= 0:
        return 1.0
    decade: float = 10 ** math.floor(math.log10(value))
    steps = (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10, 20)  # the last one where rounding is in the way
    return next(decade * step for step in steps if decade * step >= value)


def _count(value: int) -> str:
    """``1000000`` as ``1M``; exact below ten thousand."""
    for power, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= power * (10 if power == 10**3 else 1):
            return f"{value / power:.3g}{unit}"
    return str(value)
