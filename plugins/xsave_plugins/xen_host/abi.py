"""Numbers and layouts of Xen's public interface, as a dom0 of 64 bits uses it.

Source: Xen's public headers (domctl.h, memory.h, xen.h, sched.h, version.h, hvm/hvm_op.h,
arch-x86/hvm/save.h), compared from 4.17 to after 4.22: every layout below is the same in all
of them, although the interface's version counts other changes. All integers are
little-endian, all offsets those of the 64-bit ABI. A *handle* is the address of memory that
Xen may write to.
"""

from __future__ import annotations

import struct
from typing import Final

PAGE_BYTES: Final = 4096
MAX_BATCH: Final = 1024  # frames that getpageframeinfo3 takes at once

# Hypercalls.
MEMORY_OP, XEN_VERSION, MMUEXT_OP, SCHED_OP, HVM_OP, DOMCTL = 12, 17, 26, 29, 34, 36

# What XEN_DOMCTL_INTERFACE_VERSION was, and in which releases.
DOMCTL_VERSIONS: Final = {0x15: "4.17", 0x16: "4.18", 0x17: "4.19 to 4.21", 0x18: "4.22"}

DOMID_XEN: Final = 0x7FF2  # owner of Xen's own memory, the m2p among it

# xen_version's commands.
XENVER_VERSION, XENVER_EXTRAVERSION = 0, 1

# memory_op's commands.
(XENMEM_DECREASE_RESERVATION, XENMEM_MAXIMUM_RAM_PAGE, XENMEM_MACHPHYS_MFN_LIST,
 XENMEM_POPULATE_PHYSMAP, XENMEM_MAXIMUM_GPFN) = 1, 2, 5, 6, 14  # fmt: skip
RESERVATION = struct.Struct("<QQIIH6x")  # handle, nr_extents, extent_order, mem_flags, domid
MFN_LIST = struct.Struct("<I4xQI4x")  # max_extents, handle, nr_extents
GPFN_OF = struct.Struct("<H6x")  # domid
M2P_EXTENT_PAGES: Final = 512  # what one entry of the mfn list stands for
RESOURCE_GRANT_TABLE, GRANT_TABLE_SHARED = 1, 0

# mmuext_op.
MMUEXT = struct.Struct("<I4xQQ")  # cmd, mfn, -
PIN_TABLE = {1: 0, 2: 1, 3: 2, 4: 3}  # level of the table to cmd

# sched_op.
SCHEDOP_REMOTE_SHUTDOWN: Final = 4
REMOTE_SHUTDOWN = struct.Struct("<H2xI")  # domid, reason
SHUTDOWN_SUSPEND: Final = 2

# hvm_op.
HVMOP_SET_PARAM, HVMOP_GET_PARAM = 0, 1
HVM_PARAM = struct.Struct("<H2xIQ")  # domid, index, value
PARAM_CALLBACK_IRQ, PARAM_STORE_PFN, PARAM_STORE_EVTCHN = 0, 1, 2
PARAM_ACPI_S_STATE, PARAM_CONSOLE_PFN, PARAM_CONSOLE_EVTCHN = 14, 17, 18
# Those that go into a stream, in Xen's order; asking for others may change the guest.
SAVED_PARAMS: Final = (1, 5, 6, 27, 28, 29, 37, 17, 19, 9, 12, 34, 32, 33, 36, 38)

# domctl: a header, and a body that each command lays out for itself.
DOMCTL_HEADER = struct.Struct("<IIH6x")  # cmd, interface_version, domid
DOMCTL_BODY: Final = DOMCTL_HEADER.size
DESTROY_DOMAIN, PAUSE_DOMAIN, UNPAUSE_DOMAIN, GET_DOMAIN_INFO = 2, 3, 4, 5
SHADOW_OP, SET_VCPU_CONTEXT, GET_VCPU_CONTEXT, GET_VCPU_INFO = 10, 12, 13, 14
RESUME_DOMAIN, GET_HVM_CONTEXT, SET_HVM_CONTEXT = 27, 33, 34
SET_ADDRESS_SIZE, GET_ADDRESS_SIZE = 35, 36
SET_EXT_VCPU_CONTEXT, GET_EXT_VCPU_CONTEXT = 42, 43
GET_TSC_INFO, SET_TSC_INFO, GET_PAGE_FRAME_INFO3 = 59, 60, 61
SET_VCPU_EXT_STATE, GET_VCPU_EXT_STATE, GET_VCPU_MSRS, SET_VCPU_MSRS = 62, 63, 72, 73
GET_CPU_POLICY, SET_CPU_POLICY = 82, 83

# domain, flags, tot_pages, max_pages, outstanding, shared, paged, shared_info_frame,
# cpu_time, nr_online_vcpus, max_vcpu_id, ssidref, handle (the uuid)
DOMAIN_INFO = struct.Struct("<H2xIQQQQQQQIII16s")
DYING, HVM_GUEST, SHUTDOWN, PAUSED = 1 << 0, 1 << 1, 1 << 2, 1 << 3
SHUTDOWN_REASON_SHIFT: Final = 16
NO_VCPUS: Final = 0xFFFFFFFF

PAGE_FRAME_INFO = struct.Struct("<QQ")  # number, handle
TYPE_SHIFT_32: Final = 28  # in the words that come back

SHADOW = struct.Struct("<III4xQQII")  # op, mode, mb, handle, pages, faults, dirty
SHADOW_OFF, SHADOW_CLEAN, SHADOW_PEEK, SHADOW_ENABLE_LOGDIRTY = 0, 11, 12, 2

VCPU_CONTEXT = struct.Struct("<I4xQ")  # vcpu, handle
CONTEXT_BYTES = {8: 5168, 4: 2800}  # by guest_width
CONTEXT_RAX = {8: 600, 4: 536}  # user_regs' rax or eax
CONTEXT_RDX = {8: 616, 4: 524}

VCPU_INFO = struct.Struct("<IBBBxQI")  # vcpu, online, blocked, running, cpu_time, cpu
HVM_CONTEXT = struct.Struct("<I4xQ")  # size, handle
ADDRESS_SIZE = struct.Struct("<I")  # bits
TSC_INFO = struct.Struct("<IIIIQ")  # mode, khz, incarnation, -, nsec
EXT_CONTEXT_HEAD = struct.Struct("<II")  # vcpu, size
EXT_CONTEXT_BYTES: Final = 128
EXT_STATE = struct.Struct("<I4xQQQ")  # vcpu, xfeature_mask, size, handle
MSRS = struct.Struct("<IIQ")  # vcpu, msr_count, handle
MSR_BYTES: Final = 16
CPU_POLICY = struct.Struct("<IIQQIII")  # nr_leaves, nr_msrs, handles; what was refused
LEAF_BYTES: Final = 24

# Offsets in the page that Xen and a PV guest share, by guest_width: the number of pfns, the
# mfn of the three-level p2m, and cr3, address and generation of the linear one.
SHARED_INFO_P2M = {8: (3088, 3096, 3112, 3120, 3128), 4: (2316, 2320, 2328, 2332, 2336)}
# And in its start_info: store's mfn and port, console's mfn and port.
START_INFO = {8: (56, 64, 72, 80), 4: (44, 48, 52, 56)}

# A grant entry, version 1, and the two that the host's programs find first.
GRANT_ENTRY = struct.Struct("<HHI")  # flags, domid, frame
GRANT_PERMIT_ACCESS: Final = 1
GRANT_CONSOLE, GRANT_STORE = 0, 1
