"""X86_PV_P2M_FRAMES: which pages hold the guest's map from pfn to mfn.

Layout (libxc stream revision 3, X86_PV_P2M_FRAMES): start_pfn u32, end_pfn u32, then one
u64 pfn for each page that holds a part of the map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field

from xsave import (
    Buffer,
    FieldError,
    GuestType,
    Layout,
    Phase,
    RecordHandler,
    Redaction,
    SourceError,
    frozen,
    layout,
    u32,
)

if TYPE_CHECKING:
    from xsave import Domain, Entries, PvFacet

FRAME_SIZE = 4096  # xsave.PAGE_SIZE; asking for that would import numpy with the plugin


@layout
class _Range(Layout):
    start_pfn: int = u32()
    end_pfn: int = u32()


def _listed(frames: Entries) -> bytes:
    return bytes(frames.data)


@frozen
class P2mFrames:
    """:ivar end_pfn: inclusive: the guest's highest pfn, as far as this record knows.
    :ivar frames: (n,) u64, read-only. Frame k holds the entries of the pfns from
        ``(start_pfn // fpp + k) * fpp`` on, where ``fpp`` is 4096 / guest_width.
    """

    start_pfn: int
    end_pfn: int
    frames: Entries = field(eq=_listed)


def first_index(pfn: int, guest_width: int) -> int:
    """Which page of the map, counted from 0, holds the entry of this pfn (entries have
    the guest's width, in bytes)."""
    return pfn * guest_width // FRAME_SIZE


def nr_frames(start_pfn: int, end_pfn: int, guest_width: int) -> int:
    """How many pages of the map cover these pfns, both ends included."""
    return first_index(end_pfn, guest_width) - first_index(start_pfn, guest_width) + 1


class P2mFramesHandler(RecordHandler[P2mFrames]):
    """Knows no guest width, so it takes a list that is right for either; the check over
    the stream holds it against the width of this guest."""

    name = "xen.pv.p2m_frames"
    summary = "pages that hold the guest's pfn to mfn map"
    redaction = Redaction.KEPT
    phase = Phase.START_OF_STREAM
    facet = "pv"
    guest_types = frozenset({GuestType.X86_PV})

    def decode(self, body: memoryview) -> P2mFrames:
        import numpy as np

        pfns = _Range.decode_at(body, 0)
        start, end = pfns.start_pfn, pfns.end_pfn
        if start > end:
            raise FieldError(
                field="start_pfn", expected=f"at most end_pfn {end:#x}", got=hex(start)
            )
        sizes = [8 * nr_frames(start, end, width) for width in (8, 4)]
        if (got := len(body) - _Range.SIZE) not in sizes:
            raise FieldError(
                field="frames",
                expected=f"{sizes[0]} bytes (64-bit guest) or {sizes[1]} bytes (32-bit guest)"
                f" for pfns {start:#x}-{end:#x}",
                got=f"{got} bytes",
            )
        # A copy of its own, which bytes also make read-only.
        return P2mFrames(start, end, np.frombuffer(bytes(body[_Range.SIZE :]), "<u8"))

    def encode(self, state: P2mFrames) -> Sequence[Buffer]:
        frames: Any = state.frames.astype("<u8", copy=False)
        head = _Range(start_pfn=state.start_pfn, end_pfn=state.end_pfn)
        return (head.encode(), frames.tobytes())

    def collect(self, domain: Domain) -> Iterator[P2mFrames]:
        pv: PvFacet | None = domain.facet("pv")
        if pv is None:
            return
        frames = pv.p2m_frame_pfns()
        end_pfn = domain.info.p2m_size - 1
        if len(frames) != (expected := nr_frames(0, end_pfn, pv.guest_width)):
            raise SourceError(
                f"the guest's p2m has {len(frames)} pages; {expected} cover pfns 0-{end_pfn:#x}"
            )
        yield P2mFrames(0, end_pfn, frames)

    def apply(self, domain: Domain, state: P2mFrames) -> None:
        """Several of these make one list, later ones from their place in it on."""
        import numpy as np

        pv: PvFacet = domain.need_facet("pv")
        start = first_index(state.start_pfn, pv.guest_width)
        before = pv.p2m_frame_pfns()[:start]
        if len(before) < start:
            raise FieldError(
                field="start_pfn", expected="pfns that follow those of the records before",
                got=hex(state.start_pfn),
            )  # fmt: skip
        frames = np.concatenate((before, state.frames)).astype(np.uint64, copy=False)
        pv.set_p2m_frame_pfns(frames, state.end_pfn + 1)
