"""What a migration stream says before its first section: the configuration, and commands.

A configuration is the name of the machine's type, then sub-sections that may be there. It has
no length of its own, so that one which has another sub-section cannot be read.

Source: QEMU migration/savevm.c (vmstate_configuration, MIG_CMD_*).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import evolve, field

from xsave import (
    Buffer,
    Domain,
    FieldError,
    GuestType,
    Phase,
    RecordHandler,
    Redaction,
    UsageError,
    frozen,
)

from .grammar import SUBSECTION

CONFIGURATION, COMMAND = "qemu.configuration", "qemu.command"
QEMU_GUESTS = frozenset({GuestType.UNKNOWN})  # virtualised by no Xen
MAX_NAME_BYTES = 255
MAX_CAPABILITIES = 256
PAGE_BITS = 12
_PREFIX = "configuration/"
_REFUSED: Final = {
    "x-ignore-shared": "memory that is shared stays outside the stream",
    "mapped-ram": "memory has places in a file, instead of following one another",
}
# Those that a stream into a file can have. All others speak to another end.
_COMMANDS: Final = {1: "open return path", 2: "ping", 11: "switchover start"}

Take = Callable[[int, str], bytes]


def no_domain() -> UsageError:
    return UsageError(
        "this is a guest of QEMU's own: convert its image to format qemu, and give that to QEMU "
        "(-incoming)"
    )


@frozen
class Configuration:
    """:ivar page_bits: of a target page's size, as a power of two; None where it goes without
        saying.
    :ivar capabilities: of the migration, that both ends must have.
    :ivar uuid: of the machine; b"" if it is not told.
    :ivar body: as it came.
    """

    machine: str
    page_bits: int | None = None
    capabilities: tuple[str, ...] = ()
    uuid: bytes = b""
    body: bytes = field(default=b"", repr=False)


class ConfigurationHandler(RecordHandler[Configuration]):
    name = CONFIGURATION
    summary = "type of the machine, and what both ends must agree upon"
    phase = Phase.STATIC_DATA
    guest_types = QEMU_GUESTS
    redaction = Redaction.CLEANED

    def decode(self, body: memoryview) -> Configuration:
        """:raises FieldError: also for what this plugin cannot read the rest of a stream with."""
        cursor = Cursor(bytes(body))
        found = read_configuration(cursor.take, cursor.peek)
        cursor.expect_end()
        return found

    def encode(self, state: Configuration) -> Sequence[Buffer]:
        return (state.body,)

    def redact(self, state: Configuration, seen: Mapping[str, Any]) -> Configuration:
        if not state.uuid:
            return state
        return evolve(state, body=state.body.replace(state.uuid, bytes(16)), uuid=bytes(16))

    def apply(self, domain: Domain, state: Configuration) -> None:
        raise no_domain()

    def describe(self, state: Configuration, seen: Mapping[str, Any]) -> Any:
        return {
            "machine": state.machine,
            "page_bits": state.page_bits,
            "capabilities": list(state.capabilities),
            "uuid": state.uuid.hex(),
        }


def read_configuration(take: Take, peek: Callable[[], int]) -> Configuration:
    """:param take: bytes one after the other; :param peek: the next one, -1 at the end.
    :raises FieldError: it is none, or the stream that it belongs to cannot be read.
    """
    body = bytearray()

    def piece(size: int, what: str) -> bytes:
        found = take(size, what)
        body.extend(found)
        return found

    size = _number(piece(4, "length of the machine's type"))
    _bound("length of the machine's type", size, MAX_NAME_BYTES)
    found = Configuration(_text(piece(size, "machine's type")))
    while peek() == SUBSECTION:
        length = piece(2, "sub-section of the configuration")[1]
        name = _text(piece(length, "sub-section of the configuration"))
        version = _number(piece(4, f"version of {name}"))
        if version != 1:
            raise FieldError(field=f"version of {name}", expected="1", got=str(version))
        found = _read_subsection(found, name.removeprefix(_PREFIX), piece)
    return evolve(found, body=bytes(body))


def _read_subsection(found: Configuration, name: str, take: Take) -> Configuration:
    if name == "target-page-bits":
        bits = _number(take(4, name))
        if bits != PAGE_BITS:
            raise FieldError(field=name, expected="12: pages of 4096 bytes", got=str(bits))
        return evolve(found, page_bits=bits)
    if name == "capabilities":
        count = _number(take(4, name))
        _bound("number of capabilities", count, MAX_CAPABILITIES)
        names = [_text(take(take(1, name)[0], name)) for _ in range(count)]
        for one in names:
            if one in _REFUSED:
                raise FieldError(
                    field="capability", expected="one without which memory comes in pages",
                    got=f"{one}: {_REFUSED[one]}; save without it",
                )  # fmt: skip
        return evolve(found, capabilities=tuple(names))
    if name == "uuid":
        return evolve(found, uuid=take(16, name))
    raise FieldError(
        field="sub-section of the configuration",
        expected="target-page-bits, capabilities or uuid",
        got=repr(name),
    )


@frozen
class Command:
    command: int
    data: bytes


class CommandHandler(RecordHandler[Command]):
    """Body: number u16, length u16, data: as behind the byte 0x08 in the stream."""

    name = COMMAND
    summary = "what the saving QEMU told the loading one"
    phase = Phase.MEMORY
    guest_types = QEMU_GUESTS
    redaction = Redaction.KEPT

    def decode(self, body: memoryview) -> Command:
        cursor = Cursor(bytes(body))
        found = read_command(cursor.take)
        cursor.expect_end()
        return found

    def encode(self, state: Command) -> Sequence[Buffer]:
        return (state.command.to_bytes(2, "big") + len(state.data).to_bytes(2, "big") + state.data,)

    def apply(self, domain: Domain, state: Command) -> None:
        raise no_domain()

    def describe(self, state: Command, seen: Mapping[str, Any]) -> Any:
        return {
            "command": state.command,
            "name": _COMMANDS.get(state.command, "unknown"),
            "data": state.data.hex(),
        }


def read_command(take: Take) -> Command:
    """:raises FieldError: it is for another end that listens, which a file is not."""
    head = take(4, "command")
    command = int.from_bytes(head[:2], "big")
    if command not in _COMMANDS:
        known = ", ".join(f"{number} ({name})" for number, name in _COMMANDS.items())
        raise FieldError(
            field="command", expected=known,
            got=f"{command}: part of a migration to another end, such as postcopy",
        )  # fmt: skip
    return Command(command, take(int.from_bytes(head[2:], "big"), "data of a command"))


class Cursor:
    """A body, piece by piece."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.at = 0

    def take(self, size_bytes: int, what: str) -> bytes:
        piece = self._body[self.at : self.at + size_bytes]
        if len(piece) < size_bytes:
            raise FieldError(field=what, expected=f"{size_bytes} bytes", got=f"{len(piece)}")
        self.at += size_bytes
        return piece

    def peek(self) -> int:
        return self._body[self.at] if self.at < len(self._body) else -1

    def expect_end(self) -> None:
        if left := len(self._body) - self.at:
            raise FieldError(field="body", expected=f"{self.at} bytes", got=f"{left} more")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _bound(what: str, found: int, highest: int) -> None:
    if found > highest:
        raise FieldError(field=what, expected=f"at most {highest}", got=str(found))
