"""``xsave preflight``: whether a guest could go to a destination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .link_options import link_options, patience_options
from .options import ADDRESS, CODEC, json_option, pass_settings, plugins_option, telling_options
from .settings import Settings

if TYPE_CHECKING:
    from ..pipeline.preflight import Preflight


@click.command("preflight")
@click.argument("source", type=ADDRESS)
@click.argument("dest", metavar="DEST", type=ADDRESS)
@click.option(
    "--codec",
    type=CODEC,
    metavar="NAME[:LEVEL]",
    help="As for migrate: whether the destination knows it.",
)
@plugins_option
@patience_options
@json_option
@telling_options
@pass_settings
def command(
    settings: Settings, source: str, dest: str, codec: str | None, plugins: list[str] | None,
    answer_s: float, patience_s: float,
) -> int:  # fmt: skip
    """Say whether the guest SOURCE could go to DEST: all that speaks against it, and what would
    be otherwise there. Nothing is moved, paused or changed.

    SOURCE is a guest, or an image. DEST is an address at which 'xsave receive' listens, an
    address of a backend, or a file made by 'xsave describe-host'. The exit code is 8 if it could
    not go.

    \b
    Examples:
      xsave preflight sim:pv tcp:127.0.0.1:7777
      xsave preflight guest.xsv 'sim:?host=b'
      xsave preflight 'sim:hvm?memory=64M' b.json --json
    """
    from ..errors import EXIT_OK, EXIT_REFUSED
    from ..manager import build_manager
    from ..pipeline.preflight import preflight
    from .output import write_json, write_text

    found = preflight(
        source, dest, codec=codec, plugins=plugins, answer_s=answer_s,
        link_options=link_options(patience_s), manager=build_manager(),
    )  # fmt: skip
    if settings.json:
        write_json(settings, "preflight", _as_json(found))
    elif not settings.quiet or found.refusals:
        write_text(_as_text(found))
    return EXIT_REFUSED if found.refusals else EXIT_OK


def _as_json(found: Preflight) -> dict[str, Any]:
    from attrs import asdict

    from ..negotiation import host_as_data
    from .migration_report import notice_as_json

    return {
        "ok": not found.refusals,
        "guest": found.guest,
        "refusals": [asdict(refusal) for refusal in found.refusals],
        "notices": [notice_as_json(notice) for notice in found.notices],
        "host": host_as_data(found.host),
    }


def _as_text(found: Preflight) -> list[str]:
    where = found.host.host or "the destination"
    lines = []
    for refusal in found.refusals:
        lines += [f"refused  {refusal.name}: {refusal.reason}", f"         {refusal.remedy}"]
    lines += [f"notice   {notice}" for notice in found.notices]
    verdict = "cannot go" if found.refusals else "can go"
    return [*lines, f"{found.guest} {verdict} to {where}"]
