"""Rules of a PV stream that no single record can break.

Source: libxc stream revision 3, order of records and completion, as Xen's restorer
enforces them: some when a record arrives, the rest when the stream ends or reaches a
checkpoint, since only then the last type of each page is known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xsave import (
    L3TAB,
    L4TAB,
    NOTAB,
    PINNED,
    TYPE_NAMES,
    XTAB,
    Entries,
    FieldError,
    FormatError,
    PageBatch,
    Record,
    define,
    frozen,
)

from .info import PvInfo
from .p2m_frames import P2mFrames, first_index, nr_frames
from .vcpu_basic import GDT_ENTS_PER_FRAME, MAX_GDT_ENTS, VcpuBasic

if TYPE_CHECKING:
    from .vcpu_basic import VcpuContext32, VcpuContext64

_log = logging.getLogger(__name__)

# 512 GiB of guest, the most that a three-level p2m of a 64-bit guest can map: the table
# of types then takes 128 MiB, one byte a pfn that was sent.
MAX_TYPED_PFNS = 1 << 27
MAX_VCPUS = 8192  # of any PV guest, Xen's MAX_VIRT_CPUS; a restorer knows its guest's own number

_CHUNK_SHIFT = 16
_NO_FRAME = (1 << 64) - 1
_TOP_LEVEL = {4: L3TAB, 8: L4TAB}  # by guest_width

Types = NDArray[np.uint8]


def prepare() -> None:
    """See :meth:`xsave.RecordHandler.prepare`."""
    from attrs import fields

    fields(_VcpuFrames)  # makes its methods


class PageTypes:
    """The latest type of each pfn; XTAB (no page there) for one that was never sent.

    One byte a pfn, in chunks of 65 536 that are made when first touched. The caller
    bounds the pfns.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, Types] = {}

    def put(self, pfns: Entries, types: NDArray[np.uint64]) -> None:
        """The later of two types wins, also within these arrays."""
        for number, within, where in _by_chunk(pfns):
            chunk = self._chunks.get(number)
            if chunk is None:
                chunk = np.full(1 << _CHUNK_SHIFT, XTAB, np.uint8)
                self._chunks[number] = chunk
            chunk[within] = types[where]

    def get(self, pfns: Entries) -> Types:
        found = np.full(len(pfns), XTAB, np.uint8)
        for number, within, where in _by_chunk(pfns):
            if (chunk := self._chunks.get(number)) is not None:
                found[where] = chunk[within]
        return found


_Where = slice | NDArray[np.intp]


