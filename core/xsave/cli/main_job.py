"""``xsave run`` without endpoints: the main job, on guests that a backend has for it."""

from __future__ import annotations

import tempfile
from typing import Any

from ..errors import EXIT_FAILED, EXIT_OK, OutputError, UsageError
from .live_options import only_given
from .settings import Settings

# What says where a guest goes or what becomes of it is settled here.
SETTLED = {
    "to": "--to", "add": "--add", "then": "--then", "base": "--base",
    "allow_loss": "--allow-loss",
}  # fmt: skip


def take_main_job(settings: Settings, report_file: str | None, options: dict[str, Any]) -> int:
    """Returns the exit code: 1 when a guest arrived as another than it left."""
    from ..manager import build_manager
    from ..pipeline.main_job import run_main_job
    from .live_report import main_job_as_json, main_job_as_text
    from .output import write_json, write_text
    from .progress_bar import progress_shown

    for name, said in SETTLED.items():
        if options.pop(name):
            raise UsageError(f"{said} needs SOURCE and DEST")
    try:
        folder = tempfile.TemporaryDirectory(prefix="xsave-")
    except OSError as error:
        raise OutputError(f"cannot make a temporary folder: {error.strerror or error}") from error
    with folder as path, progress_shown(settings) as progress:
        report = run_main_job(
            path, manager=build_manager(), progress=progress, **only_given(options)
        )
    if report_file is not None:
        from ..report_html import main_job_page
        from .report_file import write_page

        write_page(report_file, main_job_page(report))
    if settings.json:
        write_json(settings, "main-job", main_job_as_json(report))
    elif not settings.quiet or not report.ok:
        write_text(main_job_as_text(report))
    return EXIT_OK if report.ok else EXIT_FAILED
