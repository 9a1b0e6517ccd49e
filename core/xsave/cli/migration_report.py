"""What became of a migration, at either end, as text and as JSON values."""

from __future__ import annotations

from typing import Any

import attrs

from ..negotiation import Notice, host_as_data
from ..progress import HANDING_OVER, MigrationReport
from ..quantities import ms, size
from .live_report import save_as_text
from .output import columns
from .report import describe, run_as_json, stream_rows


def stayed_behind(report: MigrationReport) -> list[str]:
    """Each record that did not come along, by name."""
    return [
        f"stayed behind  {', '.join(name for name, _ in notice.without)}: {notice.text}"
        for notice in report.notices
        if notice.without
    ]


def migration_as_json(report: MigrationReport) -> dict[str, Any]:
    """What docs/schemas/migration.json describes, without its ``schema``."""
    return {
        "ok": True,
        "id": report.id,
        "role": report.role,
        "guest": report.guest,
        "peer": report.peer,
        "outcome": report.outcome,
        "host": None if report.host is None else host_as_data(report.host),
        "notices": [notice_as_json(notice) for notice in report.notices],
        "times": report.times,
        "link": None if report.link is None else attrs.asdict(report.link),
        "run": None if report.run is None else run_as_json(report.run, []),
    }


def notice_as_json(notice: Notice) -> dict[str, Any]:
    return {
        "name": notice.name,
        "text": notice.text,
        "without": [{"record": name, "key": key} for name, key in notice.without],
    }


def migration_as_text(report: MigrationReport) -> list[str]:
    run, link = report.run, report.link
    where = "to" if report.role == "source" else "from"
    what = f"guest {report.guest}" if run is None else describe(run.source)
    lines = [f"{what}, {where} {report.peer}: {OUTCOMES.get(report.outcome, report.outcome)}"]
    rows = [("migration", report.id)]
    if run is not None:
        rows += stream_rows(run)
        rows.append(
            ("stream", f"{size(run.dest_bytes or run.source_bytes)} in {run.elapsed_s:.2f} s")
        )
    if link is not None:
        again = "once" if link.nr_reconnections == 1 else f"{link.nr_reconnections} times"
        rows.append((
            "link", f"{link.nr_channels} channel" + ("s" if link.nr_channels != 1 else "")
            + (f", broke and came back {again}, {size(link.resent_bytes)} sent again"
               if link.nr_reconnections else ""),
        ))  # fmt: skip
    rows += [(HANDING_OVER.get(name, name), ms(seconds)) for name, seconds in report.times.items()]
    rows += [("notice", str(notice)) for notice in report.notices]
    lines += columns(rows, "  ")
    if run is not None and run.save is not None:
        lines += save_as_text(run.save, run.source.page_size)
    return lines


OUTCOMES = {
    "gone": "it runs there",
    "running": "it runs here",
    "closed": "it runs here",
}
