"""Events in, a migration stream out: the mirror of :mod:`.stream_reader`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsave import (
    PAGE_SIZE,
    ByteSink,
    GuestType,
    ImageInfo,
    LossError,
    OutputError,
    Record,
    UsageError,
)

from .configuration import COMMAND, CONFIGURATION
from .devices import DEVICES
from .grammar import COMMAND as COMMAND_BYTE
from .grammar import CONFIGURATION as CONFIGURATION_BYTE
from .grammar import END, HEAD, footer
from .ram_blocks import EOS, RAM_BLOCKS, RAM_PAGES, RAM_SECTION, RamBlocks, RamBlocksHandler
from .ram_writer import RamWriter

if TYPE_CHECKING:
    from xsave import Event

# What may come after what; "" is the start.
_AFTER = {
    CONFIGURATION: {""},
    RAM_BLOCKS: {"", CONFIGURATION, COMMAND},
    COMMAND: {"", CONFIGURATION, COMMAND, RAM_BLOCKS, RAM_SECTION},
    RAM_SECTION: {RAM_BLOCKS, RAM_SECTION, COMMAND},
    RAM_PAGES: {RAM_SECTION},
    DEVICES: {RAM_SECTION},
}


class StreamWriter:
    def __init__(self, sink: ByteSink, info: ImageInfo) -> None:
        if info.guest_type is not GuestType.UNKNOWN:
            raise UsageError(
                f"a QEMU stream holds a guest of QEMU's own, not {info.guest_type.value}, which "
                "is a guest of Xen"
            )
        if info.page_size != PAGE_SIZE:
            raise UsageError(f"a QEMU stream has pages of 4096 bytes, not {info.page_size}")
        self.left_out: list[str] = []
        self._sink = sink
        self._last = ""  # the last record that was put
        self._blocks: RamBlocks | None = None
        self._ram: RamWriter | None = None
        self._is_open = False  # a section of RAM
        self._ram_ended = False

    def put(self, event: Event) -> None:
        name = event.name
        if name not in _AFTER or event.type.version != 1:
            if event.type.mandatory:
                raise LossError(losses={name: 1})
            self.left_out.append(name)
            return
        if self._last not in _AFTER[name] or isinstance(event, Record) is (name == RAM_PAGES):
            raise OutputError(
                f"{name} does not belong behind {self._last or 'the start'} in a QEMU stream"
            )
        if not self._last:
            self._sink.put([HEAD])
        self._last = RAM_SECTION if name == RAM_PAGES else name
        if not isinstance(event, Record):
            assert self._ram is not None
            self._sink.put(self._ram.items(event))
        elif name == RAM_SECTION:
            self._open_section(event)
        else:
            self._put_record(event)

    def _put_record(self, record: Record) -> None:
        self._close_section()
        if record.name == RAM_BLOCKS:
            self._blocks = RamBlocksHandler().decode(memoryview(record.body))
            self._ram = RamWriter(self._blocks)
        if record.name == COMMAND and self._blocks is not None:
            self._last = RAM_SECTION  # where sections of RAM go on
        if record.name == DEVICES and not self._ram_ended:
            raise OutputError(f"{DEVICES} came before the last section of ram")
        kind = {CONFIGURATION: CONFIGURATION_BYTE, COMMAND: COMMAND_BYTE}.get(record.name)
        self._sink.put([*([] if kind is None else [bytes([kind])]), record.body])

    def _open_section(self, record: Record) -> None:
        assert self._blocks is not None
        body = bytes(record.body)
        if self._ram_ended or body[1:] != self._blocks.section_id.to_bytes(4, "big"):
            raise OutputError(f"{RAM_SECTION} {body.hex()} came where ram has ended, or is another")
        self._close_section()
        self._sink.put([body])
        self._is_open = True
        self._ram_ended = body[0] == END

    def _close_section(self) -> None:
        if self._is_open and self._blocks is not None:
            closing = footer(self._blocks.section_id) if self._blocks.has_footers else b""
            self._sink.put([EOS.to_bytes(8, "big") + closing])
            self._is_open = False

    def finish(self) -> None:
        if self._last != DEVICES:
            raise OutputError(
                f"this is no whole guest of QEMU's: the last of it is {self._last or 'nothing'}, "
                f"and not {DEVICES}"
            )
