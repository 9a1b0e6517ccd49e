"""``xsave run`` without endpoints: the main job, on guests that a backend has for it."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

from ..errors import EXIT_FAILED, EXIT_OK, OutputError, UsageError
from .live_options import only_given
from .settings import Settings

if TYPE_CHECKING:
    from ..progress import MainJobReport

# What says where a guest goes or what becomes of it is settled here.
SETTLED = {
    "to": "--to", "add": "--add", "then": "--then", "base": "--base",
    "allow_loss": "--allow-loss",
    "checkpoint": "--checkpoint", "take_over": "--take-over",
}  # fmt: skip


def take_main_job(settings: Settings, report_file: str | None, options: dict[str, Any]) -> int:
    """Returns the exit code: 1 when a guest arrived as another than it left."""
    from ..manager import build_manager
    from ..pipeline.main_job import run_main_job
    from .live_report import main_job_as_json, main_job_as_text
    from .output import write_json, write_text
    from .progress_bar import progress_shown
    from .report_file import page_file

    for name, said in SETTLED.items():
        if options.pop(name):
            raise UsageError(f"{said} needs SOURCE and DEST")
    try:
        folder = tempfile.TemporaryDirectory(prefix="xsave-")
    except OSError as error:
        raise OutputError(f"cannot make a temporary folder: {error.strerror or error}") from error
    with page_file(report_file) as write_report:
        with folder as path, progress_shown(settings) as progress:
            report = run_main_job(
                path, manager=build_manager(), progress=progress, **only_given(options)
            )
        write_report(lambda: _page(report))
    if settings.json:
        write_json(settings, "main-job", main_job_as_json(report))
    elif not settings.quiet or not report.ok:
        write_text(main_job_as_text(report))
    return EXIT_OK if report.ok else EXIT_FAILED


def _page(report: MainJobReport) -> str:
    from ..report_html import main_job_page

    return main_job_page(report)
