"""The journal: what became of each migration, one small file for each and each end.

A file appears whole, with its first line; each further state is a line that is appended and
flushed before whatever it permits is done (a new file for each took four times as long, and
the guest stands still meanwhile). A line has a checksum, and the last good one counts: one
that was being written when the power went was not yet acted upon.

A process that acts for a migration holds its lock meanwhile, so that two never do; the
kernel lets go of it when the process ends, however it does.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import re
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import asdict, evolve, fields

from ..errors import JournalError, OutputError, TryAgainError
from ..value_class import frozen
from .sink import open_sink
from .writing import write_all

SCHEMA = "xsave/journal/1"
ENTRY_BYTES_MAX = 256 << 10
LINE_BYTES_MAX = 16 << 10
KEPT_S = 30 * 24 * 3600  # entries with nothing open are removed when they are older
_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"(source|destination)-([0-9a-f]{32})\.jsonl")


def state_folder() -> Path:
    """``$XSAVE_STATE``, else /var/lib/xsave for root and ~/.local/state/xsave for others."""
    if given := os.environ.get("XSAVE_STATE"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/xsave")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "xsave"


@frozen(kw_only=True)
class Entry:
    """One end of one migration.

    :ivar id: 32 hexadecimal digits.
    :ivar role: ``source`` or ``destination``.
    :ivar state: value of a state of :mod:`xsave.handover.source` or ``destination``.
    :ivar guest: its name, for people.
    :ivar backend: whose guest it is here; :ivar locator: by which that backend finds it again,
        "" where it cannot, or not yet.
    :ivar peer: the other end, for people; :ivar address: by which it is reached, of a source.
    :ivar identity: fingerprint of the other end's certificate, "" without one.
    :ivar began, changed: UTC, as in RFC 3339; ``changed`` is when this state was taken.
    :ivar process: number of the one that wrote it last.
    :ivar remark: who decided, or what went wrong.
    """

    id: str
    role: str
    state: str
    guest: str = ""
    backend: str = ""
    locator: str = ""
    peer: str = ""
    address: str = ""
    identity: str = ""
    began: str = ""
    changed: str = ""
    process: int = 0
    remark: str = ""


class Journal:
    """:param folder: is made when something is written there."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = (state_folder() if folder is None else Path(folder)) / "migrations"

    def entries(self) -> list[Entry]:
        """All of them, oldest first.

        :raises JournalError: one cannot be read.
        """
        try:
            names = sorted(path.name for path in self.folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise JournalError(f"cannot read {self.folder}: {error.strerror or error}") from error
        found = [
            entry
            for name in names
            if (match := _NAME.fullmatch(name)) and (entry := self.find(match[2], match[1]))
        ]
        return sorted(found, key=lambda entry: (entry.began, entry.id))

    def find(self, migration: str, role: str) -> Entry | None:
        """:raises JournalError: it is there and cannot be read."""
        lines = self.history(migration, role)
        return lines[-1] if lines else None

    def history(self, migration: str, role: str) -> list[Entry]:
        """All that was written about it, oldest first.

        :raises JournalError: it is there and cannot be read.
        """
        path = self._path(migration, role)
        try:
            with path.open("rb") as file:
                text = file.read(ENTRY_BYTES_MAX + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise JournalError(f"cannot read {path}: {error.strerror or error}") from error
        found = _parse(text, path)
        if (found[-1].id, found[-1].role) != (migration, role):
            raise JournalError(f"{path} is about {found[-1].role} of {found[-1].id}")
        return found

    def hold(self, migration: str, role: str) -> HeldEntry:
        """Take its lock, to act for it.

        :raises TryAgainError: another process acts for it now.
        :raises OutputError: the folder cannot be written.
        """
        path = self._path(migration, role)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutputError(
                f"cannot keep a journal in {self.folder}: {error.strerror or error}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise TryAgainError(
                f"migration {migration} is in the hands of another process here"
            ) from error
        return HeldEntry(path, lock, self._found(migration, role, lock))

    def _found(self, migration: str, role: str, lock: int) -> Entry | None:
        try:
            return self.find(migration, role)
        except BaseException:
            os.close(lock)
            raise

    def prune(self, open_states: Mapping[str, frozenset[str]]) -> None:
        """Remove old entries in which nothing is open.

        :param open_states: by role.
        """
        oldest = _rfc3339(time.time() - KEPT_S)
        for entry in self.entries():
            if entry.state in open_states[entry.role] or entry.changed >= oldest:
                continue
            try:
                held = self.hold(entry.id, entry.role)
            except TryAgainError:
                continue
            with held:
                held.remove()

    def _path(self, migration: str, role: str) -> Path:
        if not _ID.fullmatch(migration):
            raise JournalError(f"{migration!r} is no id of a migration: 32 hexadecimal digits")
        return self.folder / f"{role}-{migration}.jsonl"


class HeldEntry:
    """An entry whose lock this process has.

    :ivar entry: as it was written last, None if it is not there.
    """

    def __init__(self, path: Path, lock: int, entry: Entry | None) -> None:
        self.entry = entry
        self.remark = ""  # goes along with the next change
        self._path = path
        self._lock = lock
        self._fd = -1  # the file, once it was written by this process
        self._size = 0

    def change(self, state: str) -> None:
        """The same entry in another state. :raises OutputError: as :meth:`write`."""
        assert self.entry is not None
        self.write(evolve(self.entry, state=state, remark=self.remark or self.entry.remark))

    def write(self, entry: Entry) -> None:
        """Durable when this returns.

        :raises OutputError: it could not be written; or perhaps it was, if flushing failed.
        """
        now = _rfc3339(time.time())
        began = self.entry.began if self.entry is not None else now
        entry = evolve(entry, began=began, changed=now, process=os.getpid())
        line = _line(entry)
        if self._fd < 0 or self._size + len(line) > ENTRY_BYTES_MAX:
            self._write_whole(line)
        else:
            self._append(line)
        self.entry = entry

    def _write_whole(self, line: bytes) -> None:
        known = b"" if self.entry is None else _line(self.entry)
        self._close_file()
        with open_sink(self._path) as sink:
            sink.put([known, line])
            sink.commit()
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}") from error
        self._size = len(known) + len(line)

    def _append(self, line: bytes) -> None:
        try:
            write_all(self._fd, [memoryview(line)])
            os.fdatasync(self._fd)
        except OSError as error:
            # What there is of it now is not known: next time it is written anew.
            self._close_file()
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}") from error
        self._size += len(line)

    def _close_file(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def remove(self) -> None:
        for path in (self._path, self._path.with_suffix(".lock")):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        self.entry = None

    def close(self) -> None:
        """Let go of the lock."""
        self._close_file()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()


def _line(entry: Entry) -> bytes:
    text = json.dumps({"schema": SCHEMA, **asdict(entry)}).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _parse(text: bytes, path: Path) -> list[Entry]:
    """:returns: at least one. :raises JournalError: there is none, or one is damaged that is
    not the last."""
    if len(text) > ENTRY_BYTES_MAX:
        raise JournalError(f"{path} is damaged: more than {ENTRY_BYTES_MAX} bytes")
    lines = text.split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_parse_line(line))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if number < len(lines) - 1 or not found:
                raise JournalError(f"{path} is damaged: line {number}: {error}") from error
            break  # it was being written when the process or the machine ended
    return found


def _parse_line(line: bytes) -> Entry:
    total, _, text = line.partition(b" ")
    if len(line) > LINE_BYTES_MAX or int(total, 16) != zlib.crc32(text):
        raise ValueError("its checksum is not the one that it has")
    found: Any = json.loads(text)
    if found.pop("schema") != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    entry = Entry(**found)
    for one in fields(Entry):
        if not isinstance(getattr(entry, one.name), int if one.name == "process" else str):
            raise TypeError(f"{one.name} is of the wrong kind")
    return entry


def _rfc3339(seconds: float) -> str:
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
