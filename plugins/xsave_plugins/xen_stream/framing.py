"""Numbers, header layouts and record names of Xen's streams. Tables and nothing else.

Here, and only here, records have numbers.
"""

from __future__ import annotations

import struct

from xsave import GuestType, Layout, RecordType, frozen, layout, raw, u16, u32, u64

BODY_MAX = 128 << 20  # bytes; REC_LENGTH_MAX of libxc since Xen 4.10; used for libxl too,
# where Xen itself has no bound
CONFIG_MAX = 16 << 20  # bytes of optional data in an xl header; real ones have 1 to 20 KiB
OPTIONAL = 1 << 31  # bit of a record type: may be skipped by those who do not know it

RECORD_HEADER = struct.Struct("<II")  # type, body_length
PAGE_DATA_HEADER = struct.Struct("<II")  # count, reserved

XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"
XL_BYTEORDER = 0x01020304
XL_FLAG_JSON = 1 << 0
XL_FLAG_V2 = 1 << 1

# What the two ends of `xl migrate` say around the stream, receiver and sender in turn. The
# results are followed by one byte: 0, or the negated error.
XL_BANNER = b"xl migration receiver ready, send binary domain data.\n"
XL_RESULTS = b"my copy unpause results are as follows\0"
XL_MESSAGES = (
    b"domain received, ready to unpause\0",
    b"domain is yours, you are cleared to unpause\0",
    XL_RESULTS,
)

LIBVIRT_MAGIC = b"libvirt-xml\n \0 \r"
LIBVIRT_VERSION = 2  # libxl v2 stream; 1 is a legacy one

XAPI_MAGIC = b"XenSavedDomv2-\n"
XAPI_HEADER = struct.Struct("<QQ")  # type, length
XAPI_XENOPS, XAPI_LIBXC, XAPI_LIBXC_LEGACY, XAPI_QEMU = 0x0F, 0xF0, 0xF2, 0x0F00
XAPI_VGPU, XAPI_END = 0x0F10, 0xFFFF

LIBXL_HEADER = struct.Struct(">8sII")  # ident, version, options
LIBXL_IDENT = b"LibxlFmt"
LIBXL_VERSION = 2
LIBXL_BIG_ENDIAN = 1 << 0

LIBXC_IMAGE_HEADER = struct.Struct(">8s4sIHHI")  # marker, id, version, options, reserved x2
LIBXC_DOMAIN_HEADER = struct.Struct("<IHHII")  # type, page_shift, reserved, major, minor
LIBXC_MARKER = b"\xff" * 8
LIBXC_ID = b"XENF"
LIBXC_VERSIONS = (2, 3)
LIBXC_BIG_ENDIAN = 1 << 0
PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT


@layout
class XlHeader(Layout):
    """The fixed part of an xl file's header."""

    magic: bytes = raw(32)
    byteorder: int = u32()
    mandatory_flags: int = u32(bits={"json": (0, 1), "stream_v2": (1, 1)})
    optional_flags: int = u32()
    optional_data_len: int = u32()


@layout
class LibvirtHeader(Layout):
    """The fixed part of libvirt's header; the domain's XML follows, with its NUL."""

    magic: bytes = raw(16)
    version: int = u32()
    xml_len: int = u32()
    unused: tuple[int, ...] = u32(10)


@layout
class XapiLibxc(Layout):
    """The header before the libxc stream in xapi's image; both types are read alike."""

    type: int = u64(names={0xF0: "Libxc", 0xF2: "Libxc_legacy"})
    length: int = u64()


@layout
class CheckpointState(Layout):
    """Body of CHECKPOINT_STATE (COLO)."""

    id: int = u32(names={0: "new", 1: "suspended", 2: "ready", 3: "resumed"})


@layout
class DomainHeader(Layout):
    """libxc's domain header."""

    type: int = u32(names={1: "x86_pv", 2: "x86_hvm"})
    page_shift: int = u16()
    reserved: int = u16()
    xen_major: int = u32()
    xen_minor: int = u32()


GUEST_TYPES = {1: GuestType.X86_PV, 2: GuestType.X86_HVM}
GUEST_NUMBERS = {kind: number for number, kind in GUEST_TYPES.items()}

XL_HEADER = "xen.xl.header"
XL_HANDSHAKE = "xen.xl.handshake"
LIBVIRT_HEADER = "xen.libvirt.header"
XAPI_METADATA = "xen.xapi.xenops"
XAPI_LIBXC_HEADER = "xen.xapi.libxc"
QEMU_CONTEXT = "xen.qemu.context"
LIBXL_STREAM_HEADER = "xen.libxl.header"
LIBXC_CONTEXT = "xen.libxl.libxc_context"
CHECKPOINT_END = "xen.libxl.checkpoint_end"
LIBXL_END = "xen.libxl.end"
LIBXC_STREAM_HEADER = "xen.libxc.header"
STATIC_DATA_END = "xen.libxc.static_data_end"
CHECKPOINT = "xen.libxc.checkpoint"
LIBXC_END = "xen.libxc.end"

PV, HVM = frozenset({GuestType.X86_PV}), frozenset({GuestType.X86_HVM})
BOTH = PV | HVM


