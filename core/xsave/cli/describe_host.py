"""``xsave describe-host``: what a host can take, to be kept in a file."""

from __future__ import annotations

from typing import Any

import click

from .link_options import backend_address
from .options import json_option, pass_settings, plugins_option, telling_options
from .settings import Settings


@click.command("describe-host")
@click.argument("address", metavar="BACKEND-ADDRESS")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write it there, whole or not at all; by default to standard output.",
)
@plugins_option
@json_option
@telling_options
@pass_settings
def command(settings: Settings, address: str, output: str | None, plugins: list[str] | None) -> int:
    """Describe what the host of BACKEND-ADDRESS can take, as one JSON object.

    Versions, plugins, records, codecs, free memory, and what plugins say of it, such as its
    processor. 'xsave preflight' takes such a file instead of a destination that answers.

    \b
    Examples:
      xsave describe-host 'sim:?host=b' -o b.json
      xsave preflight sim:pv b.json
    """
    import json

    from ..manager import build_manager
    from ..negotiation import host_as_data
    from ..pipeline.negotiate import describe_host
    from .output import write_stdout
    from .report_file import write_page

    manager = build_manager()
    where = backend_address(address, manager)
    found = describe_host(manager, manager.handler_table(plugins), where.backend, where.rest)
    described: dict[str, Any] = host_as_data(found)
    text = json.dumps(described, indent=None if settings.json else 2) + "\n"
    if output in (None, "-"):
        write_stdout(text)
    else:
        write_page(output, text)
    return 0
