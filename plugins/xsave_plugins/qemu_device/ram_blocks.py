"""RAM of a QEMU guest: its blocks, and where its pages stand among them.

A guest's RAM is in named blocks: ``pc.ram``, ``vga.vram``, the ROMs. The first section of RAM
lists them. Here they lie one behind the other, in the order of that list, and a pfn counts pages
from the first block's start on: QEMU lists the largest first, so that small pfns are those of
the guest's main memory, as the guest itself counts them up to where its machine has a hole.

Source: QEMU migration/ram.c (ram_save_setup, ram_load_precopy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field

from xsave import (
    PAGE_SIZE,
    Buffer,
    Domain,
    FieldError,
    MemoryHandler,
    PageBatch,
    Phase,
    RecordHandler,
    Redaction,
    frozen,
)

from .configuration import QEMU_GUESTS, Cursor, Take, no_domain
from .grammar import END, FOOTER_BYTES, PART, START, footer

RAM_BLOCKS, RAM_SECTION, RAM_PAGES = "qemu.ram.blocks", "qemu.ram.section", "qemu.ram.page_data"
RAM_IDSTR, RAM_VERSION = b"ram", 4
MAX_BLOCKS = 4096
MAX_PAGES = 1 << 40  # 4 PiB
MEM_SIZE, EOS = 0x04, 0x10
FLAGS_MASK = PAGE_SIZE - 1


@frozen
class RamBlock:
    """:ivar first_pfn: of its first page, see above."""

    name: str
    size_bytes: int
    first_pfn: int

    @property
    def nr_pages(self) -> int:
        return self.size_bytes // PAGE_SIZE


@frozen
class RamBlocks:
    """:ivar section_id: number of RAM's sections in the stream.
    :ivar has_footers: whether sections of the stream end with a footer.
    """

    section_id: int
    blocks: tuple[RamBlock, ...]
    has_footers: bool
    by_name: Mapping[bytes, RamBlock] = field(factory=dict, repr=False, eq=False)

    @property
    def nr_pages(self) -> int:
        return sum(one.nr_pages for one in self.blocks)


class RamBlocksHandler(RecordHandler[RamBlocks]):
    """Body: the first section of RAM as it stands in the stream, from its first byte on, with
    its footer if it has one."""

    name = RAM_BLOCKS
    summary = "blocks that the guest's RAM consists of"
    phase = Phase.START_OF_STREAM
    guest_types = QEMU_GUESTS
    redaction = Redaction.KEPT

    def decode(self, body: memoryview) -> RamBlocks:
        cursor = Cursor(bytes(body))
        found = read_blocks(cursor.take, cursor.peek)
        cursor.expect_end()
        return found

    def encode(self, state: RamBlocks) -> Sequence[Buffer]:
        return (encode_blocks(state),)

    def apply(self, domain: Domain, state: RamBlocks) -> None:
        raise no_domain()

    def describe(self, state: RamBlocks, seen: Mapping[str, Any]) -> Any:
        return {
            "section_id": state.section_id,
            "has_footers": state.has_footers,
            "size_bytes": sum(one.size_bytes for one in state.blocks),
            "blocks": [
                {"name": one.name, "size_bytes": one.size_bytes, "first_pfn": one.first_pfn}
                for one in state.blocks
            ],
        }


def read_blocks(take: Take, peek: Any) -> RamBlocks:
    """:param take: bytes one after the other; :param peek: the next one, -1 at the end.
    :raises FieldError: it is no first section of RAM that can be read here.
    """
    head = take(6, "header of a section")
    _expect("kind of the first section", head[0], START)
    name = take(head[5], "name of a section")
    if name != RAM_IDSTR:
        raise FieldError(
            field="name of the first section", expected="ram, the guest's memory",
            got=repr(name.decode("latin-1")),
        )  # fmt: skip
    _expect("instance of ram", _number(take(4, "instance of ram")), 0)
    _expect("version of ram", _number(take(4, "version of ram")), RAM_VERSION)
    blocks = _read_list(take)
    _expect("end of the list of blocks", _number(take(8, "end of the list of blocks")), EOS)
    section_id = _number(head[1:5])
    has_footers = peek() == footer(section_id)[0]
    if has_footers:
        check_footer(take(FOOTER_BYTES, "footer of ram"), section_id)
    return RamBlocks(section_id, blocks, has_footers, _by_name(blocks))


def _read_list(take: Take) -> tuple[RamBlock, ...]:
    """Until the sizes add up to what is said first."""
    word = _number(take(8, "size of the RAM"))
    _expect("flags at the size of the RAM", word & FLAGS_MASK, MEM_SIZE)
    left, first_pfn = word - MEM_SIZE, 0
    blocks: list[RamBlock] = []
    while left:
        name = take(take(1, "name of a block")[0], "name of a block").decode("latin-1")
        size = _number(take(8, f"size of block {name}"))
        if not 0 < size <= left or size % PAGE_SIZE or len(blocks) == MAX_BLOCKS:
            raise FieldError(
                field=f"size of block {name!r}",
                expected=f"pages of 4096 bytes, at most {left} bytes, so that sizes add up; at "
                f"most {MAX_BLOCKS} blocks",
                got=f"{size} (capabilities such as postcopy put more into the list)",
            )
        blocks.append(RamBlock(name, size, first_pfn))
        first_pfn += blocks[-1].nr_pages
        left -= size
    if first_pfn > MAX_PAGES:
        raise FieldError(field="RAM", expected=f"at most {MAX_PAGES} pages", got=str(first_pfn))
    return tuple(blocks)


def _by_name(blocks: Sequence[RamBlock]) -> dict[bytes, RamBlock]:
    named = {one.name.encode("latin-1"): one for one in blocks}
    if len(named) != len(blocks):
        raise FieldError(field="blocks", expected="each name once", got="one that comes again")
    return named


def encode_blocks(state: RamBlocks) -> bytes:
    total = sum(one.size_bytes for one in state.blocks)
    listed = b"".join(
        bytes([len(one.name)]) + one.name.encode("latin-1") + one.size_bytes.to_bytes(8, "big")
        for one in state.blocks
    )
    return b"".join((
        bytes([START]), state.section_id.to_bytes(4, "big"), bytes([len(RAM_IDSTR)]), RAM_IDSTR,
        bytes(4), RAM_VERSION.to_bytes(4, "big"), (total | MEM_SIZE).to_bytes(8, "big"), listed,
        EOS.to_bytes(8, "big"), footer(state.section_id) if state.has_footers else b"",
    ))  # fmt: skip


def check_footer(found: bytes, section_id: int) -> None:
    """:raises FieldError: it is not that of this section."""
    if found != footer(section_id):
        raise FieldError(field="footer of ram", expected=footer(section_id).hex(), got=found.hex())


@frozen
class RamSection:
    """:ivar kind: "part", or "end" for the last one."""

    kind: str
    section_id: int


class RamSectionHandler(RecordHandler[RamSection]):
    """Body: kind u8 and number u32, as a section begins in the stream. The pages behind it, up
    to the next record, are its own."""

    name = RAM_SECTION
    summary = "where a section of RAM begins"
    phase = Phase.MEMORY
    before = frozenset({RAM_PAGES})
    guest_types = QEMU_GUESTS
    redaction = Redaction.KEPT

    def decode(self, body: memoryview) -> RamSection:
        kinds = {PART: "part", END: "end"}
        if len(body) != 5 or body[0] not in kinds:
            raise FieldError(
                field="body",
                expected="2 or 3, and a number of 4 bytes",
                got=f"{len(body)} bytes, {bytes(body[:8]).hex()}",
            )
        return RamSection(kinds[body[0]], _number(bytes(body[1:])))

    def encode(self, state: RamSection) -> Sequence[Buffer]:
        kind = PART if state.kind == "part" else END
        return (bytes([kind]) + state.section_id.to_bytes(4, "big"),)

    def apply(self, domain: Domain, state: RamSection) -> None:
        raise no_domain()


class RamPagesHandler(MemoryHandler):
    name = RAM_PAGES
    summary = "pages of a QEMU guest's RAM, block by block"
    guest_types = frozenset()  # of no guest that a backend has

    def check(self, batch: PageBatch) -> None:
        """Ordinary pages only: QEMU knows no others."""
        if (found := batch.entry_list.first_of(frozenset(range(1, 16)))) is not None:
            _, pfn, kind = found
            raise FieldError(field=f"type of pfn {pfn:#x}", expected="0", got=str(kind))


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _expect(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise FieldError(field=what, expected=f"{expected:#x}", got=f"{found:#x}")