@frozen
class Row:
    """A record of a stream: its name here and its number there.

    :ivar spec_name: as Xen's specification spells it.
    :ivar guests: guests in whose streams Xen accepts it.
    :ivar since: lowest stream version that has it (libxc only).
    """

    number: int
    name: str
    spec_name: str
    guests: frozenset[GuestType] = BOTH
    since: int = 2


PAGE_DATA = 0x01
PAGE_DATA_NAMES = {
    GuestType.X86_PV: "xen.pv.page_data",
    GuestType.X86_HVM: "xen.hvm.page_data",
}
PAGE_DATA_TYPES = {kind: RecordType(name) for kind, name in PAGE_DATA_NAMES.items()}
TOOLSTACK = 0x0B  # known, never emitted by a release, and refused by every restorer

LIBXC_ROWS = (
    Row(0x00, LIBXC_END, "END"),
    Row(0x02, "xen.pv.info", "X86_PV_INFO", PV),
    Row(0x03, "xen.pv.p2m_frames", "X86_PV_P2M_FRAMES", PV),
    Row(0x04, "xen.pv.vcpu_basic", "X86_PV_VCPU_BASIC", PV),
    Row(0x05, "xen.pv.vcpu_extended", "X86_PV_VCPU_EXTENDED", PV),
    Row(0x06, "xen.pv.vcpu_xsave", "X86_PV_VCPU_XSAVE", PV),
    Row(0x07, "xen.pv.shared_info", "SHARED_INFO", PV),
    Row(0x08, "xen.x86.tsc_info", "X86_TSC_INFO"),
    Row(0x09, "xen.hvm.context", "HVM_CONTEXT", HVM),
    Row(0x0A, "xen.hvm.params", "HVM_PARAMS", HVM),
    Row(0x0C, "xen.pv.vcpu_msrs", "X86_PV_VCPU_MSRS", PV),
    Row(0x0D, "xen.libxc.verify", "VERIFY"),
    Row(0x0E, CHECKPOINT, "CHECKPOINT"),
    Row(0x0F, "xen.libxc.checkpoint_dirty_pfn_list", "CHECKPOINT_DIRTY_PFN_LIST"),
    Row(0x10, STATIC_DATA_END, "STATIC_DATA_END"),
    Row(0x11, "xen.x86.cpuid_policy", "X86_CPUID_POLICY", since=3),
    Row(0x12, "xen.x86.msr_policy", "X86_MSR_POLICY", since=3),
)

LIBXL_ROWS = (
    Row(0, LIBXL_END, "END"),
    Row(1, LIBXC_CONTEXT, "LIBXC_CONTEXT"),
    Row(2, "xen.qemu.xenstore_data", "EMULATOR_XENSTORE_DATA", HVM),
    Row(3, "xen.qemu.context", "EMULATOR_CONTEXT", HVM),
    Row(4, CHECKPOINT_END, "CHECKPOINT_END"),
    Row(5, "xen.libxl.checkpoint_state", "CHECKPOINT_STATE"),
)

# Parts of xapi's images behind the libxc stream; the device model's is QEMU_CONTEXT.
XAPI_ROWS = (
    Row(0x0F11, "xen.xapi.varstored", "Varstored"),
    Row(0x0F12, "xen.xapi.swtpm0", "Swtpm0"),
    Row(0x0F13, "xen.xapi.swtpm", "Swtpm"),
)
XAPI_BY_NUMBER = {row.number: row for row in XAPI_ROWS}
XAPI_BY_NAME = {row.name: row for row in XAPI_ROWS}
# Headers of containers: a guest's state is whole without them.
OPTIONAL_HEADERS = frozenset({XL_HANDSHAKE, LIBVIRT_HEADER, XAPI_METADATA, XAPI_LIBXC_HEADER})

# libxl records that hand the stream over, or end it
LIBXL_TURNS = frozenset({LIBXC_CONTEXT, CHECKPOINT_END, LIBXL_END})

LIBXC_BY_NUMBER = {row.number: row for row in LIBXC_ROWS}
LIBXC_BY_NAME = {row.name: row for row in LIBXC_ROWS}
LIBXL_BY_NUMBER = {row.number: row for row in LIBXL_ROWS}
LIBXL_BY_NAME = {row.name: row for row in LIBXL_ROWS}
TYPES = {row.name: RecordType(row.name) for row in (*LIBXC_ROWS, *LIBXL_ROWS, *XAPI_ROWS)}

# An optional libxc record that nobody knows keeps its number in a name of its own, so that
# it can be written back; no such type has ever been assigned.
UNKNOWN_PREFIX = "xen.libxc.optional_"


def message_ahead(ahead: bytes) -> bytes | None:
    """What one end of `xl migrate` says next, with the results their byte; None if it does
    not.

    :param ahead: the next 64 bytes, or as many as there are.
    """
    for message in XL_MESSAGES:
        if ahead.startswith(message):
            return message + ahead[len(message) :][: message == XL_RESULTS]
    return None


def unknown_name(number: int) -> str:
    return f"{UNKNOWN_PREFIX}{number:#010x}"


def unknown_number(name: str) -> int | None:
    """The number of a record named by :func:`unknown_name`; None for another name."""
    if not name.startswith(UNKNOWN_PREFIX):
        return None
    try:
        number = int(name.removeprefix(UNKNOWN_PREFIX), 16)
    except ValueError:
        return None
    return number if OPTIONAL <= number < 2 * OPTIONAL else None
