"""A migration stream in, events out: it reads like QEMU's own loader.

    head, [configuration], [commands], first section of ram,
    {further sections of ram, commands}, devices

Source: QEMU migration/savevm.c (qemu_loadvm_state_main).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from xsave import (
    ByteSource,
    FieldError,
    FormatError,
    ImageInfo,
    PageMode,
    Record,
    RecordError,
    RecordType,
    Remark,
)

from .ahead import Ahead
from .configuration import (
    COMMAND,
    CONFIGURATION,
    Command,
    CommandHandler,
    Configuration,
    read_command,
    read_configuration,
)
from .devices import DEVICES, MAX_DEVICES_BYTES
from .grammar import COMMAND as COMMAND_BYTE
from .grammar import CONFIGURATION as CONFIGURATION_BYTE
from .grammar import END, FOOTER_BYTES, FULL, HEAD, HEAD_BYTES, PART, START
from .ram_blocks import (
    RAM_BLOCKS,
    RAM_SECTION,
    RamBlocks,
    check_footer,
    encode_blocks,
    read_blocks,
)
from .ram_reader import RamReader
from .savevm import walk_devices

if TYPE_CHECKING:
    from xsave import Event

T = TypeVar("T")
MAX_COMMANDS_BEFORE = 64  # the first section; they are kept until that was seen


class StreamReader:
    def __init__(self, source: ByteSource, pages: PageMode) -> None:
        self._ahead = Ahead(source)
        self._head: list[Record] = []  # what was read before the first page
        self.remarks: list[Remark] = []
        self._read_magic()
        configuration = self._read_configuration()
        while self._ahead.peek() == COMMAND_BYTE and len(self._head) < MAX_COMMANDS_BEFORE:
            self._head.append(self._read_command())
        self._blocks = self._read_blocks()
        # There is nothing to check in the contents: to be passed over is enough.
        skips = pages in (PageMode.SKIP, PageMode.CHECK)
        self._ram = RamReader(self._ahead, self._blocks, skips=skips)
        self.info = ImageInfo(
            "qemu",
            details={
                "machine": "" if configuration is None else configuration.machine,
                "ram_bytes": sum(one.size_bytes for one in self._blocks.blocks),
                "nr_ram_blocks": len(self._blocks.blocks),
            },
        )

    def __iter__(self) -> Iterator[Event]:
        yield from self._head
        kind = -1
        while kind != END:
            kind = self._ahead.peek()
            if kind == COMMAND_BYTE:
                yield self._read_command()
                continue
            yield self._read_section(kind)
            yield from self._ram.section()
            if self._blocks.has_footers:
                self._field(RAM_SECTION, self._read_footer)
        yield self._read_devices()

    # -- before the memory -----------------------------------------------------------

    def _read_magic(self) -> None:
        head = self._ahead.take(HEAD_BYTES, "head of the stream")
        if head != HEAD:
            raise FormatError(
                what="head of the stream", offset=0, expected="QEVM and version 3", got=head.hex()
            )

    def _field(self, record: str, read: Callable[[], T]) -> T:
        """What is wrong in it is said with the place where it stands."""
        offset = self._ahead.offset
        try:
            return read()
        except FieldError as error:
            raise RecordError(record=record, offset=offset, reason=str(error)) from error

    def _read_configuration(self) -> Configuration | None:
        ahead = self._ahead
        if ahead.peek() != CONFIGURATION_BYTE:
            return None
        offset = ahead.offset
        ahead.take(1, "configuration")
        found = self._field(CONFIGURATION, lambda: read_configuration(ahead.take, ahead.peek))
        self._head.append(Record(RecordType(CONFIGURATION), found.body, offset))
        return found

    def _read_command(self) -> Record:
        ahead = self._ahead
        offset = ahead.offset
        ahead.take(1, "command")
        found: Command = self._field(COMMAND, lambda: read_command(ahead.take))
        return Record(RecordType(COMMAND), b"".join(CommandHandler().encode(found)), offset)

    def _read_blocks(self) -> RamBlocks:
        ahead = self._ahead
        offset = ahead.offset
        found = self._field(RAM_BLOCKS, lambda: read_blocks(ahead.take, ahead.peek))
        self._head.append(Record(RecordType(RAM_BLOCKS), encode_blocks(found), offset))
        return found

    # -- memory ----------------------------------------------------------------------

    def _read_section(self, kind: int) -> Record:
        offset = self._ahead.offset
        head = self._ahead.take(5, "section")
        section_id = int.from_bytes(head[1:], "big")
        if kind not in (PART, END) or section_id != self._blocks.section_id:
            what = "START or FULL: " if kind in (START, FULL) else ""
            raise FormatError(
                what="section", offset=offset,
                expected=f"2 PART or 3 END of section {self._blocks.section_id}, ram",
                got=f"{kind:#x} with number {section_id} ({what}nothing but memory is sent in "
                "parts, or before it, in a stream that is read here)",
            )  # fmt: skip
        return Record(RecordType(RAM_SECTION), head, offset)

    def _read_footer(self) -> None:
        check_footer(self._ahead.take(FOOTER_BYTES, "footer of ram"), self._blocks.section_id)

    # -- devices ---------------------------------------------------------------------

    def _read_devices(self) -> Record:
        offset = self._ahead.offset
        body = self._ahead.rest(MAX_DEVICES_BYTES)
        if body is None:
            raise FormatError(
                what="devices", offset=offset, got="more",
                expected=f"at most {MAX_DEVICES_BYTES} bytes to the end of the stream",
            )  # fmt: skip
        self._check_devices(body, offset)
        return Record(RecordType(DEVICES), body, offset)

    def _check_devices(self, body: bytes, offset: int) -> None:
        """A stream that was cut has no end mark where its last section ends."""
        walked = walk_devices(body) if body else None
        if walked is None or walked.end is None or walked.has_gaps or (
            self._blocks.has_footers and not walked.is_proved
        ):  # fmt: skip
            last = walked.sections[-1] if walked is not None and walked.sections else None
            where = "" if last is None else f" behind {last.name} at {offset + last.offset:#x}"
            raise FormatError(
                what="devices", offset=offset,
                expected=f"sections, an end mark and at most a description{where}",
                got="something else, or the end of the stream: it may be cut",
            )  # fmt: skip
        if walked.is_described:
            return
        text = (
            "it ends without a description of its devices, as QEMU before 2.3 and old machine types"
        )
        if walked.is_proved:
            text += " do; footers show that it is whole"
        elif walked.fits:
            fitting = " and ".join(f"QEMU {version}" for version in walked.fits)
            text += f" do; what is known of {fitting} fits it to its end"
        else:
            text += " do, and without footers, so nobody can tell whether it ends where it should"
        self.remarks.append(Remark(text))
