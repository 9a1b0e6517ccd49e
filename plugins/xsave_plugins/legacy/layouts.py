"""Numbers and small layouts of the legacy stream. Tables and nothing else.

Source: what Xen 3.4 to 4.5 wrote, as docs/formats/legacy.md has it. Integers are
little-endian and packed; a "word" is an unsigned long of the toolstack, 4 or 8 bytes.
"""

from __future__ import annotations

import struct

from xsave import GuestType

PAGE_BYTES = 4096
P2M_SIZE_MAX = 1 << 28  # pfns of an entry have 28 bits: 1 TiB of guest
BATCH_MAX = 1024
VCPU_ID_MAX = 4095
EXTENDED_INFO_MAX = 1 << 16  # bytes; real ones have 2,816 to 5,200
BODY_MAX = 64 << 20  # bytes of an HVM context, a toolstack chunk, a device model's state
COMPRESSED_MAX = 64 << 20  # bytes of one chunk; Xen's buffer is 8192 pages of at most 4105
PENDING_MAX = 1 << 16  # pages announced and not yet sent, in a compressed round; Xen: 8192

WORD_CODES = {4: "<I", 8: "<Q"}
GUEST_WIDTHS = {2800: (4, 3), 5168: (8, 4)}  # of a vcpu context's size: width, table levels
CONTEXT_BYTES = {4: 2800, 8: 5168}
EXTENDED_CONTEXT_BYTES = 128
SHARED_INFO_BYTES = 4096

# Chunks that are no page batch.
END = 0
VERIFY = -1
VCPU_INFO = -2
TMEM = -5
TMEM_EXTRA = -6
TSC_INFO = -7
LAST_CHECKPOINT = -9
COMPRESSED_DATA = -12
ENABLE_COMPRESSION = -13
TOOLSTACK = -18
LOWEST_CHUNK = -20

CHUNK_NAMES = {
    VERIFY: "ENABLE_VERIFY_MODE", VCPU_INFO: "VCPU_INFO", -3: "HVM_IDENT_PT", -4: "HVM_VM86_TSS",
    TMEM: "TMEM", TMEM_EXTRA: "TMEM_EXTRA", TSC_INFO: "TSC_INFO", -8: "HVM_CONSOLE_PFN",
    LAST_CHECKPOINT: "LAST_CHECKPOINT", -10: "HVM_ACPI_IOPORTS_LOCATION", -11: "HVM_VIRIDIAN",
    COMPRESSED_DATA: "COMPRESSED_DATA", ENABLE_COMPRESSION: "ENABLE_COMPRESSION",
    -14: "HVM_GENERATION_ID_ADDR", -15: "HVM_PAGING_RING_PFN", -16: "HVM_ACCESS_RING_PFN",
    -17: "HVM_SHARING_RING_PFN", TOOLSTACK: "TOOLSTACK", -19: "HVM_IOREQ_SERVER_PFN",
    -20: "HVM_NR_IOREQ_SERVER_PAGES",
}  # fmt: skip

# Chunks that carry one HVM parameter, and its index (Xen's public hvm/params.h).
HVM_PARAMS = {
    -3: 12, -4: 15, -8: 17, -10: 19, -11: 9, -14: 34, -15: 27, -16: 28, -17: 29, -19: 32, -20: 33,
}  # fmt: skip
IOREQ_PFN, BUFIOREQ_PFN, STORE_PFN = 5, 6, 1

INT = struct.Struct("<i")
UINT = struct.Struct("<I")
U64 = struct.Struct("<Q")
PADDED_U64 = struct.Struct("<IQ")  # pad, value
TSC = struct.Struct("<IQII")  # mode, nsec, khz, incarnation
MAGIC_PFNS = struct.Struct("<QQQ")  # ioreq, buffered ioreq, xenstore
XSAVE_HEAD = struct.Struct("<QQ")  # host's feature mask, size
BLOCK_HEAD = struct.Struct("<4sI")  # of extended info: id, size
PHYSMAP = struct.Struct("<QQQI")  # phys_offset, start_addr, size, namelen

TSC_MODES = range(4)

# Entries: type in bits 31-28, pfn in bits 27-0.
TYPE_SHIFT, PFN_MASK = 28, 0x0FFFFFFF
NO_PFN = 0xF0000000  # "could not be mapped": its pfn was not written

# What the records become: as Xen's own converter marks them.
CONVERTER_MINOR = 1
LIBXL_CONVERTED = 2  # option bit 1: made of a legacy stream
LIBXL_HEADER = struct.Struct(">8sII")
LIBXC_HEADER = struct.Struct(">8s4sIHHI")
DOMAIN_HEADER = struct.Struct("<IHHII")
GUEST_NUMBERS = {GuestType.X86_PV: 1, GuestType.X86_HVM: 2}
PAGE_NAMES_PV = "xen.pv.page_data"
PAGE_NAMES = {GuestType.X86_PV: PAGE_NAMES_PV, GuestType.X86_HVM: "xen.hvm.page_data"}

# Signatures before a device model's state.
QEMU_TO_THE_END = b"QemuDeviceModelRecord"
QEMU_WITH_LENGTH = (b"DeviceModelRecord0002", b"RemusDeviceModelState")
SIGNATURE_BYTES = 21
QEVM = b"QEVM"
