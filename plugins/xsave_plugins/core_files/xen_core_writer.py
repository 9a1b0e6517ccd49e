"""Events in, a core file of Xen's own out.

Pages stand one after the other in ascending order of their pfns, and a list behind them says
which those are. Each gets the place that it will have when pfns come in order, which they do
but for pages that a guest was given, or gave away, while it was saved: then all are put in order
at the end. Layout of the file:

    ELF header, section headers, .note.Xen, .xen_prstatus, .xen_shared_info
    .xen_pages                 from PAGES_AT on
    .xen_p2m or .xen_pfn       behind them, then .shstrtab
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xsave import (
    GuestType,
    OutputError,
    RandomSink,
    Record,
)

from . import elf, xen_contexts, xen_core
from .machine_frames import MachineFrames
from .registers import Vcpu, vcpus_of
from .slots import PageSlots
from .xen_core_records import FRAMES, INFO, SHARED_INFO, VCPUS, XenInfoHandler, XenVcpusHandler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import ByteSink, Event, ImageInfo, WriteOptions

PAGES_AT = 1 << 20  # room for 200 vcpus in front; of more, behind
PAGE = elf.PAGE_SIZE
BATCH_PFNS = 1024
MAGIC_PV, MAGIC_HVM = xen_core.MAGIC_PV, xen_core.MAGIC_HVM
PV_VCPU, PV_SHARED_INFO = "xen.pv.vcpu_basic", "xen.pv.shared_info"
_VCPU_HEAD = 8  # bytes before the context in PV_VCPU
_SHT_PROGBITS, _SHT_STRTAB, _SHT_NOTE = 1, 3, 7
_TABLE_LEVELS = 7  # bits of a type that say which level of page table it is


class XenCoreWriter:
    """Of a PV guest the core is what Xen would have written of it: its page tables and contexts
    get the machine frames back that its own map from pfns to them says it had.

    Memory use: 6 bytes for each pfn, and up to 50 for each page at the end.
    """

    left_out: Sequence[str] = ()

    def __init__(self, sink: ByteSink, info: ImageInfo, options: WriteOptions) -> None:
        if not isinstance(sink, RandomSink):
            raise OutputError(
                "a core file of Xen's own cannot be written into a pipe: what is in front is "
                "known at the end"
            )
        self._sink = sink
        self._describe = options.describe
        self._slots = PageSlots(sink, PAGES_AT)
        self._frames = MachineFrames()
        self._guest_type = info.guest_type
        self._xen_version = info.xen_version
        self._vcpus: dict[int, Vcpu] = {}
        self._contexts: dict[int, bytes] = {}  # of a PV guest, as in the image
        self._shared_info = b""
        self._machine = elf.EM_X86_64
        self._info = b""  # of a core file that was read, and its contexts
        self._ready_contexts: Sequence[bytes] = ()

    def put(self, event: Event) -> None:
        if isinstance(event, Record):
            self._put_record(event)
        else:
            self._slots.put(event)

    def _put_record(self, record: Record) -> None:
        body = bytes(record.body)
        if record.name == PV_VCPU:
            context = body[_VCPU_HEAD:]
            self._contexts[int.from_bytes(body[:4], "little")] = context
            self._machine = xen_contexts.machine_of(context)
        elif record.name in (PV_SHARED_INFO, SHARED_INFO):
            self._shared_info = body
        elif record.name == INFO:
            self._info = body
        elif record.name == VCPUS:
            ready = XenVcpusHandler().decode(memoryview(body))
            self._machine, self._ready_contexts = ready.machine, ready.contexts
        elif record.name == FRAMES:
            self._frames.see_pairs(body)
        elif not self._frames.see_record(record.name, body):
            fields: Any = self._describe(record)
            if fields is not None:
                self._vcpus.update((vcpu.number, vcpu) for vcpu in vcpus_of(record.name, fields))

    # -- the end -------------------------------------------------------------------------

    def finish(self) -> None:
        pfns = self._slots.finish()
        is_pv = self._of_pv_guest()
        frames = self._frames.of(pfns, self._slots) if is_pv else None
        if frames is not None and not self._info:
            self._turn_tables(pfns)
        table = _list_of_pages(pfns, frames, is_pv=is_pv)
        contexts = self._all_contexts()
        bodies = {xen_core.NOTE: self._notes(is_pv, len(contexts), len(pfns))}
        bodies[xen_core.PRSTATUS] = b"".join(contexts)
        if self._shared_info:
            bodies[xen_core.SHARED_INFO] = self._shared_info
        self._put_sections(bodies, xen_core.P2M if is_pv else xen_core.PFN, len(pfns), table)

    def _of_pv_guest(self) -> bool:
        if self._info:
            return XenInfoHandler().decode(memoryview(self._info)).header.magic == MAGIC_PV
        return self._guest_type is GuestType.X86_PV

    def _turn_tables(self, pfns: NDArray[np.int64]) -> None:
        """The entries of page tables, in place."""
        is_table = np.flatnonzero(self._slots.types(pfns) & _TABLE_LEVELS)
        for start in range(0, len(is_table), BATCH_PFNS):
            which = is_table[start : start + BATCH_PFNS]
            pages = self._slots.get(which)
            self._frames.turn_tables(pages)
            self._slots.put_back(which, pages)

    def _all_contexts(self) -> Sequence[bytes]:
        if self._ready_contexts:
            return self._ready_contexts
        frame_of = self._frames.frame_of if self._frames.is_known else None
        made = [
            xen_contexts.from_record(number, self._contexts[number], frame_of)
            for number in sorted(self._contexts)
        ]
        made += [xen_contexts.from_registers(self._vcpus[number]) for number in sorted(self._vcpus)]
        return made

    def _notes(self, is_pv: bool, nr_vcpus: int, nr_pages: int) -> bytes:
        header = xen_core.Header(MAGIC_PV if is_pv else MAGIC_HVM, nr_vcpus, nr_pages, PAGE)
        if self._info:
            version = XenInfoHandler().decode(memoryview(self._info)).version
        else:
            version = _version(self._xen_version)
        return xen_core.encode_notes(header, version)

    def _put_sections(
        self, bodies: dict[str, bytes], list_name: str, nr_pages: int, table: bytes
    ) -> None:
        """All but the pages, which are there. Readers find names by counting them: so they
        stand in the order of the headers, each once."""
        table_at = self._slots.end
        self._sink.put_at(table_at, [table])
        end = table_at + len(table)
        at = elf.Header.SIZE + (4 + len(bodies)) * elf.Section.SIZE
        if at + sum(map(len, bodies.values())) > PAGES_AT:
            at = end
        rows = []
        for name, body in bodies.items():
            self._sink.put_at(at, [body])
            rows.append((name, at, len(body)))
            at += len(body)
        rows += [(xen_core.PAGES, PAGES_AT, nr_pages * PAGE), (list_name, table_at, len(table))]
        names_at = max(at, end)
        names = b"\0".join(
            name.encode() for name in ("", xen_core.SHSTRTAB, *(row[0] for row in rows), "")
        )
        self._sink.put_at(names_at, [names])
        sections = [_NOTHING, _section(names, xen_core.SHSTRTAB, names_at, len(names))]
        sections += [_section(names, *row) for row in rows]
        header = elf.Header(
            ident=b"\x7fELF\x02\x01\x01\x00\x01".ljust(16, b"\0"), type=elf.ET_CORE,
            machine=self._machine, version=1, entry=0, phoff=0, shoff=elf.Header.SIZE, flags=0,
            ehsize=elf.Header.SIZE, phentsize=elf.Segment.SIZE, phnum=0,
            shentsize=elf.Section.SIZE, shnum=len(sections), shstrndx=1,
        )  # fmt: skip
        self._sink.put_at(0, [header.encode(), *(one.encode() for one in sections)])


def _list_of_pages(
    pfns: NDArray[np.int64], frames: NDArray[np.uint64] | None, *, is_pv: bool
) -> bytes:
    """Of a PV guest without a map, pfns stand for frames."""
    listed = pfns.astype("<u8")
    if is_pv:
        listed = np.stack([listed, listed if frames is None else frames], axis=1)
    return listed.tobytes()


def _version(text: str) -> xen_core.Version:
    """Of what an image says, "4.17" or nothing."""
    major, _, minor = text.partition(".")
    empty = dict.fromkeys(xen_core.TEXTS, b"")
    return xen_core.Version(
        major=int(major or 0), minor=int(minor or 0), virt_start=0, page_size=PAGE, **empty
    )


_SHAPES = {  # type, entsize, align
    xen_core.SHSTRTAB: (_SHT_STRTAB, 0, 0),
    xen_core.NOTE: (_SHT_NOTE, 0, 0),
    xen_core.PRSTATUS: (_SHT_PROGBITS, xen_core.CONTEXT_BYTES, 8),
    xen_core.SHARED_INFO: (_SHT_PROGBITS, xen_core.SHARED_INFO_BYTES, 8),
    xen_core.PAGES: (_SHT_PROGBITS, PAGE, PAGE),
    xen_core.P2M: (_SHT_PROGBITS, 16, 8),
    xen_core.PFN: (_SHT_PROGBITS, 8, 8),
}
_NOTHING = elf.Section(**dict.fromkeys(elf.Section.FIELDS, 0))


def _section(names: bytes, name: str, offset: int, size: int) -> elf.Section:
    kind, entsize, align = _SHAPES[name]
    return elf.Section(
        name=names.index(b"\0" + name.encode() + b"\0") + 1, type=kind, flags=0, addr=0,
        offset=offset, size=size, link=0, info=0, addralign=align, entsize=entsize,
    )  # fmt: skip
