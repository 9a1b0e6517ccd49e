"""Two hosts, and guests that go from one to the other with ``xl migrate``.

Through ssh, as people do it, an emulated host sends 2 MB a second; through a connection of
its own 25. So that is what larger guests take: ``xl`` runs any program that carries bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import LabError
from .guest import Guest
from .helper import HELPERS, OURS
from .host import PRIVATE, Host

RECEIVERS = {"stock": ("", 9000), "ours": (f"-E {OURS}", 9001)}  # environment, port
FILES_PORT, ARRIVED = 9002, "/root/arrived"  # takes a file, and where it is put
CARRY = """#!/usr/bin/python3
import os, socket, sys, threading
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def there():
    while data := os.read(0, 1 << 16):
        link.sendall(data)
    link.shutdown(socket.SHUT_WR)
threading.Thread(target=there, daemon=True).start()
while data := link.recv(1 << 16):
    os.write(1, data)
os._exit(0)  # the other direction may still wait for xl
"""


@dataclass(frozen=True)
class Move:
    """One migration, as a shell command.

    :ivar saves: a key of :data:`lab.helper.HELPERS`; :ivar restores: ours or stock.
    :ivar ssh: by ssh instead of a plain connection.
    """

    saves: str
    restores: str
    ssh: bool = False


class Pair:
    """:ivar near, far: hosts that were booted as a pair."""

    def __init__(self, near: Host, far: Host) -> None:
        self.near = near
        self.far = far
        for host in (near, far):
            self._listen(host)

    def other(self, host: Host) -> Host:
        return self.far if host is self.near else self.near

    def _listen(self, host: Host) -> None:
        """Receivers of both kinds, until the host stops. What they say is in /root/NAME.log."""
        host.put("/root/carry", CARRY.encode())
        host.run("chmod +x /root/carry; pkill systemd-socket-; true")
        for name, (environment, port) in RECEIVERS.items():
            host.run(
                f"nohup systemd-socket-activate --accept --inetd -l {self._address(host)}:{port} "
                f"{environment} $(command -v xl) -v migrate-receive "
                f"> /root/{name}.log 2>&1 < /dev/null &"
            )
        host.run(
            f"nohup systemd-socket-activate --accept --inetd -l {self._address(host)}:{FILES_PORT} "
            f"$(command -v dd) of={ARRIVED} bs=64k > /root/files.log 2>&1 < /dev/null &"
        )

    def _address(self, host: Host) -> str:
        return f"{PRIVATE}.{1 if host is self.near else 2}"

    def create(self, kind: str, *edits: str) -> Guest:
        """A new guest at the near host, as :meth:`Guest.create` makes it, and none of its name at
        the other one: QEMU there would keep the disk locked, and the guest could never arrive."""
        guest = Guest(self.near, kind)
        self.destroy(guest)
        guest.create(*edits)
        return guest

    def command(self, guest: Guest, move: Move) -> str:
        """What moves a guest from where it is to the other host."""
        address = self._address(self.other(guest.host))
        start = f"{HELPERS[move.saves]} xl -v migrate"
        if move.ssh:
            return f"{start} {guest.name} '{address} env {HELPERS[move.restores]}'"
        port = RECEIVERS[move.restores][1]
        return f"{start} -s '' {guest.name} 'exec /root/carry {address} {port}'"

    def arrival(self, guest: Guest) -> Guest:
        """The guest as it will be at the other host; nothing was heard of it there so far."""
        there = Guest(self.other(guest.host), guest.kind, arrived=True)
        there.host.run(f"rm -f {there.console}")
        there.sums = guest.sums
        return there

    def move(self, guest: Guest, move: Move) -> tuple[Guest, str]:
        """:returns: the guest where it is now; what xl said, of a plain connection only here.
        :raises LabError: it failed.
        """
        there = self.arrival(guest)
        said = guest.host.run(f"{self.command(guest, move)} < /dev/null")
        return there, said

    def carry(self, path: str) -> None:
        """A file of the near host to the far one, by a connection of its own."""
        size = int(self.near.run(f"stat -c %s {path}"))
        self.near.run(f"/root/carry {self._address(self.far)} {FILES_PORT} < {path}")
        self.far.run(f"mv {ARRIVED} {path}")
        arrived = int(self.far.run(f"stat -c %s {path}"))
        if arrived != size:
            raise LabError(f"{arrived} of {size} bytes of {path} arrived")

    def is_at(self, guest: Guest) -> Host:
        """Where it runs.

        :raises LabError: it is nowhere, or at both ends, or under a name that says that it
            was not decided.
        """
        places = {host.name: _named_like(host, guest.name) for host in (self.near, self.far)}
        found = [host for host in (self.near, self.far) if places[host.name]]
        if len(found) != 1 or places[found[0].name] != [guest.name]:
            raise LabError(f"{guest.name} is not in one place: {places}")
        return found[0]

    def destroy(self, guest: Guest) -> None:
        """Wherever it is, under any name."""
        for host in (self.near, self.far):
            Guest(host, guest.kind).destroy()


def _named_like(host: Host, name: str) -> list[str]:
    lines = host.run("xl list").splitlines()[1:]
    return [line.split()[0] for line in lines if line.startswith(name)]
