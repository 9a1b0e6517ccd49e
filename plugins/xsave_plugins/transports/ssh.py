"""``ssh:[USER@]HOST``: the system's own client, with ``xsave receive`` at the far end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from xsave import Transport, UsageError, frozen

if TYPE_CHECKING:
    from .client import SshChannel
    from .descriptors import OneListener

# No leading hyphen: what begins with one is an option to ssh.
PLACE = re.compile(r"((?:[\w.+-]+@)?(?!-)[\w.:%+-]+)", re.ASCII)
COMMAND = "xsave receive pipe:"
OPTIONS = ("command", "port")


class SshTransport(Transport):
    """Who the other end is, and how to get there, is for ssh to say: the user's configuration,
    agent and jump hosts hold. A connection that breaks takes the far process with it."""

    name = "ssh"
    summary = "the system's ssh, running 'xsave receive' there: ssh:[USER@]HOST[?command=…&port=…]"
    reconnects = False

    def connect(self, address: str, timeout_s: float) -> SshChannel:
        from .client import start

        wanted = _parse(address)
        return start(wanted.place, wanted.command, wanted.port, f"ssh:{wanted.place}")

    def listen(self, address: str) -> OneListener:
        raise UsageError(
            f"ssh:{address}: nobody listens at ssh:; there, 'xsave receive pipe:' is started by "
            "the end that connects"
        )


@frozen
class Wanted:
    """An address taken apart.

    :ivar place: as ssh takes it. :ivar port: "" for what the configuration says.
    """

    place: str
    command: str
    port: str


def _parse(address: str) -> Wanted:
    place, question, text = address.partition("?")
    if PLACE.fullmatch(place) is None:
        raise UsageError(f"ssh:{address}: expected ssh:HOST or ssh:USER@HOST")
    options: dict[str, str] = {}
    if question:
        try:
            options = dict(parse_qsl(text, strict_parsing=True, max_num_fields=len(OPTIONS)))
        except ValueError as error:
            raise UsageError(f"ssh:{address}: after the question mark: {error}") from None
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise UsageError(
            f"ssh:{address}: no option is called {unknown[0]!r}; known: {', '.join(OPTIONS)}"
        )
    port = options.get("port", "")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UsageError(f"ssh:{address}: {port!r} is no port")
    return Wanted(place, options.get("command", COMMAND), port)
