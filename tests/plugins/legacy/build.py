"""Small legacy images, piece by piece, right or wrong as a test needs them.

    image = xl(hvm(8))

A stream is bytes; each function makes one part, for a toolstack whose words have so many
bytes (4 or 8). ``pv`` and ``hvm`` make guests of a few pages that pass every check, with the
state records that :mod:`tests.plugins.xen_stream.build` has, so that what they become can be
compared with what that makes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from attrs import frozen

from tests.plugins.xen_stream import build as b

PAGE = 4096
NO_PFN = 0xF0000000
(
    END, VERIFY, VCPU_INFO, IDENT_PT, VM86_TSS, TMEM, TMEM_EXTRA, TSC_INFO, CONSOLE_PFN,
    LAST_CHECKPOINT, ACPI_IOPORTS, VIRIDIAN, COMPRESSED_DATA, ENABLE_COMPRESSION, GENERATION_ID,
    PAGING_RING, ACCESS_RING, SHARING_RING, TOOLSTACK, IOREQ_SERVER, NR_IOREQ_SERVER_PAGES,
) = range(0, -21, -1)  # fmt: skip
P2M_SIZE = 7
CONTEXT_64, CONTEXT_32 = 5168, 2800
QEVM = b"QEVM\0\0\0\3\0"
HVM_CONFIG = b'{"c_info": {"type": "hvm", "name": "small"}}\n\0'
XEND_HVM = (
    b"(domain (domid 3) (name 'a guest') (memory 1) (image (hvm (kernel \"x y\") (vcpus 1))))"
)
XEND_PV = b"(domain (domid 3) (name small) (image (linux (kernel /boot/vmlinuz))) (device (vif)))"
XML = b"<domain type='xen'><name>small</name><os><type>hvm</type></os></domain>\0"
BANNER = b"xl migration receiver ready, send binary domain data.\n"
MESSAGES = (
    b"domain received, ready to unpause\0",
    b"domain is yours, you are cleared to unpause\0",
    b"my copy unpause results are as follows\0",
)


def words(values: Iterable[int], w: int) -> bytes:
    return b"".join(value.to_bytes(w, "little") for value in values)


def chunk(number: int, body: bytes = b"") -> bytes:
    return struct.pack("<i", number) + body


def param(number: int, value: int) -> bytes:
    return chunk(number, struct.pack("<IQ", 0, value))


def batch(w: int, entries: Sequence[tuple[int, int]], contents: Sequence[bytes] = ()) -> bytes:
    """:param entries: (type nibble, pfn)."""
    stored = words((kind << 28 | pfn for kind, pfn in entries), w)
    return chunk(len(entries), stored + b"".join(contents))


def tsc_info() -> bytes:
    return chunk(TSC_INFO, struct.pack("<IQII", 0, 12345, 2_000_000, 1))


def vcpu_info(highest: int = 0, online: Iterable[int] = (0,)) -> bytes:
    bits = sum(1 << vcpu for vcpu in online)
    size = 8 * (highest // 64 + 1)
    return chunk(VCPU_INFO, struct.pack("<i", highest) + bits.to_bytes(size, "little"))


def toolstack(
    w: int, entries: Sequence[tuple[int, int, int, bytes]] = (), *, version: int = 1
) -> bytes:
    """:param entries: phys_offset, start_addr, size, name with its NUL."""
    body = struct.pack("<II", version, len(entries))
    for *numbers, name in entries:
        body += struct.pack("<QQQI", *numbers, len(name)) + name
        body += b"\0\0\0\x40" if w == 8 else b""  # what was seen there
    return chunk(TOOLSTACK, struct.pack("<I", len(body)) + body)


# PV


def block(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<4sI", name, len(body)) + body


def extended_info(
    w: int, *, context: int = CONTEXT_64, extv: bool = True, xcnt: int = 0, more: bytes = b""
) -> bytes:
    blocks = block(b"vcpu", b"\x55" * context)
    blocks += block(b"extv") if extv else b""
    blocks += block(b"xcnt", struct.pack("<I", xcnt)) if xcnt else b""
    blocks += more
    return b"\xff" * w + struct.pack("<I", len(blocks)) + blocks


def xsave_bytes() -> bytes:
    """xcr0, xcr0_accum and the area, as in a record."""
    return b.golden("xen.pv.vcpu_xsave.pv")[8:]


def pv_head(w: int, info: bytes | None = None) -> bytes:
    """Up to the first chunk; the p2m is pfn 0."""
    if info is None:
        info = extended_info(w, xcnt=16 + len(xsave_bytes()))
    return words([P2M_SIZE], w) + info + words([0], w)


def pv_pages(w: int) -> bytes:
    """The memory of :func:`tests.plugins.xen_stream.build.pv`, with an entry of no pfn."""
    return batch(
        w, [(0, 0), (0, 1), (0xF, 0), (b.L4TAB_PINNED, 2)], [b.page(1), b.page(2), b.page(3)]
    ) + batch(w, [(0, 4), (b.BROKEN, 5), (0, 6)], [b.page(0), b.page(1)])


def vcpu_context() -> bytes:
    return b.vcpu_basic().body[8:]


def extended_context() -> bytes:
    return b.golden("xen.pv.vcpu_extended.pv")[8:].ljust(128, b"\0")


def vcpu(*, extv: bool = True, xsave: bool = True) -> bytes:
    state = xsave_bytes()
    return (
        vcpu_context()
        + (extended_context() if extv else b"")
        + (struct.pack("<QQ", 7, len(state)) + state if xsave else b"")
    )


def pv_tail(w: int, *, unmapped: Sequence[int] = (), vcpus: bytes | None = None) -> bytes:
    listed = struct.pack("<I", len(unmapped)) + words(unmapped, w)
    return listed + (vcpu() if vcpus is None else vcpus) + bytes(PAGE)


def pv_body(w: int, *, last: bool = True) -> bytes:
    closing = chunk(LAST_CHECKPOINT) if last else b""
    return tsc_info() + pv_pages(w) + vcpu_info() + toolstack(w) + closing + chunk(END)


def pv(w: int) -> bytes:
    """A PV guest of seven pfns."""
    return pv_head(w) + pv_body(w) + pv_tail(w)


def pv_round(w: int, *, last: bool = False) -> bytes:
    """What a checkpoint brings after the first."""
    pages = batch(w, [(0, 4)], [b.page(5)])
    closing = chunk(LAST_CHECKPOINT) if last else b""
    return pages + vcpu_info() + closing + chunk(END) + pv_tail(w)


def pv_remus(w: int, rounds: Sequence[bytes]) -> bytes:
    return pv_head(w) + pv_body(w, last=False) + pv_tail(w) + b"".join(rounds)


# HVM


def hvm_pages(w: int) -> bytes:
    return batch(w, [(0, 0), (0, 1), (0xF, 0)], [b.page(1), b.page(0)]) + batch(
        w, [(0, 3), (0, 4), (b.XALLOC, 5)], [b.page(1), b.page(2)]
    )


def hvm_params() -> bytes:
    return (
        param(IDENT_PT, 0xFEFFE000)
        + param(PAGING_RING, 0xFEFF8)
        + param(CONSOLE_PFN, 0xFEFFF)
        + param(IOREQ_SERVER, 0xFEFF0)
        + param(NR_IOREQ_SERVER_PAGES, 8)
    )


PHYSMAP = ((0xF0000000, 0xF0000000, 0x800000, b"vga.vram\0"),)


def hvm_body(w: int, *, last: bool = True, pages: bytes | None = None) -> bytes:
    return (
        tsc_info()
        + (hvm_pages(w) if pages is None else pages)
        + vcpu_info()
        + hvm_params()
        + toolstack(w, PHYSMAP)
        + (chunk(LAST_CHECKPOINT) if last else b"")
        + chunk(END)
    )


def hvm_tail() -> bytes:
    context = b.golden("xen.hvm.context.pvh")
    return struct.pack("<QQQI", 0xFEFFE, 0xFEFFD, 0xFEFFC, len(context)) + context


def qemu(signature: bytes = b"DeviceModelRecord0002", blob: bytes = QEVM) -> bytes:
    return signature + struct.pack("<I", len(blob)) + blob


def hvm_head(w: int) -> bytes:
    return words([P2M_SIZE], w)


def hvm(w: int, device_model: bytes | None = None) -> bytes:
    """An HVM guest of five pages."""
    state = qemu() if device_model is None else device_model
    return hvm_head(w) + hvm_body(w) + hvm_tail() + state


def hvm_remus(w: int, rounds: int = 1) -> bytes:
    """So many rounds after the first, with a device model's state in each."""
    first = hvm_head(w) + hvm_body(w, last=False) + hvm_tail() + qemu()
    again = hvm_body(w, last=False, pages=batch(w, [(0, 1)], [b.page(3)]))
    return first + (again + hvm_tail() + qemu(b"RemusDeviceModelState")) * rounds


