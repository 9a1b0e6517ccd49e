"""Options about domains that run, and what they make of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import POLICY, F, plugin_options_option
from .rates import PERIOD, RATE

if TYPE_CHECKING:
    from ..manager import PluginManager

# Of a domain as the source; the library's own defaults hold where they are not given.
OF_A_SOURCE_DOMAIN = ("live", "policy", "then", "checkpoint")


def domain_options(function: F) -> F:
    for option in (
        plugin_options_option,
        click.option(
            "--report", type=click.Path(dir_okay=False), metavar="FILE",
            help="Write the report as one HTML page too, with plots; it needs nothing else.",
        ),
        click.option(
            "--take-over", is_flag=True,
            help="Of a stream with checkpoints into a domain: let it run when the stream is "
            "over or breaks off, as of the last whole checkpoint. Only when the one at the "
            "source does not run! Without this it stays paused.",
        ),
        click.option(
            "--checkpoints", type=click.IntRange(min=1), metavar="N",
            help="With --checkpoint: end after so many, that of the first state included; "
            "otherwise they go on until the command is interrupted.",
        ),
        click.option(
            "--checkpoint", type=PERIOD, metavar="PERIOD",
            help="After its first complete state the stream of a domain goes on, from one "
            "checkpoint to the next, between which the guest runs for so long: 200ms.",
        ),
        click.option(
            "--then", type=click.Choice(["resume", "pause", "destroy"]),
            help="What becomes of a domain as SOURCE: by default it runs on, unless it went "
            "into another domain; then it ends here before it runs there.",
        ),
        click.option(
            "--limit", type=RATE, default=0, metavar="RATE",
            help="Write at most so many bytes a second into DEST: 40M, 1.5G, 512K.",
        ),
        click.option(
            "--policy", type=POLICY, metavar="NAME[:OPT=V,...]",
            help="Decides when a domain is paused after its memory was sent while it ran; "
            "by default fixed, as Xen does.",
        ),
        click.option(
            "--live/--no-live", default=None,
            help="Send a domain's memory while it runs (the default), or pause it first.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def only_given(options: dict[str, Any]) -> dict[str, Any]:
    """Without those that were left to the library."""
    return {
        name: value
        for name, value in options.items()
        if value is not None or name not in OF_A_SOURCE_DOMAIN
    }


def refuse_for_image(source: str, options: dict[str, Any]) -> None:
    """:raises UsageError: an option about a domain was given, and the source is an image."""
    from ..errors import UsageError

    for name in OF_A_SOURCE_DOMAIN:
        if options[name] is not None:
            said = "--no-live" if options[name] is False else f"--{name}"
            raise UsageError(f"{said} is about a domain, and SOURCE {source} is an image")


def refuse_policy_without_live(options: dict[str, Any]) -> None:
    """:raises UsageError: nobody would ask it."""
    from ..errors import UsageError

    if options["live"] is False and options["policy"] is not None:
        raise UsageError("--policy decides when a live domain is paused: not with --no-live")


def join_checkpoints(options: dict[str, Any]) -> None:
    """Both options as the one that the library has.

    :raises UsageError: one needs the other; or a period that makes no sense.
    """
    from ..checkpoint import Checkpoints
    from ..errors import UsageError

    period_s, count = options["checkpoint"], options.pop("checkpoints")
    if period_s is not None:
        options["checkpoint"] = Checkpoints(period_s, count or 0)
    elif count is not None:
        raise UsageError("--checkpoints needs --checkpoint PERIOD")


def check_policies(texts: list[str], manager: PluginManager) -> None:
    """:raises UsageError: one of them is wrong: before anything is begun."""
    for text in texts:
        manager.choose_policy(text)
