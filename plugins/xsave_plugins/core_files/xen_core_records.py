"""What a core file of Xen's own holds beside pages, as records: one for each of its sections.

A PV guest's page tables, and the frame numbers in its contexts, are machine frames there; the
map from pfns to them comes along, in pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field

from xsave import (
    Buffer,
    Domain,
    FieldError,
    Layout,
    Phase,
    RecordHandler,
    UsageError,
    frozen,
    layout,
    u32,
)

from . import elf, xen_contexts, xen_core

if TYPE_CHECKING:
    from numpy.typing import NDArray

INFO, VCPUS, SHARED_INFO, FRAMES = (
    "core.xen_info", "core.xen_vcpus", "core.xen_shared_info", "core.xen_frames",
)  # fmt: skip
FRAMES_MAX = 1 << 16  # in a record


class _CoreHandler(RecordHandler[Any]):
    mandatory = False
    phase = Phase.START_OF_STREAM

    def apply(self, domain: Domain, state: Any) -> None:
        raise UsageError("a core file is not an image of a guest: it cannot be restored")


@frozen
class XenInfo:
    header: xen_core.Header
    version: xen_core.Version


class XenInfoHandler(_CoreHandler):
    """Body: the section .note.Xen."""

    name = INFO
    summary = "what Xen says of a core file of its own, and of itself"

    def decode(self, body: memoryview) -> XenInfo:
        return XenInfo(*xen_core.decode_notes(body))

    def encode(self, state: XenInfo) -> Sequence[Buffer]:
        return (xen_core.encode_notes(state.header, state.version),)

    def describe(self, state: XenInfo, seen: Mapping[str, Any]) -> Any:
        header, version = state.header, state.version
        texts = {
            name: getattr(version, name).split(b"\0")[0].decode("utf-8", "replace")
            for name in xen_core.TEXTS
        }
        return {
            "guest": xen_core.GUESTS[header.magic],
            "nr_vcpus": header.nr_vcpus,
            "nr_pages": header.nr_pages,
            "xen_version": f"{version.major}.{version.minor}{texts.pop('extra')}",
            **texts,
            "virt_start": version.virt_start,
        }


@layout
class _VcpusHead(Layout):
    machine: int = u32()
    reserved: int = u32()


def xen_vcpus_body(machine: int, contexts: Buffer) -> bytes:
    return _VcpusHead(machine=machine, reserved=0).encode() + bytes(contexts)


@frozen
class XenVcpus:
    """:ivar machine: of the core file: by that the contexts are read.
    :ivar contexts: 5168 bytes each.
    """

    machine: int
    contexts: tuple[bytes, ...] = field(repr=False)


class XenVcpusHandler(_CoreHandler):
    """Body: e_machine u32, 0 u32, the section .xen_prstatus."""

    name = VCPUS
    summary = "vcpus in a core file of Xen's own"

    def decode(self, body: memoryview) -> XenVcpus:
        head = _VcpusHead.decode_at(body, 0)
        if head.machine not in (elf.EM_386, elf.EM_X86_64) or head.reserved:
            raise FieldError(
                field="machine", expected=f"{elf.EM_386} or {elf.EM_X86_64}",
                got=f"{head.machine}, {head.reserved}",
            )  # fmt: skip
        return XenVcpus(head.machine, tuple(xen_contexts.split(body[_VcpusHead.SIZE :])))

    def encode(self, state: XenVcpus) -> Sequence[Buffer]:
        return (xen_vcpus_body(state.machine, b"".join(state.contexts)),)

    def describe(self, state: XenVcpus, seen: Mapping[str, Any]) -> Any:
        return {
            "vcpus": [
                {"vcpu": number, **xen_contexts.describe(state.machine, context)}
                for number, context in enumerate(state.contexts)
            ]
        }


@frozen
class XenSharedInfo:
    page: bytes = field(repr=False)


class XenSharedInfoHandler(_CoreHandler):
    """Body: the section .xen_shared_info."""

    name = SHARED_INFO
    summary = "page that Xen and the guest share, in a core file of Xen's own"

    def decode(self, body: memoryview) -> XenSharedInfo:
        if len(body) != xen_core.SHARED_INFO_BYTES:
            raise FieldError(
                field="page", expected=f"{xen_core.SHARED_INFO_BYTES} bytes",
                got=f"{len(body)} bytes",
            )  # fmt: skip
        return XenSharedInfo(bytes(body))

    def encode(self, state: XenSharedInfo) -> Sequence[Buffer]:
        return (state.page,)

    def describe(self, state: XenSharedInfo, seen: Mapping[str, Any]) -> Any:
        return {"hex": state.page.rstrip(b"\0").hex(), "size_bytes": len(state.page)}


@frozen
class XenFrames:
    """:ivar pairs: (n, 2) u64, read-only: pfns and their machine frames."""

    pairs: NDArray[Any] = field(eq=lambda pairs: pairs.tobytes())


class XenFramesHandler(_CoreHandler):
    """Body: up to 65536 pairs of pfn u64 and machine frame u64, a piece of .xen_p2m."""

    name = FRAMES
    summary = "machine frames of a PV guest's pfns, in a core file of Xen's own"

    def decode(self, body: memoryview) -> XenFrames:
        import numpy as np

        if len(body) % 16 or not 16 <= len(body) <= 16 * FRAMES_MAX:
            raise FieldError(
                field="frames", expected=f"1 to {FRAMES_MAX} pairs of 16 bytes",
                got=f"{len(body)} bytes",
            )  # fmt: skip
        return XenFrames(np.frombuffer(bytes(body), "<u8").reshape(-1, 2))

    def encode(self, state: XenFrames) -> Sequence[Buffer]:
        return (state.pairs.astype("<u8", copy=False).tobytes(),)

    def describe(self, state: XenFrames, seen: Mapping[str, Any]) -> Any:
        (first, frame), (last, _) = state.pairs[0].tolist(), state.pairs[-1].tolist()
        return {
            "nr_frames": len(state.pairs), "first_pfn": first, "last_pfn": last,
            "first_frame": frame,
        }  # fmt: skip


HANDLERS = (XenInfoHandler(), XenVcpusHandler(), XenSharedInfoHandler(), XenFramesHandler())