# tmem


@frozen
class Pool:
    """:ivar pages: (oid words, index, contents).
    :ivar n_pages: as announced; None for their number.
    :ivar terminator: None: where Xen writes one.
    """

    pool_id: int
    flags: int = 1
    pages: Sequence[tuple[Sequence[int], int, bytes]] = ()
    n_pages: int | None = None
    terminator: bool | None = None
    uuid: bytes = bytes(16)

    def encoded(self, oid_words: int) -> bytes:
        announced = len(self.pages) if self.n_pages is None else self.n_pages
        data = struct.pack("<III", self.pool_id, self.flags, announced) + self.uuid
        for oid, index, contents in self.pages:
            data += words(oid, 8) + struct.pack("<I", index) + contents
        ends = announced != len(self.pages) if self.terminator is None else self.terminator
        return data + (b"\xff" * (8 * oid_words) if ends else b"")


def tmem(
    pools: Sequence[Pool], *, abi: int = 1, nr_pools: int = 16, separator: int = 0xFFFFFFFF,
    flags: int = 0,
) -> bytes:  # fmt: skip
    head = struct.pack("<7I", abi, nr_pools, separator, flags, 0, 0, 0xFFFFFFFF)
    oid_words = 3 if abi else 1
    body = b"".join(pool.encoded(oid_words) for pool in pools)
    return chunk(TMEM, head + body + b"\xff" * 4)


