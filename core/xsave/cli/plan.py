"""``xsave plan``: how a migration would go, for each policy and bandwidth."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import asdict

from ..value_class import frozen
from .options import ADDRESS, POLICY, json_option, pass_settings, telling_options
from .rates import RATES
from .settings import Settings

if TYPE_CHECKING:
    from ..estimate import Estimate, Trace
    from ..manager import PluginManager

TRACE_MAX = 64 << 20  # bytes of a trace file: a million samples
BANDWIDTHS = "119M,1192M"  # what 1 and 10 Gbit/s carry


@frozen
class Plan:
    """One row."""

    policy: str
    bytes_per_s: int
    estimate: Estimate


@click.command("plan")
@click.argument("source", type=ADDRESS)
@click.option(
    "--policy",
    "policies",
    type=POLICY,
    multiple=True,
    metavar="NAME[:OPT=V,...]",
    help="May be given several times; by default every policy there is, with its defaults.",
)
@click.option(
    "--bandwidth",
    type=RATES,
    default=BANDWIDTHS,
    metavar="RATE,...",
    show_default=True,
    help="Bytes of guest memory a second; the default is 1 and 10 Gbit/s.",
)
@click.option(
    "--pause",
    "pause_s",
    type=click.FloatRange(min=0),
    default=0.02,
    metavar="SECONDS",
    show_default=True,
    help="What a pause costs beside memory.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=86400),
    default=2.0,
    metavar="N",
    show_default=True,
    help="Watch a domain for so long.",
)
@click.option(
    "--save-trace",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write what was seen of a domain as a trace file.",
)
@json_option
@telling_options
@pass_settings
def command(
    settings: Settings, source: str, policies: Sequence[str], bandwidth: list[int],
    pause_s: float, seconds: float, save_trace: str | None,
) -> int:  # fmt: skip
    """Estimate how a live migration of SOURCE would go.

    SOURCE is a trace file (docs/policies.md), or a domain: that is watched for a while, and
    neither paused nor read. Everything shown is simulated: for each policy and bandwidth how
    many iterations there would be, how long it would take in all, and how long the pause
    would be.

    \b
    Examples:
      xsave plan guest7.trace --bandwidth 100M,1G
      xsave plan 'sim:pvh?dirty=40M/s' --seconds 2 --save-trace guest.trace
      xsave plan guest.trace --policy fixed --policy downtime:target=100ms --json
    """
    from ..errors import UsageError
    from ..manager import build_manager
    from .addresses import names_domain
    from .live_options import check_policies
    from .output import write_json, write_text

    manager = build_manager()
    chosen = list(policies) or manager.policies.names()
    check_policies(chosen, manager)
    if names_domain(source, manager):
        trace = measure(source, seconds, manager)
    elif save_trace is not None:
        raise UsageError(f"--save-trace is for domains, and SOURCE {source} is a trace file")
    else:
        trace = read(source)
    if save_trace is not None:
        save(trace, save_trace)
    plans = list(make_plans(trace, chosen, bandwidth, pause_s, manager))
    if settings.json:
        write_json(settings, "plan", as_json(trace, plans, pause_s))
    elif not settings.quiet:
        write_text(as_text(trace, plans, pause_s, reasons=settings.verbosity > 0))
    return 0


def measure(address: str, seconds: float, manager: PluginManager) -> Trace:
    from ..errors import UnknownNameError
    from ..pipeline.ends import domain_address
    from ..pipeline.measure import measure_trace

    where = domain_address(address, manager)
    if where is None:
        raise UnknownNameError(
            kind="domain backend", name=address.partition(":")[0], known=manager.backends.names()
        )
    domain = where.backend.open(where.rest)
    try:
        return measure_trace(domain, seconds, time.monotonic, time.sleep, about=address)
    finally:
        domain.close()


def read(path: str) -> Trace:
    import sys

    from ..errors import FieldError, SourceError
    from ..estimate import read_trace

    try:
        if path == "-":
            text = sys.stdin.buffer.read(TRACE_MAX + 1)
        else:
            with Path(path).open("rb") as file:
                text = file.read(TRACE_MAX + 1)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if len(text) > TRACE_MAX:
        raise FieldError(field="trace", expected=f"at most {TRACE_MAX} bytes", got="more")
    return read_trace(text)


def save(trace: Trace, path: str) -> None:
    import json

    from ..estimate import trace_as_json
    from .report_file import write_page

    write_page(path, json.dumps(trace_as_json(trace), indent=2) + "\n")


def make_plans(
    trace: Trace, policies: Sequence[str], bandwidths: Sequence[int], pause_s: float,
    manager: PluginManager,
) -> Iterator[Plan]:  # fmt: skip
    from ..estimate import estimate

    curve = trace.curve()
    for policy in policies:
        for bytes_per_s in bandwidths:
            found = estimate(
                curve, trace.nr_pages, trace.page_size, bytes_per_s,
                manager.choose_policy(policy), pause_s=pause_s,
            )  # fmt: skip
            yield Plan(policy, bytes_per_s, found)


def as_json(trace: Trace, plans: list[Plan], pause_s: float) -> dict[str, Any]:
    """What docs/schemas/plan.json describes, without its ``schema``."""
    from ..estimate import trace_as_json

    return {
        "ok": True,
        "simulated": True,
        "trace": trace_as_json(trace),
        "pause_s": pause_s,
        "plans": [_plan_as_json(plan) for plan in plans],
    }


def _plan_as_json(plan: Plan) -> dict[str, Any]:
    found = plan.estimate
    return {
        "policy": plan.policy,
        "bytes_per_s": plan.bytes_per_s,
        "aborted": found.aborted,
        "total_s": found.total_s,
        "downtime_s": found.downtime_s,
        "sent_bytes": found.sent_bytes,
        "nr_beyond": found.nr_beyond,
        "iterations": [asdict(one) for one in found.iterations],
        "rulings": [
            {"decision": ruling.decision.value, "reason": ruling.reason, "share": ruling.share}
            for ruling in found.rulings
        ],
        "final": None if found.final is None else asdict(found.final),
    }


def as_text(trace: Trace, plans: list[Plan], pause_s: float, *, reasons: bool = False) -> list[str]:
    """:param reasons: say why each ends where it does."""
    from ..quantities import ms, size
    from .output import columns

    longest = max(seconds for seconds, _ in trace.samples)
    lines = [
        f"simulated: {trace.about or 'a guest'}, {size(trace.nr_pages * trace.page_size)} of "
        f"memory, watched for up to {longest:.1f} s; {ms(pause_s)} beside memory in each pause",
    ]
    rows = [("POLICY", "BANDWIDTH", "ITERATIONS", "SENT", "TOTAL", "DOWNTIME", "ENDS")]
    for plan in plans:
        found = plan.estimate
        rows.append((
            plan.policy,
            f"{size(plan.bytes_per_s)}/s",
            f"{len(found.iterations)}" + ("*" if found.nr_beyond else ""),
            size(found.sent_bytes),
            f"{found.total_s:.2f} s",
            "-" if found.downtime_s is None else ms(found.downtime_s),
            found.rulings[-1].decision.value,
        ))  # fmt: skip
    lines += columns(rows, "  ")
    if any(plan.estimate.nr_beyond for plan in plans):
        lines.append("  * iterations longer than it was watched: the estimate is on the long side")
    if reasons:
        lines += [
            f"  {plan.policy} at {size(plan.bytes_per_s)}/s: {plan.estimate.rulings[-1].reason}"
            for plan in plans
        ]
    return lines
