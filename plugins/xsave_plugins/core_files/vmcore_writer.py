"""Events in, a vmcore out.

Each page goes to the place in the file that its pfn has, whatever comes when: where nothing is
put, and where many pages are zero, the sink leaves holes. What belongs in front, the headers, is
known at the end and written then. Layout of the file:

    ELF header, program headers, notes   in front if there is room for both, as there is for
                                         70 000 segments: crash looks for notes nowhere else
    page of pfn 0, of pfn 1, ...         from DATA_OFFSET on
    notes, then program headers          behind the highest page, if they did not fit in front
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xsave import (
    PFN_MASK,
    OutputError,
    PageBatch,
    RandomSink,
    Record,
    carries_page,
    runs,
)

from . import elf
from .records import NOTES
from .registers import Vcpu, vcpus_of
from .vmcoreinfo import VmcoreinfoFinder
from .xen_core_records import FRAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import ByteSink, Event, ImageInfo, Pages, WriteOptions

DATA_OFFSET = 4 << 20
PFN_LIMIT = 1 << 32  # 16 TiB of guest; what lies above is damage
PAGE = elf.PAGE_SIZE


class VmcoreWriter:
    """Physical addresses are pfns times 4096, for PV guests too: their page tables hold pfns
    in an image, so that a debugger that walks them finds its way.

    Of records, the registers of the vcpus are used and nothing else: that is what a core file
    is. Memory use: a byte for each pfn.
    """

    def __init__(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> None:
        if not isinstance(sink, RandomSink):
            raise OutputError("a vmcore cannot be written into a pipe: its pages have places")
        self._sink = sink
        self._describe = options.describe
        self._vcpus: dict[int, Vcpu] = {}
        self._present = np.zeros(0, np.bool_)
        self._vmcoreinfo = VmcoreinfoFinder()
        self._other_notes = b""
        self.left_out: Sequence[str] = ()

    def put(self, event: Event) -> None:
        if isinstance(event, Record):
            self._put_record(event)
        else:
            self._put_pages(event)

    def _put_record(self, record: Record) -> None:
        if record.name == NOTES:  # of a core file that was read
            self._other_notes = bytes(record.body)
            return
        if record.name == FRAMES:
            # by which a reader of a PV guest's page tables would find its way: not one that
            # is given nothing but addresses
            self.left_out = [*self.left_out, record.name]
        fields: Any = self._describe(record)
        if fields is not None:
            for vcpu in vcpus_of(record.name, fields):
                self._vcpus[vcpu.number] = vcpu

    def _put_pages(self, batch: PageBatch) -> None:
        if batch.pages is None:
            raise OutputError(f"{batch.name}: a batch without its pages")
        entries = batch.entries
        pfns = (entries & PFN_MASK).astype(np.int64)
        if (highest := int(pfns.max(initial=-1))) >= PFN_LIMIT:
            raise OutputError(f"pfn {highest:#x} is none that a guest has")
        if highest >= len(self._present):
            size = max(highest + 1, 2 * len(self._present), 1 << 16)
            self._present = _grown(self._present, size)
        carries = carries_page(entries)
        self._present[pfns] = carries
        with_page = pfns[carries]
        self._vmcoreinfo.see(with_page, batch.pages)
        row = 0
        for first, count in zip(*_as_ints(runs(with_page)), strict=True):
            self._sink.put_at(DATA_OFFSET + first * PAGE, [_flat(batch.pages, row, count)])
            row += count

    def finish(self) -> None:
        pfns = np.flatnonzero(self._present)
        firsts, lengths = _as_ints(runs(pfns))
        if firsts == [0] and lengths[0] > 1:
            # where all addresses are 0 drgn takes it that there are none
            firsts, lengths = [0, 1], [1, lengths[0] - 1]
        data_end = DATA_OFFSET + (int(pfns[-1]) + 1 if len(pfns) else 0) * PAGE
        notes = self._notes()
        loads = [
            _segment(elf.PT_LOAD, DATA_OFFSET + first * PAGE, first * PAGE, length * PAGE)
            for first, length in zip(firsts, lengths, strict=True)
        ]
        at = elf.Header.SIZE
        notes_at = at + (1 + len(loads)) * elf.Segment.SIZE
        end = data_end
        if notes_at + len(notes) > DATA_OFFSET:
            notes_at = data_end
            at = data_end + len(notes) + (-len(notes) & 7)
            end = at + (1 + len(loads)) * elf.Segment.SIZE
        self._sink.put_at(notes_at, [notes])
        segments = [_segment(elf.PT_NOTE, notes_at, 0, len(notes)), *loads]
        self._put_headers(segments, at, end)

    def _put_headers(self, segments: Sequence[elf.Segment], at: int, end: int) -> None:
        """:param at: where the program headers go.
        :param end: of everything, where a section header has room.
        """
        extended = len(segments) >= elf.PN_XNUM
        self._sink.put_at(at, [b"".join(one.encode() for one in segments)])
        if extended:
            zeroes = dict.fromkeys(elf.Section.FIELDS, 0)
            self._sink.put_at(end, [elf.Section(**{**zeroes, "info": len(segments)}).encode()])
        header = elf.Header(
            ident=b"\x7fELF\x02\x01\x01".ljust(16, b"\0"), type=elf.ET_CORE,
            machine=elf.EM_X86_64, version=1, entry=0, phoff=at, shoff=end if extended else 0,
            flags=0, ehsize=elf.Header.SIZE, phentsize=elf.Segment.SIZE,
            phnum=min(len(segments), elf.PN_XNUM),
            shentsize=elf.Section.SIZE if extended else 0, shnum=int(extended), shstrndx=0,
        )  # fmt: skip
        self._sink.put_at(0, [header.encode()])

    def _notes(self) -> bytes:
        if self._other_notes:
            return self._other_notes
        vcpus = [self._vcpus[number] for number in sorted(self._vcpus)]
        made = [elf.note(elf.NOTE_CORE, elf.NT_PRSTATUS, vcpu.prstatus()) for vcpu in vcpus]
        made += [elf.note(elf.NOTE_QEMU, 0, vcpu.qemu_state()) for vcpu in vcpus if vcpu.segments]
        if text := self._vmcoreinfo.found(self._present):
            made.append(elf.note(elf.NOTE_VMCOREINFO, 0, text))
        return b"".join(made)


def _segment(kind: int, offset: int, address: int, size: int) -> elf.Segment:
    """``align`` is 0: crash takes the file for a kdump by that, others do not mind."""
    return elf.Segment(
        type=kind, flags=elf.PF_RWX if kind == elf.PT_LOAD else 0, offset=offset, vaddr=0,
        paddr=address, filesz=size, memsz=size if kind == elf.PT_LOAD else 0, align=0,
    )  # fmt: skip


def _grown(flags: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    grown = np.zeros(size, np.bool_)
    grown[: len(flags)] = flags
    return grown


def _as_ints(found: tuple[NDArray[Any], NDArray[Any]]) -> tuple[list[int], list[int]]:
    return found[0].tolist(), found[1].tolist()


def _flat(pages: Pages, start: int, length: int) -> memoryview:
    return np.ascontiguousarray(pages[start : start + length]).reshape(-1).data
