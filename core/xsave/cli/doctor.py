"""``xsave doctor``: what this machine and this installation can do, and what to mend."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

import click
from attrs import asdict

from ..value_class import frozen
from .options import json_option, pass_settings
from .settings import Settings

if TYPE_CHECKING:
    from ..manager import PluginManager

FINE, NOTE, WRONG = "fine", "note", "wrong"


@frozen
class Finding:
    """:ivar status: fine; note: works, but something would be better; wrong.
    :ivar remedy: what to do about it, "" where nothing is to be done.
    """

    subject: str
    what: str
    status: str
    remark: str
    remedy: str = ""


@click.command("doctor")
@json_option
@pass_settings
def command(settings: Settings) -> int:
    """Examine this installation: Python, plugins, terminal, the current folder.

    Each finding that is not fine comes with a remedy; the exit code is then 1.

    \b
    Examples:
      xsave doctor
      xsave doctor --json | jq '.findings[] | select(.status == "wrong")'
    """
    from .output import write_json, write_text

    findings = list(examine())
    wrong = sum(finding.status == WRONG for finding in findings)
    if settings.json:
        shown = [asdict(finding) for finding in findings]
        write_json(settings, "doctor", {"ok": not wrong, "findings": shown})
    else:
        write_text(as_text(findings, wrong))
    return 1 if wrong else 0


def as_text(findings: list[Finding], wrong: int) -> list[str]:
    from .output import columns

    marks = {FINE: "ok", NOTE: "note", WRONG: "WRONG"}
    rows = [(marks[f.status], f.subject, f.what, f.remark) for f in findings]
    lines = []
    for finding, line in zip(findings, columns(rows), strict=True):
        lines.append(line)
        if finding.remedy:
            lines.append(f"       to mend it: {finding.remedy}")
    lines.append("")
    lines.append("all is well" if not wrong else f"{wrong} to mend")
    return lines


def examine() -> Iterator[Finding]:
    """Everything, in the order in which it is worth reading."""
    from ..errors import XsaveError
    from ..manager import build_manager

    yield from _versions()
    yield from _extras()
    yield from _machine()
    yield from _terminal()
    try:
        manager = build_manager()
    except XsaveError as error:
        yield Finding("plugins", "load", WRONG, str(error), "uninstall one of the two")
        return
    yield from _plugins(manager)


def _versions() -> Iterator[Finding]:
    from .. import __version__
    from ..hookspecs import CONTRACT_VERSION

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("xsave", "version", FINE, f"{__version__}, contract {CONTRACT_VERSION}")
    yield Finding("python", "version", FINE, f"{python} at {sys.executable}")
    for package in ("attrs", "cbor2", "click", "numpy", "pluggy", "xxhash"):
        try:
            yield Finding("python", package, FINE, metadata.version(package))
        except metadata.PackageNotFoundError:
            remedy = f"pip install {package}"
            yield Finding("python", package, WRONG, "not installed", remedy)


def _extras() -> Iterator[Finding]:
    """The optional one that is no plugin's own; each plugin speaks for itself."""
    try:
        yield Finding("extra", "rich", FINE, metadata.version("rich"))
    except metadata.PackageNotFoundError:
        remark = "not installed: plain text is drawn instead of trees"
        yield Finding("extra", "rich", NOTE, remark, "pip install 'xsave[rich]'")


def _machine() -> Iterator[Finding]:
    from ..io.folder import examine_folder
    from .output import size

    nr_usable, nr_all = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    usable = f"{nr_usable} of {nr_all} processors may be used"
    yield Finding("machine", "processors", FINE, usable)
    facts = examine_folder(".")
    if facts.error:
        remedy = "name destinations in a folder where you may write"
        yield Finding("folder", "writing here", NOTE, facts.error, remedy)
        return
    yield Finding("folder", "writing here", FINE, f"{size(facts.free_bytes)} free")
    if facts.unnamed_files:
        yield Finding("folder", "unnamed files", FINE, "even a killed run leaves nothing behind")
    else:
        remark = "not known here: a killed run may leave a hidden .xsave-part file"
        remedy = "remove such files by hand, or write to a file system with O_TMPFILE"
        yield Finding("folder", "unnamed files", NOTE, remark, remedy)


def _terminal() -> Iterator[Finding]:
    from .output import is_terminal

    if not is_terminal(sys.stdout):
        yield Finding("terminal", "output", FINE, "no terminal: plain text")
        return
    width = shutil.get_terminal_size().columns
    colour = "without colour (NO_COLOR)" if os.environ.get("NO_COLOR") else "with colour"
    kind = os.environ.get("TERM", "unknown")
    yield Finding("terminal", "output", FINE, f"{kind}, {width} columns, {colour}")
    encoding = sys.stdout.encoding
    if encoding.lower().replace("-", "") == "utf8":
        yield Finding("terminal", "encoding", FINE, encoding)
    else:
        remedy = "export LC_ALL=C.UTF-8"
        remark = f"{encoding}: other characters are spelt out"
        yield Finding("terminal", "encoding", NOTE, remark, remedy)


def _plugins(manager: PluginManager) -> Iterator[Finding]:
    for name, what, is_fine, remark in manager.doctor():
        if is_fine:
            yield Finding(f"plugin {name}", what, FINE, remark)
            continue
        status = manager.status(name)
        failed = status is not None and bool(status.error)
        distribution = status.distribution if status is not None else ""
        remedy = (
            f"mend or update its distribution {distribution or name}, or uninstall it"
            if failed
            else remark
        )
        yield Finding(f"plugin {name}", what, WRONG, remark, remedy)
