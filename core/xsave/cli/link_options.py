"""Options about the other end of a migration: how it is reached, and what is remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import F

if TYPE_CHECKING:
    from ..io.journal import Journal
    from ..link.options import LinkOptions
    from ..manager import PluginManager
    from ..pipeline.ends import DomainAddress


def state_option(function: F) -> F:
    return click.option(
        "--state", type=click.Path(file_okay=False), metavar="DIR", envvar="XSAVE_STATE",
        show_envvar=True,
        help="Where the journal of migrations is kept; by default /var/lib/xsave for root, "
        "~/.local/state/xsave for others.",
    )(function)  # fmt: skip


def patience_options(function: F) -> F:
    for option in (
        click.option(
            "--answer", "answer_s", type=click.FloatRange(min=0.1, max=86400), default=120.0,
            metavar="SECONDS", show_default=True,
            help="How long the other end may take for an answer.",
        ),
        click.option(
            "--patience", "patience_s", type=click.FloatRange(min=0.1, max=86400), default=60.0,
            metavar="SECONDS", show_default=True,
            help="How long a broken link may take to come back.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def link_options(patience_s: float, connections: int = 1) -> LinkOptions:
    from ..link.options import LinkOptions

    return LinkOptions(patience_s=patience_s, connections=connections)


def journal_in(folder: str | None) -> Journal:
    from ..io.journal import Journal

    return Journal(folder)


def backend_address(address: str, manager: PluginManager) -> DomainAddress:
    """:raises UsageError: it is none."""
    from ..errors import UsageError
    from ..pipeline.ends import domain_address

    found = domain_address(address, manager)
    if found is None:
        known = ", ".join(f"{name}:" for name in manager.backends.names()) or "none"
        raise UsageError(f"{address} is no address of a backend; known: {known}")
    return found


def pick(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those, taken out."""
    return {name: options.pop(name) for name in names}
