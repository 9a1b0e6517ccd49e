"""``xsave certs``: certificates for a laboratory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from .options import json_option, pass_settings
from .settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
HOSTS = ("source", "destination")


def _hosts(
    _context: click.Context, _parameter: click.Parameter, given: Sequence[str]
) -> dict[str, list[str]]:
    from ..io.certs import EVERYWHERE

    hosts: dict[str, list[str]] = {}
    for text in given or HOSTS:
        name, *others = text.split(",")
        if NAME.fullmatch(name) is None or "" in others:
            raise click.BadParameter(f"{text!r} is not NAME or NAME,NAME,ADDRESS")
        if name in hosts:
            raise click.BadParameter(f"{name} is given twice")
        hosts[name] = others or list(EVERYWHERE)
    return hosts


@click.command("certs")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--host", multiple=True, metavar="NAME[,NAME]...", callback=_hosts,
    help="A host, with further names and addresses that it is reached by; by default source and "
    "destination, each reached as localhost, 127.0.0.1 and ::1. May be given several times.",
)  # fmt: skip
@click.option(
    "--days", type=click.IntRange(1, 3650), default=30, show_default=True,
    help="How long they are valid.",
)  # fmt: skip
@json_option
@pass_settings
def command(settings: Settings, folder: Path, host: dict[str, list[str]], days: int) -> int:
    """Make certificates in a new FOLDER, for a laboratory.

    Both ends of tls: show a certificate, and take only those of their own authority. This makes
    an authority (FOLDER/ca.pem and ca.key), and for each host a folder with all that it needs:
    FOLDER/NAME/ca.pem, host.pem and host.key. Take that folder to the host, and name it there
    with ?certs=FOLDER or XSAVE_CERTS. Nobody but you may read the keys; whoever has ca.key can
    make more hosts.

    \b
    Examples:
      xsave certs lab
      xsave certs lab --host alpha,alpha.example.org,192.0.2.7 --host beta,192.0.2.8
      xsave certs lab --days 365 --json
    """
    from ..io.certs import make_certificates
    from .output import write_json, write_text

    files = make_certificates(folder, host, days)
    if settings.json:
        made = {name: str(folder / name) for name in host}
        write_json(settings, "certs", {"folder": str(folder), "days": days, "hosts": made})
    elif not settings.quiet:
        write_text(map(str, files))
    return 0
