"""The laboratory's commands."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .bench import bench
from .build import build
from .errors import LabError
from .host import Host, boot_pair, running_hosts
from .install import install
from .programs import missing_packages
from .releases import RELEASES, cache_folder, find_release


def main() -> int:
    options = _parser().parse_args()
    try:
        status: int = options.act(options)
    except LabError as error:
        print(f"xenlab: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab", description="Real Xen hosts under QEMU's emulation.",
        epilog=f"Everything is kept in {cache_folder()} ($XSAVE_XENLAB).",
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("packages", help="name Debian's packages that are missing here")
    one.set_defaults(act=_packages)
    one = commands.add_parser("build", help="make what hosts boot from (2 to 4 minutes, as root)")
    _add_release(one)
    one.set_defaults(act=_build)
    one = commands.add_parser("boot", help="start one host, or two with a network between them")
    one.add_argument("name", nargs="+", help="of the host, or of both")
    _add_release(one)
    one.set_defaults(act=_boot)
    one = commands.add_parser("install", help="build xsave from the tree and install it in dom0")
    one.add_argument("name", nargs="+")
    one.set_defaults(act=_install)
    one = commands.add_parser("run", help="run a command in dom0")
    one.add_argument("name")
    one.add_argument("command", nargs=argparse.REMAINDER)
    one.set_defaults(act=_run)
    one = commands.add_parser("bench", help="what saving costs, with our helper and with Xen's")
    one.add_argument("name", nargs="?", help="of a host that runs; one is started if none is named")
    one.add_argument("--kind", action="append", choices=("pv", "pvh", "hvm"), help="all by default")
    one.add_argument("--rounds", type=int, default=3)
    _add_release(one)
    one.set_defaults(act=_bench)
    one = commands.add_parser("list", help="name the hosts that run")
    one.set_defaults(act=_list)
    one = commands.add_parser("stop", help="stop hosts, all if none is named")
    one.add_argument("name", nargs="*")
    one.set_defaults(act=_stop)
    return parser


def _add_release(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--release", action="append", choices=RELEASES,
        help="of Debian (bookworm: Xen 4.17, the default; trixie: 4.20); for two hosts, twice",
    )  # fmt: skip


def _say(text: str) -> None:
    print(f"xenlab: {text}", flush=True)


def _packages(_options: argparse.Namespace) -> int:
    print(" ".join(missing_packages()))
    return 0


def _build(options: argparse.Namespace) -> int:
    for suite in options.release or ["bookworm"]:
        build(find_release(suite), _say)
    return 0


def _boot(options: argparse.Namespace) -> int:
    suites = options.release or ["bookworm"]
    images = [build(find_release(suite), _say) for suite in suites]
    hosts = [Host(name) for name in options.name]
    if len(hosts) > 2:
        raise LabError("one host, or two: the network between them has two ends")
    if len(hosts) == 2:
        boot_pair(hosts[0], hosts[1], (images[0], images[-1]), _say)
    else:
        hosts[0].boot(images[0], _say)
    return 0


def _install(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        install([Host(name) for name in options.name], Path(folder))
    return 0


def _run(options: argparse.Namespace) -> int:
    host = Host(options.name)
    if host.pid is None:
        raise LabError(f"no host {options.name} runs here")
    status, output = host.try_run(" ".join(options.command))
    sys.stdout.write(output)
    return status


def _bench(options: argparse.Namespace) -> int:
    """:returns: 1 if a limit was not kept."""
    kinds = options.kind or ["pv", "pvh", "hvm"]
    if options.name:
        return int(not bench(Host(options.name), kinds, options.rounds, _say))
    host = Host("bench")
    try:
        host.boot(build(find_release((options.release or ["bookworm"])[0]), _say), _say)
        with tempfile.TemporaryDirectory() as folder:
            install([host], Path(folder))
        return int(not bench(host, kinds, options.rounds, _say))
    finally:
        host.stop()


def _list(_options: argparse.Namespace) -> int:
    for host in running_hosts():
        print(host.name)
    return 0


def _stop(options: argparse.Namespace) -> int:
    for host in [Host(name) for name in options.name] or running_hosts():
        host.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
