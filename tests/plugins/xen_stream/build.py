"""Small Xen streams, piece by piece, right or wrong as a test needs them.

    image = xl(libxl(libxc(hvm())))

A stream is a list of :class:`Rec`; tests change the list, or the bytes. ``hvm`` and
``pv`` make guests of a few pages that pass every check, with real state records
(tests/golden/records) where those are small.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import evolve, frozen

GOLDEN = Path(__file__).parents[2] / "golden" / "records"
PAGE = 4096

END, PAGE_DATA, PV_INFO, P2M_FRAMES, VCPU_BASIC, VCPU_EXTENDED, VCPU_XSAVE = range(7)
SHARED_INFO, TSC_INFO, HVM_CONTEXT, HVM_PARAMS, TOOLSTACK, VCPU_MSRS = range(7, 13)
VERIFY, CHECKPOINT, DIRTY_PFN_LIST = 0x0D, 0x0E, 0x0F
STATIC_DATA_END, CPUID_POLICY, MSR_POLICY = 0x10, 0x11, 0x12
UNKNOWN_OPTIONAL = 0x8000_0042

LIBXL_END, LIBXC_CONTEXT, XENSTORE_DATA, EMULATOR_CONTEXT = range(4)
CHECKPOINT_END, CHECKPOINT_STATE = 4, 5

L4TAB_PINNED, BROKEN, XALLOC, XTAB = 0xC, 0xD, 0xE, 0xF
PV_TYPE, HVM_TYPE = 1, 2
XL_JSON, XL_V2 = 1, 2
CONFIG = b'{"c_info": {"type": "hvm", "name": "small"}}\n\0'


@frozen
class Rec:
    """A record as it stands in a stream.

    :ivar padding: None for the zero bytes that belong there.
    :ivar length: body_length as written, if not that of the body.
    """

    number: int
    body: bytes = b""
    padding: bytes | None = None
    length: int | None = None

    def __bytes__(self) -> bytes:
        length = len(self.body) if self.length is None else self.length
        padding = bytes(-len(self.body) & 7) if self.padding is None else self.padding
        return struct.pack("<II", self.number, length) + self.body + padding


def join(records: Iterable[Rec]) -> bytes:
    return b"".join(map(bytes, records))


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.bin").read_bytes()


def page(seed: int) -> bytes:
    """4096 bytes, of zeroes for seed 0, that compress well."""
    return bytes([seed]) * 64 * 48 + bytes(PAGE - 64 * 48) if seed else bytes(PAGE)


def page_data(
    entries: Sequence[tuple[int, int]], contents: Sequence[bytes] = (), *, reserved: int = 0,
    count: int | None = None, length: int | None = None,
) -> Rec:  # fmt: skip
    """:param entries: (type nibble, pfn), whatever the nibble says about contents."""
    words = [kind << 60 | pfn for kind, pfn in entries]
    number = len(words) if count is None else count
    body = struct.pack(f"<II{len(words)}Q", number, reserved, *words) + b"".join(contents)
    return Rec(PAGE_DATA, body, length=length)


def tsc_info() -> Rec:
    return Rec(TSC_INFO, struct.pack("<IIQII", 0, 2_000_000, 12345, 1, 0))


def hvm_params(*pairs: tuple[int, int]) -> Rec:
    """Each (index, value)."""
    body = struct.pack("<II", len(pairs), 0) + b"".join(struct.pack("<QQ", *p) for p in pairs)
    return Rec(HVM_PARAMS, body)


def policies() -> list[Rec]:
    return [
        Rec(CPUID_POLICY, struct.pack("<6I", 0, 0xFFFFFFFF, 0xD, 1, 2, 3)),
        Rec(MSR_POLICY, struct.pack("<QII", 0, 0, 0)[:16]),
    ]


def hvm_memory() -> list[Rec]:
    return [
        page_data([(0, 0), (0, 1), (XTAB, 2)], [page(1), page(0)]),
        page_data([(0, 3), (0, 4)], [page(1), page(2)]),
        page_data([(XTAB, 5), (XTAB, 6)]),
    ]


def hvm_state() -> list[Rec]:
    return [
        tsc_info(),
        Rec(HVM_CONTEXT, golden("xen.hvm.context.pvh")),
        hvm_params((1, 0xFEFFC), (5, 0xFEFFE)),
    ]


def hvm_round() -> list[Rec]:
    """What a checkpoint brings after the first."""
    return [page_data([(0, 1)], [page(3)]), *hvm_state()]


def hvm(version: int = 3) -> list[Rec]:
    """An HVM guest of five pages, without END."""
    static = [*policies(), Rec(STATIC_DATA_END)] if version >= 3 else []
    return [*static, *hvm_memory(), *hvm_state()]


def vcpu_basic(*, start_info_pfn: int = 1, cr3_pfn: int = 2, vcpu_id: int = 0) -> Rec:
    """A 64-bit vcpu of zeroes but for the two pfns."""
    context = bytearray(5168)
    struct.pack_into("<Q", context, 616, start_info_pfn)  # user_regs.rdx
    struct.pack_into("<Q", context, 5008, cr3_pfn << 12)  # ctrlreg[3]
    return Rec(VCPU_BASIC, struct.pack("<II", vcpu_id, 0) + bytes(context))


def pv_info() -> Rec:
    return Rec(PV_INFO, bytes([8, 4, 0, 0, 0, 0, 0, 0]))


def p2m_frames() -> Rec:
    return Rec(P2M_FRAMES, struct.pack("<IIQ", 0, 6, 0))


def pv_memory() -> list[Rec]:
    return [
        page_data([(0, 0), (0, 1), (L4TAB_PINNED, 2), (XTAB, 3)], [page(1), page(2), page(3)]),
        page_data([(0, 4), (BROKEN, 5), (0, 6)], [page(0), page(1)]),
    ]


def pv_state() -> list[Rec]:
    return [
        tsc_info(),
        Rec(SHARED_INFO, bytes(PAGE)),
        vcpu_basic(),
        Rec(VCPU_EXTENDED, golden("xen.pv.vcpu_extended.pv")),
        Rec(VCPU_XSAVE, golden("xen.pv.vcpu_xsave.pv")),
    ]


def pv_round() -> list[Rec]:
    return [page_data([(0, 4)], [page(5)]), *pv_state()]


def pv(version: int = 3) -> list[Rec]:
    """A PV guest of seven pfns, without END."""
    static = [*policies(), Rec(STATIC_DATA_END)] if version >= 3 else []
    return [pv_info(), *static, p2m_frames(), *pv_memory(), *pv_state()]


def libxc_header(
    version: int = 3, guest: int = HVM_TYPE, *, marker: bytes = b"\xff" * 8,
    ident: bytes = b"XENF", options: int = 0, reserved: tuple[int, int, int] = (0, 0, 0),
    page_shift: int = 12, xen: tuple[int, int] = (4, 17),
) -> bytes:  # fmt: skip
    """:param reserved: two of the image header, one of the domain header."""
    image = struct.pack(">8s4sIHHI", marker, ident, version, options, *reserved[:2])
    return image + struct.pack("<IHHII", guest, page_shift, reserved[2], *xen)


def guest_of(records: Sequence[Rec]) -> int:
    return PV_TYPE if any(rec.number == PV_INFO for rec in records) else HVM_TYPE


def libxc(
    records: Sequence[Rec], *, version: int = 3, header: bytes | None = None, end: bool = True
) -> bytes:
    """:param end: with the END record."""
    head = libxc_header(version, guest_of(records)) if header is None else header
    return head + join(records) + (bytes(Rec(END)) if end else b"")


def libxl_header(ident: bytes = b"LibxlFmt", version: int = 2, options: int = 0) -> bytes:
    return struct.pack(">8sII", ident, version, options)


def emulator(number: int = EMULATOR_CONTEXT, blob: bytes = b"device model") -> Rec:
    return Rec(number, struct.pack("<II", 2, 0) + blob)


def libxl(
    inner: bytes, records: Sequence[Rec] = (Rec(LIBXL_END),), *, header: bytes | None = None,
    context: Rec | None = None,
) -> bytes:  # fmt: skip
    """:param inner: the libxc stream up to its END or first CHECKPOINT.
    :param records: of libxl, after it.
    """
    head = libxl_header() if header is None else header
    return head + bytes(context or Rec(LIBXC_CONTEXT)) + inner + join(records)


def xl_header(
    optional: bytes | None = None, *, magic: bytes = b"Xen saved domain, xl format\n \0 \r",
    byteorder: int = 0x01020304, flags: int = XL_JSON | XL_V2, optional_flags: int = 0,
    optional_data_len: int | None = None,
) -> bytes:  # fmt: skip
    """:param optional: the optional data; by default a length and CONFIG."""
    data = struct.pack("<I", len(CONFIG)) + CONFIG if optional is None else optional
    size = len(data) if optional_data_len is None else optional_data_len
    return magic + struct.pack("<IIII", byteorder, flags, optional_flags, size) + data


def xl(inner: bytes, header: bytes | None = None) -> bytes:
    return (xl_header() if header is None else header) + inner


def bare_remus(
    first: Sequence[Rec], rounds: Sequence[Sequence[Rec]], *, end: bool = False
) -> bytes:
    """A checkpointed libxc stream: the first state, then so many rounds; captured, unless
    it has an end: then it finishes in an orderly way after the last checkpoint."""
    records = [*first, Rec(CHECKPOINT)]
    for one in rounds:
        records += [*one, Rec(CHECKPOINT)]
    return libxc(records, end=end)


def nested_remus(
    first: Sequence[Rec], rounds: Sequence[Sequence[Rec]], between: Sequence[Rec] = (),
    *, end: bool = False,
) -> bytes:  # fmt: skip
    """The same in a libxl stream, with these libxl records at each checkpoint."""
    turn = [*between, Rec(CHECKPOINT_END)]
    data = libxl(libxc([*first, Rec(CHECKPOINT)], end=False), turn)
    for one in rounds:
        data += join([*one, Rec(CHECKPOINT), *turn])
    return data + join([Rec(END), *between, Rec(LIBXL_END)]) if end else data


def shorter(record: Rec, by: int) -> Rec:
    return evolve(record, body=record.body[:-by])
