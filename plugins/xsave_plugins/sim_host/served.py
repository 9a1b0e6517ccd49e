"""Simulated hosts in a process of their own, for tests: one that outlives nobody."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

from xsave import XsaveError

from .remote import Hosts

PATIENCE_S = 60.0


class ServedHosts:
    """A context manager: the process starts, serves, and ends with its guests; or when this
    process does, however that ends.

    :param path: of the socket.
    :param options: further ones of ``python -m xsave_plugins.sim_host serve``.
    """

    def __init__(self, path: str, *options: str) -> None:
        self.path = path
        self._command = [
            sys.executable, "-m", "xsave_plugins.sim_host", "serve", path, "--until-eof", *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServedHosts:
        """:raises XsaveError: it did not start; the message is its own."""
        started = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for whoever asked for the hosts, who ends them
        )  # fmt: skip
        assert started.stdout is not None
        if not started.stdout.readline():
            _, said = started.communicate()
            raise XsaveError(f"simulated hosts were not served: {said.decode().strip()}")
        self._process = started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        where: TracebackType | None,
    ) -> None:  # fmt: skip
        self.stop()

    def connect(self) -> Hosts:
        """To look at guests; close it."""
        return Hosts(self.path)

    def stop(self) -> None:
        """Its guests end. Harmless the second time."""
        if self._process is not None:
            stopped, self._process = self._process, None
            try:
                stopped.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                stopped.kill()
                stopped.communicate()
                raise
