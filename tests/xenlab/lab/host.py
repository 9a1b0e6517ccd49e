"""One host: started, waited for, spoken to, stopped.

What is known of a host that runs stands in a folder of its own in the cache, so that
commands, one process each, find it again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .build import HostImage
from .errors import LabError
from .programs import SHOWN_CHARS, run
from .releases import cache_folder

MEMORY_MB, DOM0_MB = 2304, 1024  # a guest of 512 MB beside the usual ones, and nothing to spare
TRANSLATED_MB = 256  # of translated code that the emulator keeps: its own default is a gigabyte
# Measured: 75 s to the first answer; ten times that, since a machine may be busy.
BOOT_LIMIT_S = 750
COMMAND_LIMIT_S = 900
TRIES = 3
POLL_S = 1.0
# Emulated IRET faults with SMAP on; 57-bit tables and protection keys are only slow. AVX is off
# because the emulation has been seen to lose it, and nothing here needs it.
PROCESSOR = "max,-pku,-la57,-smap,-avx,-avx2,-fma,-f16c"
# Without eager-fpu Xen switches vector registers only when somebody uses them, which QEMU 7.2 gets
# wrong once HVM guests run: in a minute of summing in dom0, 70 of 17 000 sums were wrong with
# AVX2, 5 of 4 000 with SSE.
XEN_LINE = (
    f"dom0_mem={DOM0_MB}M,max:{DOM0_MB}M dom0_max_vcpus=1 dom0_vcpus_pin console=com1 "
    # not scrubbed: memory that no guest was given costs this machine none
    "com1=115200,8n1 loglvl=warning spec-ctrl=eager-fpu bootscrub=0"
)
DOM0_LINE = "root=/dev/sda rw console=hvc0 quiet mitigations=off"
PRIVATE = "10.9.0"  # network between two hosts
MAX_SOCKET_PATH = 90  # of a socket's name, with what ssh puts behind it


class CommandError(LabError):
    """A command in dom0 failed.

    :ivar output: what it said, both streams.
    """

    def __init__(self, command: str, status: int, output: str) -> None:
        super().__init__(f"{command} failed in dom0 with {status}:\n{output[-SHOWN_CHARS:]}")
        self.status = status
        self.output = output


class Host:
    """:ivar port: of 127.0.0.1, where its ssh answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = cache_folder() / "hosts" / name

    @property
    def console(self) -> Path:
        """What Xen and dom0 said on their serial line."""
        return self.folder / "console"

    @property
    def port(self) -> int:
        return int((self.folder / "port").read_text())

    @property
    def pid(self) -> int | None:
        """Of its QEMU, if that runs."""
        try:
            pid = int((self.folder / "pid").read_text())
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if f"xenlab-{self.name}".encode() in line.split(b"\0") else None

    # -- starting and stopping ---------------------------------------------------------

    def boot(self, image: HostImage, say: Callable[[str], None]) -> None:
        """Start it and wait until it answers; what does not come up is tried again.

        :raises LabError: it did not come up, several times.
        """
        _boot([_Start(self, image)], say)

    def start(self, image: HostImage, link: str, number: int) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "port").write_text(str(_free_port()))
        (self.folder / "key").symlink_to(image.key)
        disk = self.folder / "disk.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw",
            "-b", image.folder / "disk.img", disk)  # fmt: skip
        private = ("-netdev", link, "-device", f"e1000,netdev=n1,mac={_card(number)}")
        run(
            "qemu-system-x86_64", "-name", f"xenlab-{self.name}", "-machine", "pc",
            "-accel", f"tcg,thread=multi,tb-size={TRANSLATED_MB}", "-cpu", PROCESSOR,
            "-smp", "2", "-m", str(MEMORY_MB),
            "-kernel", image.folder / "xen.elf", "-append", XEN_LINE,
            "-initrd", f"{image.folder}/vmlinuz {DOM0_LINE},{image.folder}/initrd.img",
            "-device", "ahci,id=ahci", "-device", "ide-hd,drive=d0,bus=ahci.0",
            "-drive", f"id=d0,file={disk},format=qcow2,if=none,cache=unsafe",
            "-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22",
            "-device", "e1000,netdev=n0", *(private if link else ()),
            "-display", "none", "-serial", f"file:{self.console}", "-monitor", "none",
            "-no-reboot", "-daemonize", "-pidfile", self.folder / "pid",
        )  # fmt: skip

    def wait_until_ready(self) -> str | None:
        """:returns: None, or why it is not."""
        end = time.monotonic() + BOOT_LIMIT_S
        said = ""
        while time.monotonic() < end:
            if self.pid is None:
                return "its emulator ended"
            status, said = self.try_run("xl list", limit_s=60)
            if status == 0:
                return None
            time.sleep(POLL_S)
        return f"no answer within {BOOT_LIMIT_S} s; last: {said.strip()[-200:]}"

    def stop(self) -> None:
        """Its disk and memory are gone. Harmless when it does not run."""
        if self.folder.is_dir() and (self.folder / "ssh").exists():
            subprocess.run([*self._ssh(), "-O", "exit", "dom0"], capture_output=True, check=False)
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            end = time.monotonic() + 60
            while self.pid is not None:
                if time.monotonic() > end:
                    raise LabError(f"{self.name}: its emulator (pid {pid}) does not end")
                time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- speaking to it ----------------------------------------------------------------

    def run(self, command: str, *, stdin: bytes = b"", limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run a shell command in dom0.

        :returns: what it said, both streams.
        :raises CommandError: it failed.
        """
        status, output = self.try_run(command, stdin=stdin, limit_s=limit_s)
        if status:
            raise CommandError(command, status, output)
        return output

    def try_run(
        self, command: str, *, stdin: bytes = b"", limit_s: float = COMMAND_LIMIT_S
    ) -> tuple[int, str]:
        """As :meth:`run`, with the exit status: 255 is ssh's own.

        :raises LabError: it took longer than the limit.
        """
        try:
            done = subprocess.run(
                [*self._ssh(), "dom0", f"exec 2>&1\n{command}"],
                input=stdin, capture_output=True, check=False, timeout=limit_s,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: {command} took longer than {limit_s} s") from None
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")

    def xl(self, arguments: str, *, environment: str = "", limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run xl with its output in a file and nothing to read: create, restore and
        migrate-receive leave a daemon behind that keeps the descriptors it was given."""
        said = "/tmp/xl.$$"
        return self.run(
            f"{environment} xl -v {arguments} > {said} 2>&1 < /dev/null; status=$?; "
            f"cat {said}; rm {said}; exit $status",
            limit_s=limit_s,
        )  # fmt: skip

    @contextlib.contextmanager
    def listen(self, command: str, hear: Callable[[str], object]) -> Iterator[None]:
        """As long as the context lasts, each line that a command in dom0 says, in a thread."""

        def listen(stream: IO[bytes]) -> None:
            for line in stream:
                hear(line.decode("utf-8", "replace"))

        argv = [*self._ssh(), "dom0", command]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            listener = threading.Thread(target=listen, args=(process.stdout,))
            listener.start()
            try:
                yield
            finally:
                process.kill()
                listener.join()

    def put(self, path: str, contents: bytes) -> None:
        """A file in dom0."""
        self.run(f"cat > {path}", stdin=contents)

    def get(self, path: str) -> bytes:
        """The contents of a file in dom0."""
        done = subprocess.run([*self._ssh(), "dom0", f"cat {path}"], capture_output=True,
                              check=False, timeout=COMMAND_LIMIT_S)  # fmt: skip
        if done.returncode:
            raise CommandError(f"cat {path}", done.returncode, done.stderr.decode())
        return done.stdout

    def _ssh(self) -> list[str]:
        """One connection for all commands: making one takes an emulated host seconds."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
                   "HostName=127.0.0.1", "User=root", "ConnectTimeout=30",
                   f"Port={self.port}", f"IdentityFile={self.folder / 'key'}"]  # fmt: skip
        path = self.folder / "ssh"
        if len(str(path)) <= MAX_SOCKET_PATH:
            options += ["ControlMaster=auto", f"ControlPath={path}", "ControlPersist=600"]
        return ["ssh", "-T", *(word for one in options for word in ("-o", one))]


@dataclass(frozen=True)
class _Start:
    """:ivar link: QEMU's word for the card of the private network, "" for none.
    :ivar number: of this host in the private network.
    """

    host: Host
    image: HostImage
    link: str = ""
    number: int = 1


def boot_pair(
    first: Host, second: Host, images: tuple[HostImage, HostImage], say: Callable[[str], None]
) -> None:
    """Two hosts on a private network, 10.9.0.1 and 10.9.0.2, each of which may log in to the
    other by ssh. They start at once: that takes little longer than one."""
    port = _free_port()
    starts = [
        _Start(first, images[0], f"socket,id=n1,listen=127.0.0.1:{port}", number=1),
        _Start(second, images[1], f"socket,id=n1,connect=127.0.0.1:{port}", number=2),
    ]
    _boot(starts, say)
    keys = b"".join((image.folder / "id.pub").read_bytes() for image in images)
    for one in starts:
        one.host.put("/root/.ssh/authorized_keys", keys)
        one.host.run(
            f"for card in /sys/class/net/*; do if grep -q {_card(one.number)} $card/address; then "
            f"ip addr add {PRIVATE}.{one.number}/24 dev ${{card##*/}}; "
            "ip link set ${card##*/} up; fi; done"
        )


def _boot(starts: Sequence[_Start], say: Callable[[str], None]) -> None:
    """All at once; when one does not come up, all are tried again: their network is broken."""
    for attempt in range(1, TRIES + 1):
        began = time.monotonic()
        for one in starts:
            one.host.stop()
            say(f"{one.host.name}: starting from {one.image.folder.name}")
            one.host.start(one.image, one.link, one.number)
        faults = {one.host: one.host.wait_until_ready() for one in starts}
        names = " and ".join(host.name for host in faults)
        if not any(faults.values()):
            say(f"{names}: ready after {time.monotonic() - began:.0f} s")
            return
        for host, fault in faults.items():
            kept = host.folder.with_name(f"{host.name}.console-{attempt}")
            shutil.copy(host.console, kept)
            if fault is not None:
                say(f"{host.name}: did not come up, try {attempt} of {TRIES}: {fault}; its last "
                    f"words are in {kept}")  # fmt: skip
            host.stop()
    raise LabError(f"{names} did not come up")


def _card(number: int) -> str:
    """Address of the card in the private network."""
    return f"52:54:00:00:00:{number:02x}"


def running_hosts() -> list[Host]:
    folder = cache_folder() / "hosts"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [host for host in map(Host, names) if host.pid is not None]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