def _by_chunk(pfns: Entries) -> Iterator[tuple[int, NDArray[np.intp], _Where]]:
    """For each chunk: its number, the places inside it, and which of ``pfns`` these are,
    in their order."""
    numbers = pfns >> np.uint64(_CHUNK_SHIFT)
    within = (pfns & np.uint64((1 << _CHUNK_SHIFT) - 1)).astype(np.intp)
    first = int(numbers[0])
    if (numbers == first).all():  # nearly every batch
        yield first, within, slice(None)
        return
    order = np.argsort(numbers, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        yield int(numbers[part[0]]), within[part], part


@frozen
class _VcpuFrames:
    """What a vcpu's context says about pages."""

    offset: int  # of the record
    start_info_pfn: int
    gdt_ents: int
    gdt_frames: tuple[int, ...]
    cr3_pfn: int
    cr1_pfn: int | None

    @classmethod
    def of(cls, context: VcpuContext64 | VcpuContext32, offset: int) -> _VcpuFrames:
        return cls(
            offset=offset,
            start_info_pfn=context.start_info_pfn,
            gdt_ents=context.gdt_ents,
            gdt_frames=context.gdt_frames,
            cr3_pfn=context.cr3_pfn,
            cr1_pfn=context.cr1_pfn,
        )


@define
class _Fault:
    """What is wrong at completion, and the offset of the record that says so."""

    offset: int
    error: FieldError


class PvCheck:
    """A :class:`xsave.StreamCheck` for PV guests.

    Refused when it arrives: a second PV_INFO; P2M_FRAMES, SHARED_INFO or a vcpu context
    before it; a list of frames or a context of the wrong size for its guest_width; pages
    before P2M_FRAMES, or of a pfn above the highest end_pfn so far; a vcpu_id that no
    guest can have.

    Refused at completion (END, CHECKPOINT, or the end of a stream that has neither):
    no P2M_FRAMES; no context for vcpu 0; a p2m, start-info or GDT page that is out of
    range or not NOTAB; more GDT entries than fit; a CR3, or valid CR1, that is out of
    range or no top-level page table.

    In a guest of more than ``MAX_TYPED_PFNS`` pages the types of pages are not
    remembered. What completion then still refuses is a vcpu's page out of range, too
    many GDT entries and a missing context or list; a warning is logged. Such a guest is
    legal, so it is not refused.

    Memory: a byte a pfn within the bound, 8 bytes for each frame of the p2m, and a
    few hundred bytes for each vcpu.
    """

    def __init__(self) -> None:
        self._info: PvInfo | None = None
        self._max_pfn = -1  # highest known; -1 before P2M_FRAMES
        self._frames: Entries = np.zeros(0, np.uint64)
        self._frames_offset = 0
        self._types: PageTypes | None = PageTypes()
        self._vcpus: dict[int, _VcpuFrames] = {}
        self._completed = False
        self._offset = 0  # of the latest event
        self._rules: dict[str, Callable[[Record, Any], None]] = {
            "xen.pv.info": self._see_info,
            "xen.pv.p2m_frames": self._see_p2m_frames,
            "xen.pv.shared_info": self._see_shared_info,
            "xen.pv.vcpu_basic": self._see_vcpu_basic,
            "xen.libxc.checkpoint": self._complete,
            "xen.libxc.end": self._complete,
        }

    def see_record(self, record: Record, state: Any) -> None:
        self._offset = record.offset
        if (rule := self._rules.get(record.name)) is not None:
            rule(record, state)

    def see_pages(self, batch: PageBatch) -> None:
        self._offset = batch.offset
        if self._max_pfn < 0:
            raise FieldError(field="order", expected="xen.pv.p2m_frames before it", got="none")
        if not len(batch.entries):
            return
        pfns = batch.pfns
        above = pfns > self._max_pfn
        if above.any():
            raise FieldError(
                field="pfn",
                expected=f"at most {self._max_pfn:#x} (highest end_pfn so far)",
                got=hex(int(pfns[int(above.argmax())])),
            )
        if self._types is not None:
            self._types.put(pfns, batch.types)

    def finish(self) -> None:
        # After a checkpoint, what follows and was not finished is thrown away by the
        # restorer, so the stream is as good as its last checkpoint.
        if self._completed:
            return
        if (fault := next(self._faults(), None)) is not None:
            error = fault.error
            raise FormatError(
                what=error.field, offset=fault.offset, expected=error.expected, got=error.got
            )

    def _see_info(self, _record: Record, state: PvInfo) -> None:
        if self._info is not None:
            raise FieldError(field="order", expected="one xen.pv.info", got="a second")
        self._info = state

    def _width_before(self) -> int:
        if self._info is None:
            raise FieldError(field="order", expected="xen.pv.info before it", got="none")
        return self._info.guest_width

    def _see_p2m_frames(self, record: Record, state: P2mFrames) -> None:
        width = self._width_before()
        start, end = state.start_pfn, state.end_pfn
        if len(state.frames) != (expected := nr_frames(start, end, width)):
            raise FieldError(
                field="frames",
                expected=f"{expected} for pfns {start:#x}-{end:#x} at guest_width {width}",
                got=str(len(state.frames)),
            )
        self._frames_offset = record.offset
        self._max_pfn = max(self._max_pfn, end)
        if self._types is None:
            return
        if self._max_pfn >= MAX_TYPED_PFNS:
            _log.warning(
                "guest of %d pages: the types of its page-table, GDT, start-info and p2m "
                "pages are not checked (done up to %d pages)",
                self._max_pfn + 1,
                MAX_TYPED_PFNS,
            )
            self._types, self._frames = None, np.zeros(0, np.uint64)
            return
        self._grow_frames(first_index(end, width) + 1)
        first = first_index(start, width)
        self._frames[first : first + expected] = state.frames

    def _grow_frames(self, nr_needed: int) -> None:
        """Room for so many frames; at least doubled, so that a list that grows record by
        record is not copied each time."""
        if nr_needed > (nr_now := len(self._frames)):
            larger = np.full(max(nr_needed, 2 * nr_now), _NO_FRAME, np.uint64)
            larger[:nr_now] = self._frames
            self._frames = larger

    def _see_shared_info(self, _record: Record, _state: object) -> None:
        self._width_before()

    def _see_vcpu_basic(self, record: Record, state: VcpuBasic) -> None:
        width, context = self._width_before(), state.context
        if width != context.GUEST_WIDTH:
            raise FieldError(
                field="context",
                expected=f"that of guest_width {width}",
                got=f"{context.SIZE} bytes, that of guest_width {context.GUEST_WIDTH}",
            )
        if state.vcpu_id >= MAX_VCPUS:
            raise FieldError(field="vcpu_id", expected=f"below {MAX_VCPUS}", got=str(state.vcpu_id))
        self._vcpus[state.vcpu_id] = _VcpuFrames.of(context, record.offset)

    def _complete(self, _record: Record, _state: object) -> None:
        if (fault := next(self._faults(), None)) is not None:
            raise fault.error
        self._completed = True

    def _faults(self) -> Iterator[_Fault]:
        if self._info is None or self._max_pfn < 0:
            missing = "xen.pv.info" if self._info is None else "xen.pv.p2m_frames"
            yield _Fault(self._offset, FieldError(field=missing, expected="one", got="none"))
            return
        if 0 not in self._vcpus:
            yield _Fault(
                self._offset,
                FieldError(field="xen.pv.vcpu_basic of vcpu 0", expected="one", got="none"),
            )
        yield from self._frame_faults(self._info.guest_width)
        for vcpu_id, vcpu in sorted(self._vcpus.items()):
            for error in self._vcpu_faults(vcpu_id, vcpu, self._info.guest_width):
                yield _Fault(vcpu.offset, error)

    def _frame_faults(self, width: int) -> Iterator[_Fault]:
        if self._types is None:
            return
        frames = self._frames[: first_index(self._max_pfn, width) + 1]
        within = np.minimum(frames, np.uint64(self._max_pfn))
        bad = (within != frames) | (self._types.get(within) != NOTAB)
        if not bad.any():
            return
        index = int(bad.argmax())
        what, pfn = f"p2m frame {index}", int(frames[index])
        error = self._page_fault(what, pfn)
        if pfn == _NO_FRAME:
            error = FieldError(field=what, expected="a pfn", got="none listed")
        if error is not None:
            yield _Fault(self._frames_offset, error)

    def _vcpu_faults(self, vcpu_id: int, vcpu: _VcpuFrames, width: int) -> Iterator[FieldError]:
        plain: list[tuple[str, int]] = []
        if vcpu_id == 0:
            register = "edx" if width == 4 else "rdx"
            plain.append((f"start-info page ({register})", vcpu.start_info_pfn))
        if vcpu.gdt_ents > MAX_GDT_ENTS:
            yield FieldError(
                field=f"vcpu {vcpu_id}: gdt_ents",
                expected=f"at most {MAX_GDT_ENTS}",
                got=str(vcpu.gdt_ents),
            )
        nr_gdt_frames = min(-(-vcpu.gdt_ents // GDT_ENTS_PER_FRAME), len(vcpu.gdt_frames))
        plain += [(f"gdt_frames[{i}]", vcpu.gdt_frames[i]) for i in range(nr_gdt_frames)]
        tables = [("ctrlreg[3] (CR3)", vcpu.cr3_pfn)]
        if vcpu.cr1_pfn is not None:
            tables.append(("ctrlreg[1] (CR1)", vcpu.cr1_pfn))
        for pages, table_level in ((plain, NOTAB), (tables, _TOP_LEVEL[width])):
            for what, pfn in pages:
                error = self._page_fault(f"vcpu {vcpu_id}: {what}", pfn, table_level)
                if error is not None:
                    yield error

    def _page_fault(self, what: str, pfn: int, table_level: int = NOTAB) -> FieldError | None:
        """:param table_level: of the page table it must be, pinned or not; NOTAB for none."""
        if pfn > self._max_pfn:
            return FieldError(field=what, expected=f"a pfn up to {self._max_pfn:#x}", got=hex(pfn))
        if self._types is None:
            return None
        found = int(self._types.get(np.array([pfn], np.uint64))[0])
        if found == table_level or (table_level != NOTAB and found == table_level | PINNED):
            return None
        return FieldError(
            field=what,
            expected=f"a page of type {TYPE_NAMES[table_level]}",
            got=f"pfn {pfn:#x} of type {TYPE_NAMES[found]}"
            + (", or never sent" if found == XTAB else ""),
        )