def tmem_extra(entries: Sequence[tuple[int, Sequence[int], int]]) -> bytes:
    """:param entries: pool_id, oid, index."""
    body = b"".join(
        struct.pack("<I", pool_id) + words(oid, 8) + struct.pack("<I", index)
        for pool_id, oid, index in entries
    )
    return chunk(TMEM_EXTRA, body + b"\xff" * 4)


def pv_with_tmem(w: int, chunks: bytes, extra: bytes = b"") -> bytes:
    """The chunks where the releases put them: first, and among the page batches."""
    return (
        pv_head(w) + chunks + tsc_info() + pv_pages(w) + extra + tsc_info()
        + batch(w, [(0, 4)], [b.page(9)]) + vcpu_info() + chunk(END) + pv_tail(w)
    )  # fmt: skip


# Containers


def xl_header(config: bytes = HVM_CONFIG, flags: int = 1) -> bytes:
    return b.xl_header(struct.pack("<I", len(config)) + config, flags=flags)


def xl(stream: bytes, config: bytes = HVM_CONFIG, flags: int = 1) -> bytes:
    return xl_header(config, flags) + stream


def xend(stream: bytes, config: bytes = XEND_PV) -> bytes:
    return b"LinuxGuestRecord" + struct.pack(">i", len(config)) + config + stream


def xapi(stream: bytes) -> bytes:
    return b"XenSavedDomain\n" + stream


def xapi_qemu(blob: bytes = QEVM) -> bytes:
    return b"QemuDeviceModelRecord\n" + struct.pack(">i", len(blob)) + blob


def libvirt(stream: bytes, xml: bytes = XML, version: int = 1) -> bytes:
    return b"libvirt-xml\n \0 \r" + struct.pack("<II", version, len(xml)) + bytes(40) + xml + stream


def images() -> dict[str, bytes]:
    """One for each container, width and kind of guest, and what checkpoints and tmem add."""
    page = b.page(7)
    pools = [Pool(0, pages=[((0x1234, 0, 0), 7, page), ((2, 2, 2), 2, bytes(PAGE))], n_pages=3),
             Pool(3, flags=0)]  # fmt: skip
    extra = tmem_extra([(0, (0x1234, 0, 0), 7)])
    return {
        "legacy pv 64": pv(8),
        "legacy pv 32": pv(4),
        "legacy hvm 64": hvm(8),
        "legacy hvm 32": hvm(4),
        "legacy remus pv": pv_remus(8, [pv_round(8), pv_round(8, last=True)]),
        "legacy remus hvm": hvm_remus(4),
        "legacy tmem": pv_with_tmem(8, tmem(pools), extra),
        "xl-legacy": xl(hvm(8)),
        "xl-legacy text": xl(pv(4), b"name = 'small'\n", flags=0),
        "xl-migrate-legacy": BANNER + xl(hvm(8)) + b"".join(MESSAGES) + b"\0",
        "xend pv": xend(pv(8)),
        "xend hvm": xend(hvm(4, b"QemuDeviceModelRecord" + QEVM), XEND_HVM),
        "xapi-legacy": xapi(hvm(4, xapi_qemu())),
        "libvirt-legacy": libvirt(hvm(8)),
    }
