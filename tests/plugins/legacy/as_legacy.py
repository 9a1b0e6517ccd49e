"""Any guest's records as a legacy stream: what Xen before 4.6 would have written of it.

The way back that the project does not have, for tests: what a simulated guest's image becomes
here is read by the plugin, and must be that image again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tests.plugins.legacy import build as o
from xsave import PFN_MASK, GuestType, PageBatch, Record, carries_page

if TYPE_CHECKING:
    from xsave import Event

PARAM_CHUNKS = {
    12: o.IDENT_PT, 15: o.VM86_TSS, 17: o.CONSOLE_PFN, 19: o.ACPI_IOPORTS, 9: o.VIRIDIAN,
    34: o.GENERATION_ID, 27: o.PAGING_RING, 28: o.ACCESS_RING, 29: o.SHARING_RING,
    32: o.IOREQ_SERVER, 33: o.NR_IOREQ_SERVER_PAGES,
}  # fmt: skip


def as_legacy(events: Iterable[Event], guest_type: GuestType, w: int) -> bytes:
    """:param events: of one whole stream without checkpoints, all pages there.
    :param w: word size of the toolstack.
    """
    kept = list(events)
    records = [event for event in kept if isinstance(event, Record)]
    bodies: dict[str, list[bytes]] = {}
    for record in records:
        bodies.setdefault(record.name, []).append(bytes(record.body))
    batches = [event for event in kept if isinstance(event, PageBatch)]
    tsc = struct.unpack("<IIQII", bodies["xen.x86.tsc_info"][-1])
    mode, khz, nsec, incarnation, _ = tsc
    chunks = o.chunk(o.TSC_INFO, struct.pack("<IQII", mode, nsec, khz, incarnation))
    chunks += b"".join(part for batch in batches for part in _batch(batch, w))
    tmem, extra = _tmem(bodies)
    if guest_type is GuestType.X86_PV:
        return _pv(bodies, tmem + chunks + extra, w)
    return _hvm(bodies, batches, tmem + chunks + extra, w)


def _batch(batch: PageBatch, w: int) -> Iterator[bytes]:
    """In Xen's batches: 1024 entries; holes are not told of."""
    assert batch.pages is not None
    there = batch.entries >> np.uint64(60) != 0xF
    entries, carries = batch.entries[there], carries_page(batch.entries[there])
    stored = (entries >> np.uint64(60)) << np.uint64(28) | entries & PFN_MASK
    first = 0
    for start in range(0, len(entries), 1024):
        nr_pages = int(carries[start : start + 1024].sum())
        part = stored[start : start + 1024]
        pages = batch.pages[first : first + nr_pages]
        first += nr_pages
        yield o.chunk(len(part), part.astype(f"<u{w}").tobytes() + pages.tobytes())


def _pv(bodies: dict[str, list[bytes]], chunks: bytes, w: int) -> bytes:
    width = bodies["xen.pv.info"][0][0]
    start, end = struct.unpack_from("<II", bodies["xen.pv.p2m_frames"][0])
    assert start == 0
    frames = np.frombuffer(bodies["xen.pv.p2m_frames"][0], "<u8", offset=8)
    vcpus = [_by_vcpu(bodies.get(f"xen.pv.vcpu_{kind}", [])) for kind in
             ("basic", "extended", "xsave")]  # fmt: skip
    xcnt = 16 + max((len(state) for state in vcpus[2].values()), default=-16)
    context = o.CONTEXT_64 if width == 8 else o.CONTEXT_32
    info = o.extended_info(w, context=context, extv=bool(vcpus[1]), xcnt=xcnt)
    tail = b""
    for vcpu, basic in sorted(vcpus[0].items()):
        tail += basic + (vcpus[1][vcpu].ljust(128, b"\0") if vcpus[1] else b"")
        if xcnt:
            state = vcpus[2][vcpu]
            tail += struct.pack("<QQ", 7, len(state)) + state
    tail += bodies["xen.pv.shared_info"][-1]
    head = o.words([end + 1], w) + info + frames.astype(f"<u{w}").tobytes()
    online = o.vcpu_info(max(vcpus[0]), vcpus[0])
    return head + chunks + online + o.chunk(o.LAST_CHECKPOINT) + o.chunk(o.END) + bytes(4) + tail


def _by_vcpu(bodies: list[bytes]) -> dict[int, bytes]:
    return {struct.unpack_from("<I", body)[0]: body[8:] for body in bodies}


def _hvm(bodies: dict[str, list[bytes]], batches: list[PageBatch], chunks: bytes, w: int) -> bytes:
    params: dict[int, int] = {}
    for body in bodies["xen.hvm.params"]:
        params.update(struct.iter_unpack("<QQ", body[8:]))
    p2m_size = 1 + max(int(batch.pfns.max()) for batch in batches if batch.nr_pfns)
    online = o.vcpu_info()
    given = b"".join(o.param(PARAM_CHUNKS[i], v) for i, v in params.items() if i in PARAM_CHUNKS)
    context = bodies["xen.hvm.context"][-1]
    tail = struct.pack("<QQQI", *(params.get(i, 0) for i in (5, 6, 1)), len(context)) + context
    model = bodies.get("xen.qemu.context", [])
    state = o.qemu(blob=model[-1][8:]) if model else b""
    end = o.chunk(o.LAST_CHECKPOINT) + o.chunk(o.END)
    return o.words([p2m_size], w) + chunks + online + given + end + tail + state


def _tmem(bodies: dict[str, list[bytes]]) -> tuple[bytes, bytes]:
    """TMEM and TMEM_EXTRA; plain pages only."""
    if "xen.tmem.client" not in bodies:
        return b"", b""
    abi, nr_pools, flags, _weight, _cap = struct.unpack("<5I", bodies["xen.tmem.client"][0])
    pages: dict[int, list[tuple[tuple[int, ...], int, bytes]]] = {}
    for body in bodies.get("xen.tmem.pages", []):
        pool, oids, indexes, rest = _handles(body)
        contents = [rest[at : at + 4096] for at in range(0, len(rest), 4096)]
        pages.setdefault(pool, []).extend(zip(oids, indexes, contents, strict=True))
    pools = [
        o.Pool(pool, flags_, pages.get(pool, []), n_pages, uuid=uuid)
        for pool, flags_, n_pages, uuid in (
            struct.unpack("<IIQ16s", body) for body in sorted(bodies["xen.tmem.pool"])
        )
    ]
    void = [
        (pool, oid, index)
        for pool, oids, indexes, _ in map(_handles, bodies.get("xen.tmem.invalidate", []))
        for oid, index in zip(oids, indexes, strict=True)
    ]
    extra = o.tmem_extra(void) if void else b""
    return o.tmem(pools, abi=abi, nr_pools=nr_pools, flags=flags), extra


def _handles(body: bytes) -> tuple[int, list[tuple[int, ...]], list[int], bytes]:
    pool, count, words, kind, _ = struct.unpack_from("<IIHHI", body)
    assert kind == 0, "plain pages, or single handles"
    at = 16 + 8 * words * count
    oids = [struct.unpack_from(f"<{words}Q", body, 16 + 8 * words * n) for n in range(count)]
    indexes = list(struct.unpack_from(f"<{count}I", body, at))
    return pool, oids, indexes, body[at + 4 * count :]
