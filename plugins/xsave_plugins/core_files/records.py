"""What a core file holds, as records: its notes, and its pages.

A core file does not say what kind of guest it is of, so its pages have a name of their own: they
can be looked at, kept and written into a core file again, and are no guest that could run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import field

from xsave import (
    Buffer,
    Domain,
    FieldError,
    MemoryHandler,
    PageBatch,
    Phase,
    RecordHandler,
    UsageError,
    frozen,
)

from . import elf
from .registers import PRSTATUS_BYTES, read_prstatus

NOTES, PAGES = "core.notes", "core.page_data"
NOTES_MAX = 64 << 20  # bytes: of 8192 vcpus with all that is known of them, 10 MiB
NR_NOTES_MAX = 1 << 17
_SHOWN_BYTES = 4096


@frozen
class Note:
    name: str
    type: int
    desc: bytes = field(repr=False)


@frozen
class Notes:
    """:ivar body: as it came; :ivar notes: found in it."""

    body: bytes = field(repr=False)
    notes: tuple[Note, ...]


class NotesHandler(RecordHandler[Notes]):
    name = NOTES
    summary = "registers and further notes of a core file"
    mandatory = False
    phase = Phase.END_OF_CHECKPOINT

    def decode(self, body: memoryview) -> Notes:
        return Notes(bytes(body), tuple(_read_notes(body)))

    def encode(self, state: Notes) -> Sequence[Buffer]:
        return (state.body,)

    def apply(self, domain: Domain, state: Notes) -> None:
        raise UsageError("a core file is not an image of a guest: it cannot be restored")

    def describe(self, state: Notes, seen: Mapping[str, Any]) -> Any:
        return {"notes": [_describe(one) for one in state.notes]}


class CorePagesHandler(MemoryHandler):
    name = PAGES
    summary = "memory in a core file, by physical address"
    guest_types = frozenset()  # a guest's own memory is another record, whatever its type

    def check(self, batch: PageBatch) -> None:
        """Ordinary pages only: a core file knows no others."""
        if (found := batch.entry_list.first_of(frozenset(range(1, 16)))) is not None:
            _, pfn, kind = found
            raise FieldError(field=f"type of pfn {pfn:#x}", expected="0", got=str(kind))


def _read_notes(body: memoryview) -> Iterator[Note]:
    at, count = 0, 0
    while at < len(body):
        head = elf.NoteHeader.decode_at(body, at)
        name_at = at + elf.NoteHeader.SIZE
        desc_at = name_at + head.namesz + (-head.namesz & 3)
        end = desc_at + head.descsz
        count += 1
        if end > len(body) or count > NR_NOTES_MAX:
            raise FieldError(
                field=f"note at body offset {at:#x}", expected=f"at most {len(body) - at} bytes",
                got=f"a name of {head.namesz} and {head.descsz} bytes",
            )  # fmt: skip
        name = bytes(body[name_at : name_at + head.namesz]).rstrip(b"\0")
        yield Note(name.decode("ascii", "replace"), head.type, bytes(body[desc_at:end]))
        at = end + (-end & 3)


def _describe(note: Note) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": note.name, "type": note.type, "size_bytes": len(note.desc)}
    if note.name == "CORE" and note.type == elf.NT_PRSTATUS and len(note.desc) == PRSTATUS_BYTES:
        shown["thread"], shown["registers"] = read_prstatus(note.desc)
    elif note.name == "VMCOREINFO":
        lines = note.desc.decode("ascii", "replace").splitlines()
        shown["lines"] = [line for line in lines if line]
    else:
        shown["hex"] = note.desc[:_SHOWN_BYTES].hex()
    return shown
