"""What went through the pipeline, as text and as JSON values."""

from __future__ import annotations

from typing import Any

import attrs

from ..pipeline.verify import VerifyReport
from ..present import to_json
from ..progress import RunReport, StandbyReport
from ..quantities import ms
from ..record import GuestType, ImageInfo
from .live_report import arrived_as_json, arrived_as_text, save_as_json, save_as_text
from .output import columns, size


def run_as_json(report: RunReport, added: list[str]) -> dict[str, Any]:
    """What docs/schemas/run.json describes, without its ``schema``."""
    return {
        "ok": True,
        "partial": report.partial,
        **_stream_as_json(report),
        "dest": {"format": report.dest_format, "size_bytes": report.dest_bytes},
        "codec": report.codec or None,
        "ratio": report.dest_bytes / report.source_bytes if report.source_bytes else None,
        "carried": report.carried,
        "added": added,
        "left_out": report.left_out,
        "lost": report.lost,
        "remarks": remarks_as_json(report),
        "headers_left_out": report.headers_left_out,
        "save": None if report.save is None else save_as_json(report.save, report.source.page_size),
        "arrived": arrived_as_json(report.arrived),
        "standby": None if report.standby is None else attrs.asdict(report.standby),
    }


def verify_as_json(report: VerifyReport) -> dict[str, Any]:
    """What docs/schemas/verify.json describes, without its ``schema``."""
    digest = {"algorithm": "xxh3-128", "value": report.digest} if report.digest else None
    return {
        "ok": True, **_stream_as_json(report), "fast": report.fast, "digest": digest,
        "remarks": remarks_as_json(report),
        "look": attrs.asdict(report.look) if report.look else None,
    }  # fmt: skip


def remarks_as_json(report: RunReport) -> list[dict[str, Any]]:
    return [{"text": remark.text, "is_loss": remark.is_loss} for remark in report.remarks]


def info_as_json(info: ImageInfo) -> dict[str, Any]:
    shown: dict[str, Any] = to_json(info)
    if not info.base:
        del shown["base"]
    return shown


def _stream_as_json(report: RunReport) -> dict[str, Any]:
    return {
        "source": {**info_as_json(report.source), "size_bytes": report.source_bytes},
        "plugins": report.plugins,
        "records": [attrs.asdict(count) for count in report.records.values()],
        "nr_batches": report.nr_batches,
        "nr_pfns": report.nr_pfns,
        "nr_pages": report.nr_pages,
        "elapsed_s": report.elapsed_s,
    }


def run_as_text(report: RunReport, added: list[str]) -> list[str]:
    dest = report.dest_format + (f", codec {report.codec}" if report.codec else "")
    ratio = (
        f" ({100 * report.dest_bytes / report.source_bytes:.1f} %)" if report.source_bytes else ""
    )
    rate = f", {size(report.source_bytes / report.elapsed_s)}/s" if report.elapsed_s else ""
    rows = [
        *stream_rows(report),
        ("size", f"{size(report.source_bytes)} -> {size(report.dest_bytes)}{ratio}"),
        ("time", f"{report.elapsed_s:.2f} s{rate}"),
    ]
    rows += [("added", name) for name in added]
    rows += [
        ("without", f"{name}: it is not part of format {report.dest_format}")
        for name in report.headers_left_out
    ]
    rows += [("carried", f"{name}: no plugin in use understands it") for name in report.carried]
    lines = [f"{describe(report.source)} -> {dest}", *columns(rows, "  ")]
    if report.save is not None:
        lines += save_as_text(report.save, report.source.page_size)
    lines += arrived_as_text(report.arrived)
    if report.standby is not None and not report.standby.broke:
        lines.append(f"  standby  {_standing(report.standby)}")
    return [*lines, *left_out(report, "  "), *broken_off(report, "  ")]


def left_out(report: RunReport, indent: str = "") -> list[str]:
    """Each record that was left out, by name, and what is to be said of the source."""
    no_place = f"{report.dest_format} has no place for it"
    return [
        *(f"{indent}{line}" for line in remark_lines(report)),
        *(
            f"{indent}left out  {name}, {count} of them: {no_place}"
            for name, count in report.left_out.items()
        ),
        *(
            f"{indent}lost  {name}, {count} of them, as allowed: {no_place}"
            for name, count in report.lost.items()
        ),
    ]


def remark_lines(report: RunReport) -> list[str]:
    return [
        f"{'lost before' if remark.is_loss else 'remark'}  {remark.text}"
        for remark in report.remarks
    ]


def _standing(standby: StandbyReport) -> str:
    number = standby.nr_checkpoints
    how = "took over, and runs" if standby.running else "is complete, and paused"
    return f"{standby.name} {how}, as of checkpoint {number}"


def broken_off(report: RunReport, indent: str = "") -> list[str]:
    """That a stream was not over, and what became of the guest."""
    if report.standby is None or not report.standby.broke:
        return []
    return [f"{indent}broken off  {report.standby.broke}; {_standing(report.standby)}"]


def verify_as_text(report: VerifyReport, *, with_base: bool = False) -> list[str]:
    looked_at = (
        "right, but not whole: it was saved without all of the guest's state"
        if report.is_source_partial
        else "whole and right"
    )
    rows = stream_rows(report)
    if report.look is None:
        rows.append(("size", size(report.source_bytes)))
    else:
        looked_at = "right, as a save would have it now"
        rows.append(("paused", f"for {ms(report.look.paused_s)}; it runs on"))
        if report.look.not_looked_at:
            rows.append(("not looked at", ", ".join(report.look.not_looked_at)))
    if report.fast:
        looked_at += ", as far as --fast looks: page contents were passed over"
    elif report.look is None:
        rows.append(("digest", f"xxh3-128 {report.digest}"))
    if report.source.base:
        rows.append(("base", report.source.base))
        if not with_base or report.fast:
            looked_at += "; it was written against its base, which was not looked at"
    remarks = [f"  {line}" for line in remark_lines(report)]
    return [describe(report.source), *columns(rows, "  "), *remarks, looked_at]


def describe(info: ImageInfo) -> str:
    """For example ``xl image of an x86_hvm guest, Xen 4.17``."""
    known = info.guest_type is not GuestType.UNKNOWN
    guest = f"an {info.guest_type.value} guest" if known else "a guest of unknown type"
    xen = f", Xen {info.xen_version}" if info.xen_version else ""
    if info.format == "domain":
        return f"domain {info.details.get('name', '')}, {guest}{xen}"
    return f"{info.format} image of {guest}{xen}"


def stream_rows(report: RunReport) -> list[tuple[str, str]]:
    """Records by plugin, and pages."""
    by_plugin: dict[str, list[str]] = {}
    for count in report.records.values():
        times = f" ({count.count})" if count.count != 1 else ""
        by_plugin.setdefault(count.plugin or "unknown", []).append(f"{count.name}{times}")
    rows = [(f"{plugin}", ", ".join(names)) for plugin, names in by_plugin.items()]
    pages = f"{report.nr_pages} with contents, {report.nr_pfns} pfns in {report.nr_batches} batches"
    return [*rows, ("pages", pages)]
