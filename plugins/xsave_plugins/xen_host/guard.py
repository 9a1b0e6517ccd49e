"""Who works on a guest works on it alone, and does not leave it suspended when it is killed.

A lock for each guest: two that read one dirty log would each miss what the other one saw. And a
process beside this one that does nothing but wait for its end: if that comes before the work is
done, by SIGKILL or for want of memory, it lets the guest go on and switches off its dirty log.
It inherits the lock, so that nobody begins meanwhile.

    python -m xsave_plugins.xen_host.guard DOMID/UUID < what the other one says

That is a byte for each step: the guest will be suspended, it was resumed, all is done.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

from xsave import XsaveError, define

FOLDER = Path("/run/xsave")
LIMIT_S = 120.0  # for whoever had it before: such a process needs as long to put it back
POLL_S = 0.1
SUSPENDING, RESUMED, DONE = b"s", b"r", b"d"


class Guard:
    """Does nothing before :meth:`begin`.

    :param locator: of the guest.
    :param puts_back: False where somebody else lets it go on: libxl, or whoever keeps a journal.
    """

    def __init__(self, locator: str, *, puts_back: bool, folder: Path | None = None) -> None:
        self._locator = locator
        self._puts_back = puts_back
        self._folder = folder or FOLDER
        self._lock: _Lock | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Before the first change. :raises XsaveError: another one is at work on it."""
        if self._lock is not None:
            return
        domid = self._locator.partition("/")[0]
        self._lock = _Lock.take(self._folder / f"xen-{domid}.lock", f"domain {domid}")
        if self._puts_back:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, self._locator], stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, pass_fds=(self._lock.fd,), start_new_session=True,
            )  # fmt: skip

    def say(self, step: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(step)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise XsaveError(
                "the process that would let the guest go on if this one ended has ended"
            ) from None

    def stand_down(self) -> None:
        """From now on somebody keeps a journal of this guest, and decides."""
        self._puts_back = False
        self._dismiss()

    def end(self) -> None:
        """The guest is as it should be. Harmless when that was said already."""
        self._dismiss()
        if self._lock is not None:
            lock, self._lock = self._lock, None
            lock.give_back()

    def _dismiss(self) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(DONE)
            process.stdin.close()
        except BrokenPipeError:
            pass
        process.wait()


@define
class _Lock:
    """A file that this process has locked, once for however many look after that guest in it.

    :ivar fd: the lock is held until that and all copies of it are closed.
    """

    held: ClassVar[dict[Path, _Lock]] = {}

    file: Path
    fd: int
    nr_users: int = 1

    @classmethod
    def take(cls, file: Path, who: str) -> _Lock:
        """:raises XsaveError: another process has it, and keeps it."""
        if (found := cls.held.get(file)) is not None:
            found.nr_users += 1
            return found
        return cls.held.setdefault(file, cls(file, _locked(file, who)))

    def give_back(self) -> None:
        self.nr_users -= 1
        if not self.nr_users:
            del self.held[self.file]
            os.close(self.fd)


def _locked(file: Path, who: str) -> int:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise XsaveError(f"{file}: {error.strerror}") from None
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK and time.monotonic() < end:
                time.sleep(POLL_S)
                continue
            os.close(found)
            if error.errno == errno.EWOULDBLOCK:
                raise XsaveError(
                    f"{who}: another xsave is at work on it ({file} is locked)"
                ) from None
            raise XsaveError(f"{file}: {error.strerror}") from None
        else:
            return found


def main() -> int:
    """Waits for the other process to say that all is done, or to end without a word."""
    said = sys.stdin.buffer.read()
    if said.endswith(DONE):
        return 0
    locator = sys.argv[1]
    try:
        _put_back(locator, was_asked=said.endswith(SUSPENDING))
    except XsaveError as error:
        sys.stderr.write(f"xsave has ended in the middle of domain {locator}: {error}\n")
        return 1
    sys.stderr.write(f"xsave has ended in the middle of domain {locator}, which goes on\n")
    return 0


def _put_back(locator: str, *, was_asked: bool) -> None:
    from .backend import XenBackend  # what takes time is loaded when it is needed
    from .domain import SavedDomain

    found = XenBackend().find(locator)
    if isinstance(found, SavedDomain):
        try:
            found.put_back(was_asked=was_asked)
        finally:
            found.close()


if __name__ == "__main__":
    sys.exit(main())
