"""The command of the simulated host: serves hosts at a socket, and looks at those served."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from xsave import UsageError, XsaveError

from .abilities import CPUS, MAX_TMEM_POOLS, TMEM, Lacks
from .address import CLOCKS, is_name, parse_size
from .backend import SimBackend
from .connection import listen

if TYPE_CHECKING:
    from .remote import Hosts
    from .server import Server

SOCKET = click.argument("socket")
NAME = click.argument("name")
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


class Commands(click.Group):
    """Errors as one line, with the exit codes of ``xsave``."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except XsaveError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)


def _as(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def convert(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(f"expected {error}, got {text!r}") from None

    return convert


def _host_name(text: str) -> str:
    if not is_name(text):
        raise ValueError("letters, digits, dots, dashes and underscores")
    return text


@click.group(cls=Commands)
def main() -> None:
    """Simulated hosts in a process of their own.

    Their guests outlive whoever moves them, as on a hypervisor. SOCKET is the path of a
    Unix-domain socket that only you can reach.

    \b
    Examples:
      python -m xsave_plugins.sim_host serve one.sock &
      python -m xsave_plugins.sim_host boot one.sock 'pv?name=web&memory=64M'
      xsave run 'sim:?name=web&at=one.sock' web.xsv
      python -m xsave_plugins.sim_host list one.sock
    """


@main.command()
@SOCKET
@click.option(
    "--host", metavar="NAME", callback=_as(_host_name),
    help="Of the host where an address names none; after SOCKET by default.",
)  # fmt: skip
@click.option(
    "--memory", metavar="SIZE", callback=_as(parse_size), help="Of that host; 64G by default."
)
@click.option(
    "--tmem",
    type=click.Choice(TMEM),
    default="yes",
    show_default=True,
    help="Whether that host has transcendent memory, or has it switched off.",
)
@click.option(
    "--tmem-pools",
    type=click.IntRange(1, MAX_TMEM_POOLS),
    default=MAX_TMEM_POOLS,
    show_default=True,
    help="How many a guest may have there.",
)
@click.option(
    "--cpu",
    type=click.Choice(CPUS),
    default="same",
    show_default=True,
    help="An older one has no AVX2, FMA and BMI, and takes no guest that has.",
)
@click.option(
    "--clock", type=click.Choice(CLOCKS), default="real", show_default=True,
    help="Of guests whose address names none.",
)  # fmt: skip
@click.option("--until-eof", is_flag=True, help="End when standard input does.")
def serve(
    socket: str, host: str | None, memory: int | None, tmem: str, tmem_pools: int, cpu: str,
    clock: str, until_eof: bool,
) -> None:  # fmt: skip
    """Serve hosts at SOCKET until stopped. Their guests end with this process."""
    from .server import Server

    name = host or _name_after(socket)
    backend = SimBackend(clock=clock, own_host=name)
    backend.host(name, memory, Lacks(tmem, tmem_pools, cpu))
    server = Server(backend, listen(socket))
    try:
        signal.signal(signal.SIGTERM, _stop)
        click.echo(f"serving host {name} at {socket}")
        if until_eof:
            threading.Thread(target=_stop_at_eof, args=[server], daemon=True).start()
        server.run()
    except KeyboardInterrupt:
        pass  # as good a way to end as any
    finally:
        os.unlink(socket)  # noqa: PTH108 - the module of paths is not needed for this


@main.command("list")
@SOCKET
@JSON
def list_(socket: str, as_json: bool) -> None:
    """Show the guests there: whether they run, and how often they did."""
    with _hosts(socket) as hosts:
        guests = hosts.guests()
    if as_json:
        click.echo(json.dumps({"guests": guests}))
        return
    click.echo(f"{'name':16} {'type':4} {'state':11} {'pages':>8} {'ticks':>8}  host")
    for guest in guests:
        ticks = "-" if guest["nr_ticks"] is None else guest["nr_ticks"]
        click.echo(
            f"{guest['name']:16} {guest['type']:4} {guest['state']:11} {guest['nr_pages']:8} "
            f"{ticks:>8}  {guest['host']}"
        )


@main.command()
@SOCKET
@click.argument("address")
def boot(socket: str, address: str) -> None:
    """Start a guest there, unless one of that name is there.

    ADDRESS is what a sim: address has after its colon, such as pv?name=web.
    """
    domain = _hosts(socket).open(address)
    click.echo(f"{domain.info.name} is at {socket}")
    domain.close()


@main.command()
@SOCKET
@NAME
def pause(socket: str, name: str) -> None:
    """Stop a guest."""
    _tell(socket, name, "pause")


@main.command()
@SOCKET
@NAME
def resume(socket: str, name: str) -> None:
    """Let a guest run on."""
    _tell(socket, name, "resume")


@main.command()
@SOCKET
@NAME
def end(socket: str, name: str) -> None:
    """End a guest, whatever it does."""
    _tell(socket, name, "destroy")


@main.command()
@SOCKET
@NAME
@JSON
def fingerprint(socket: str, name: str, as_json: bool) -> None:
    """What a paused guest is, as digests that are the same on every host."""
    with _hosts(socket) as hosts:
        guest = _find(hosts, name)
        if guest["state"] == "running":
            raise UsageError(f"{name} runs; pause it first")
        digests = hosts.call("fingerprint", guest["id"])[0]
    if as_json:
        click.echo(json.dumps(_in_hex(digests)))
        return
    _show(digests)


@main.command()
@SOCKET
@JSON
def proofs(socket: str, as_json: bool) -> None:
    """What was kept of guests with prove=yes when they left, and before they ran here."""
    with _hosts(socket) as hosts:
        kept = hosts.proofs()
    if as_json:
        click.echo(json.dumps(_in_hex(kept)))
        return
    for when, prints in kept.items():
        for name, digests in prints.items():
            click.echo(f"{name} {when}")
            _show(digests)


def _tell(socket: str, name: str, verb: str) -> None:
    with _hosts(socket) as hosts:
        hosts.call(verb, _find(hosts, name)["id"])


def _find(hosts: Hosts, name: str) -> Mapping[str, Any]:
    found = hosts.guest(name)
    if found is None:
        known = ", ".join(guest["name"] for guest in hosts.guests()) or "none"
        raise UsageError(f"no guest is named {name!r} at {hosts.path}; known: {known}")
    return found


def _show(digests: Mapping[str, bytes]) -> None:
    for part, digest in sorted(digests.items()):
        click.echo(f"  {digest.hex()[:32]}  {part}")


def _in_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return {key: _in_hex(inner) for key, inner in value.items()}


def _hosts(socket: str) -> Hosts:
    from .remote import Hosts

    return Hosts(socket)


def _name_after(path: str) -> str:
    name = os.path.basename(path).partition(".")[0]  # noqa: PTH119 - as text
    return name if is_name(name) else "a"


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one does not interrupt the end
    raise KeyboardInterrupt


def _stop_at_eof(server: Server) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    server.stop()
