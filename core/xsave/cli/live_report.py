"""What became of domains, as text and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from ..figure import BYTES, Figure
from ..policy import Iteration
from ..progress import (
    DOWNTIME_PARTS,
    DowntimeReport,
    GuestReport,
    MainJobReport,
    PluginFigures,
    RoundsReport,
    RunReport,
    SaveReport,
    StateReport,
)
from ..quantities import ms, percent, size
from .output import columns

ROUNDS_IN_TEXT = 5  # of the first, and as many of the last


def save_as_json(save: SaveReport, page_size: int) -> dict[str, Any]:
    """The member ``save`` of docs/schemas/run.json."""
    return {
        "live": save.live,
        "policy": save.policy or None,
        "iterations": [_iteration_as_json(one, page_size) for one in save.iterations],
        "rulings": [
            {"decision": ruling.decision.value, "reason": ruling.reason, "share": ruling.share}
            for ruling in save.rulings
        ],
        "final": None if save.final is None else _iteration_as_json(save.final, page_size),
        "nr_deferred": save.nr_deferred,
        "throttled": save.throttled,
        "downtime": downtime_as_json(save.downtime),
        "beside": [_beside_as_json(beside) for beside in save.beside],
        "rounds": None if save.rounds is None else _rounds_as_json(save.rounds),
    }


def _rounds_as_json(rounds: RoundsReport) -> dict[str, Any]:
    return {
        "count": rounds.count,
        "nr_pages": rounds.nr_pages,
        "sent_bytes": rounds.sent_bytes,
        "pause_s": rounds.pause_s,
        "longest_s": rounds.longest_s,
        "shown": [
            {
                "number": one.number,
                "ran_s": one.ran_s,
                "nr_pages": one.nr_pages,
                "sent_bytes": one.sent_bytes,
                "downtime": downtime_as_json(one.downtime),
            }
            for one in rounds.shown
        ],
    }


def _beside_as_json(beside: StateReport) -> dict[str, Any]:
    return {
        "plugin": beside.plugin,
        "figures": [attrs.asdict(figure) for figure in beside.figures],
        "passes": [attrs.asdict(one) for one in beside.passes],
    }


def arrived_as_json(arrived: Sequence[PluginFigures]) -> list[dict[str, Any]]:
    """The member ``arrived`` of docs/schemas/run.json."""
    return [attrs.asdict(one) for one in arrived]


def _iteration_as_json(one: Iteration, page_size: int) -> dict[str, Any]:
    return {
        **attrs.asdict(one),
        "bytes_per_s": one.pages_per_s * page_size,
        "dirty_bytes_per_s": one.dirty_per_s * page_size,
    }


def downtime_as_json(downtime: DowntimeReport) -> dict[str, float]:
    return {name: getattr(downtime, name) for name in (*DOWNTIME_PARTS, "total_s")}


def save_as_text(save: SaveReport, page_size: int) -> list[str]:
    """Iterations, why each was the last or not, and where the downtime went."""
    how = f"live, policy {save.policy}" if save.live else "paused first (not live)"
    pages = "1 page" if save.nr_deferred == 1 else f"{save.nr_deferred} pages"
    lines = [f"  {how}; {pages} deferred until later"]
    if save.throttled is False:
        lines[0] += "; the guest was to be slowed, and cannot be here"
    rows: list[tuple[str, ...]] = [
        ("ITERATION", "PAGES", "SENT", "TIME", "RATE", "DIRTY THEN", "DIRTY RATE", "SHARE")
    ]
    rows += [_row(str(one.number), one, page_size) for one in save.iterations]
    if save.final is not None:
        rows.append(_row("paused", save.final, page_size))
    lines += columns(rows, "    ")
    lines += [
        f"    after {number}  {ruling.decision.value}: {ruling.reason}"
        for number, ruling in enumerate(save.rulings)
    ]
    if save.rounds is not None:
        lines += _rounds_lines(save.rounds)
    what = "downtime" if save.rounds is None else "last pause"
    lines += _downtime_lines(save.downtime, what)
    for beside in save.beside:
        lines += _beside_lines(beside)
    return lines


def _beside_lines(beside: StateReport) -> list[str]:
    plotted = beside.plotted
    rows = [("ITERATION", "RECORDS", "SIZE", *(figure.label.upper() for figure in plotted))]
    rows += [
        (one.name, f"{one.nr_records}", size(one.body_bytes),
         *(_figure(figure, one.figures[figure.name]) for figure in plotted))
        for one in beside.passes
    ]  # fmt: skip
    return [f"  beside memory, plugin {beside.plugin}", *columns(rows, "    "),
            *_figure_lines(beside.figures)]  # fmt: skip


def arrived_as_text(arrived: Sequence[PluginFigures]) -> list[str]:
    lines = []
    for one in arrived:
        lines += [f"  at the destination, plugin {one.plugin}", *_figure_lines(one.figures)]
    return lines


def _figure_lines(figures: Sequence[Figure]) -> list[str]:
    return columns([(_figure(one, one.value), one.label) for one in figures], "    ")


def _figure(figure: Figure, value: int) -> str:
    return size(value) if figure.unit == BYTES else f"{value}"


def _rounds_lines(rounds: RoundsReport) -> list[str]:
    """The first and the last ones, and what they were together."""
    times = "1 checkpoint" if rounds.count == 1 else f"{rounds.count} checkpoints"
    lines = [
        f"  {times}, {size(rounds.sent_bytes)}; paused {ms(rounds.pause_s)} in all, "
        f"{ms(rounds.longest_s)} at most"
    ]
    rows: list[tuple[str, ...]] = [("CHECKPOINT", "RAN", "PAGES", "SENT", "PAUSED")]
    shown = rounds.shown
    if len(shown) > 2 * ROUNDS_IN_TEXT:
        shown = [*shown[:ROUNDS_IN_TEXT], *shown[-ROUNDS_IN_TEXT:]]
    for one in shown:
        rows.append((
            f"{one.number}", ms(one.ran_s) if one.number else "-", f"{one.nr_pages}",
            size(one.sent_bytes), ms(one.downtime.total_s),
        ))  # fmt: skip
    table = columns(rows, "    ")
    if rounds.count > len(shown):
        left_out = f"    ... {rounds.count - len(shown)} more"
        table.insert(1 + ROUNDS_IN_TEXT, left_out)
    return [*lines, *table]


def _row(name: str, one: Iteration, page_size: int) -> tuple[str, ...]:
    paused = name == "paused"
    return (
        name,
        f"{one.nr_pages}",
        size(one.sent_bytes),
        ms(one.duration_s),
        f"{size(one.pages_per_s * page_size)}/s",
        "-" if paused else f"{one.nr_dirty}",
        "-" if paused else f"{size(one.dirty_per_s * page_size)}/s",
        "-" if paused else percent(one.share),
    )


def _downtime_lines(downtime: DowntimeReport, what: str) -> list[str]:
    rows = [
        (ms(getattr(downtime, name)), about)
        for name, about in DOWNTIME_PARTS.items()
        if getattr(downtime, name)
        or name not in ("beside_s", "proof_s", "commit_s")  # where there are any
    ]
    which = f"{what} {ms(downtime.total_s)}"
    return [f"  {which}, of which", *columns(rows, "    ")]


def main_job_as_json(report: MainJobReport) -> dict[str, Any]:
    """What docs/schemas/main-job.json describes, without its ``schema``."""
    return {
        "ok": report.ok,
        "backend": report.backend,
        "plugins": report.plugins,
        "policy": report.policy,
        "guests": [_guest_as_json(guest) for guest in report.guests],
    }


def _guest_as_json(guest: GuestReport) -> dict[str, Any]:
    from .report import run_as_json

    def ran(report: RunReport | None) -> dict[str, Any] | None:
        return None if report is None else run_as_json(report, [])

    return {
        "name": guest.name,
        "address": guest.address,
        "guest_type": guest.guest_type.value,
        "left_out": guest.left_out or None,
        "equal": guest.equal,
        "compared": guest.parts,
        "image_differs": guest.image_differs,
        "move_differs": guest.move_differs,
        "saved": ran(guest.saved),
        "restored": ran(guest.restored),
        "moved": ran(guest.moved),
    }


def main_job_as_text(report: MainJobReport) -> list[str]:
    which = "all plugins" if report.plugins is None else f"plugins {', '.join(report.plugins)}"
    lines = [f"main job on backend {report.backend}, {which}, policy {report.policy}", ""]
    rows = [("GUEST", "TYPE", "WAY", "ITERATIONS", "PAGES", "TIME", "DOWNTIME", "ARRIVED")]
    for guest in report.guests:
        kind = guest.guest_type.value
        if guest.left_out:
            rows.append((guest.name, kind, "left out", "-", "-", "-", "-", "-"))
            continue
        for way, ran, differs in (
            ("into an image", guest.saved, None),
            ("from the image", guest.restored, guest.image_differs),
            ("straight over", guest.moved, guest.move_differs),
        ):
            if ran is not None:
                rows.append((guest.name, kind, way, *_run_cells(ran), _verdict(guest, differs)))
    lines += columns(rows)
    lines.append("")
    for guest in report.guests:
        lines += _remarks(guest)
    nr_proved = sum(guest.equal for guest in report.guests)
    left_out = [guest.name for guest in report.guests if guest.left_out]
    beside = f" ({', '.join(left_out)} left out)" if left_out else ""
    if not report.ok and report.plugins is not None:
        lines.append("what differs may belong to a plugin that is not among those chosen")
    if report.ok:
        lines.append(f"{nr_proved} guests arrived exactly as they left{beside}")
    else:
        lines.append("not every guest is proved to have arrived as it left")
    return lines


def _run_cells(ran: RunReport) -> tuple[str, str, str, str]:
    iterations, downtime = "-", "-"
    if ran.save is not None:
        iterations = f"{len(ran.save.iterations)} + 1" if ran.save.live else "1"
        # what was spent on comparing is the proof's, not the way's
        downtime = ms(ran.save.downtime.total_s - ran.save.downtime.proof_s)
    return iterations, f"{ran.nr_pages}", ms(ran.elapsed_s), downtime


def _verdict(guest: GuestReport, differs: list[str] | None) -> str:
    if differs is None:
        return "-"
    if not guest.parts:
        return "not compared"
    return "different" if differs else "equal"


def _remarks(guest: GuestReport) -> list[str]:
    if guest.left_out:
        return [f"{guest.name} is left out: {guest.left_out}"]
    if not guest.parts:
        return [f"{guest.name}: its backend has nothing to compare it by"]
    lines = _beside_remarks(guest)
    for way, differs in (
        ("from the image", guest.image_differs), ("straight over", guest.move_differs),
    ):  # fmt: skip
        if differs:
            lines.append(f"{guest.name}, {way}: different in {', '.join(differs)}")
    if not guest.image_differs and not guest.move_differs:
        lines.append(f"{guest.name}: compared at the pause, both ways: {', '.join(guest.parts)}")
    return lines


def _beside_remarks(guest: GuestReport) -> list[str]:
    """What was left to the pause of state beside memory."""
    if guest.moved is None or guest.moved.save is None:
        return []
    save = guest.moved.save
    lines = []
    for beside in save.beside:
        if not beside.passes:
            continue
        before, last = beside.passes[:-1], beside.passes[-1]
        told = [
            f"{sum(one.figures[figure.name] for one in before)} {figure.label}"
            f" while it ran and {last.figures[figure.name]} in the pause"
            for figure in beside.plotted
        ]
        took = ms(save.downtime.beside_s)
        lines.append(f"{guest.name}, straight over: {beside.plugin}: {', '.join(told)} ({took})")
    return lines
