"""A hypervisor as two objects with the functions of Xen's libraries: no Xen is needed.

What arrives is read at the offsets of Xen's public headers, written here anew, so that a
layout that is wrong in the backend does not fit. Domains are plain data.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import Any, ClassVar

import numpy as np
from attrs import define, field

PAGE = 4096
INVALID = (1 << 64) - 1
EXT_SIZE = 64


@define
class FakeGuest:
    """:ivar frames: gfn to its page; :ivar types: gfn to its type nibble.
    :ivar asked: commands that were done to it, in order.
    """

    domid: int = 7
    is_hvm: bool = True
    flags: int = 0
    nr_vcpus: int = 1
    width: int = 8
    shared_info_mfn: int = 0
    frames: dict[int, bytearray] = field(factory=dict)
    types: dict[int, int] = field(factory=dict)
    dirty: set[int] = field(factory=set)
    logging: bool = False
    params: dict[int, int] = field(factory=dict)
    context: bytes = b""
    tsc: tuple[int, int, int, int] = (0, 0, 0, 0)  # mode, khz, incarnation, nsec
    leaves: bytes = b""
    msrs: bytes = b""
    vcpus: dict[tuple[int, str], bytes] = field(factory=dict)
    pinned: list[tuple[int, int]] = field(factory=list)
    grants: bytearray = field(factory=lambda: bytearray(PAGE))
    max_populated: int = 1 << 20
    asked: list[str] = field(factory=list)


class FakeXen:
    """:param interface: the only version of domain control that it understands.

    :ivar refuse: domctl number to errno, for those that are to fail.
    """

    def __init__(self, *guests: FakeGuest, interface: int = 0x15, version: int = 0x40011) -> None:
        self.guests = {guest.domid: guest for guest in guests}
        self.interface = interface
        self.version = version
        self.refuse: dict[int, int] = {}
        self.has_shadow_paging = True
        self.machine: dict[int, int] = {}  # mfn to pfn, what the m2p says
        self.max_mfn = 0x3FF
        self.next_mfn = 0x200
        self.buffers: dict[int, Any] = {}
        self.mappings: dict[int, tuple[int, list[int], bool, Any]] = {}
        self.is_open = True
        self.call = self
        self.memory = self

    # -- libxencall --------------------------------------------------------------------

    def xencall_open(self, _logger: None, _flags: int) -> int | None:
        if not self.is_open:
            ctypes.set_errno(errno.EACCES)
            return None
        return 1

    def xencall_close(self, _handle: int) -> int:
        return 0

    def xencall_alloc_buffer_pages(self, _handle: int, count: int) -> int:
        made = ctypes.create_string_buffer(count * PAGE)
        self.buffers[ctypes.addressof(made)] = made
        return ctypes.addressof(made)

    def xencall_free_buffer_pages(self, _handle: int, address: int, _count: int) -> None:
        del self.buffers[address]

    def xencall1(self, _handle: int, call: int, address: int) -> int:
        assert call == 36
        command, interface, domid = struct.unpack("<IIH", ctypes.string_at(address, 10))
        if interface != self.interface:
            return _fail(errno.EACCES)
        if command in self.refuse:
            return _fail(self.refuse[command])
        if command == 5 and domid == 0:
            return 0
        guest = self.guests.get(domid)
        if guest is None:
            return _fail(errno.ESRCH)
        done = self.domctls[command](self, guest, address + 16)
        return 0 if done is None else done

    def xencall2(self, _handle: int, call: int, command: int, _argument: int) -> int:
        assert (call, command) == (17, 0)
        return self.version

    def xencall2L(self, _handle: int, call: int, command: int, address: int) -> int:  # noqa: N802
        return self.operations[call, command](self, address)

    def xencall4(
        self, _handle: int, call: int, address: int, count: int, done: int, domid: int
    ) -> int:
        assert call == 26
        for place in range(count):
            command, mfn = struct.unpack("<I4xQ", ctypes.string_at(address + 24 * place, 16))
            if mfn not in self.guests[domid].frames:
                return _fail(errno.EINVAL)
            self.guests[domid].pinned.append((command, mfn))
        ctypes.memmove(done, struct.pack("<I", count), 4)
        return 0

    # -- domain control ----------------------------------------------------------------

    def _info(self, guest: FakeGuest, at: int) -> None:
        flags = guest.flags | (2 if guest.is_hvm else 0)
        packed = struct.pack(
            "<HHIQQQQQQQIII16s", guest.domid, 0, flags, len(guest.frames), 0, 0, 0, 0,
            guest.shared_info_mfn, 0, guest.nr_vcpus, guest.nr_vcpus - 1, 0, bytes(range(16)),
        )  # fmt: skip
        ctypes.memmove(at, packed, len(packed))

    def _types(self, guest: FakeGuest, at: int) -> None:
        count, array = struct.unpack("<QQ", ctypes.string_at(at, 16))
        assert count <= 1024
        gfns = struct.unpack(f"<{count}Q", ctypes.string_at(array, 8 * count))
        types = [guest.types.get(g, 0) if g in guest.frames else 0xF for g in gfns]
        ctypes.memmove(array, struct.pack(f"<{count}Q", *(t << 28 for t in types)), 8 * count)

    def _shadow(self, guest: FakeGuest, at: int) -> int | None:
        operation, _, _, bits, pages = struct.unpack("<III4xQQ", ctypes.string_at(at, 32))
        if not self.has_shadow_paging:
            return _fail(errno.EINVAL)
        if operation == 2:
            if guest.logging:
                return _fail(errno.EINVAL)
            guest.logging = True
            guest.dirty.clear()
        elif operation == 0:
            guest.logging = False
        else:
            made = np.zeros(pages, np.bool_)
            made[[pfn for pfn in guest.dirty if pfn < pages]] = True
            packed = np.packbits(made, bitorder="little").tobytes()
            ctypes.memmove(bits, packed, len(packed))
            if operation == 11:
                guest.dirty.clear()
        guest.asked.append(f"shadow {operation}")
        return None

    def _get_vcpu(self, guest: FakeGuest, at: int) -> None:
        vcpu, buffer = struct.unpack("<I4xQ", ctypes.string_at(at, 16))
        state = guest.vcpus[vcpu, "basic"]
        ctypes.memmove(buffer, state, len(state))

    def _set_vcpu(self, guest: FakeGuest, at: int) -> None:
        vcpu, buffer = struct.unpack("<I4xQ", ctypes.string_at(at, 16))
        size = 5168 if guest.width == 8 else 2800
        guest.vcpus[vcpu, "basic"] = ctypes.string_at(buffer, size)

    def _vcpu_info(self, guest: FakeGuest, at: int) -> None:
        (vcpu,) = struct.unpack("<I", ctypes.string_at(at, 4))
        online = (vcpu, "basic") in guest.vcpus
        ctypes.memmove(at + 4, bytes([online]), 1)

    def _get_extended(self, guest: FakeGuest, at: int) -> None:
        (vcpu,) = struct.unpack("<I", ctypes.string_at(at, 4))
        state = guest.vcpus[vcpu, "extended"]
        ctypes.memmove(at, state, len(state))

    def _set_extended(self, guest: FakeGuest, at: int) -> None:
        vcpu, size = struct.unpack("<II", ctypes.string_at(at, 8))
        guest.vcpus[vcpu, "extended"] = ctypes.string_at(at, size)

    def _get_xsave(self, guest: FakeGuest, at: int) -> None:
        vcpu, _, _, buffer = struct.unpack("<I4xQQQ", ctypes.string_at(at, 32))
        state = guest.vcpus.get((vcpu, "xsave"), b"")
        if buffer:
            ctypes.memmove(buffer, state, len(state))
        ctypes.memmove(at + 8, struct.pack("<QQ", 7 if state else 0, len(state)), 16)

    def _set_xsave(self, guest: FakeGuest, at: int) -> None:
        vcpu, _, size, buffer = struct.unpack("<I4xQQQ", ctypes.string_at(at, 32))
        guest.vcpus[vcpu, "xsave"] = ctypes.string_at(buffer, size)

    def _get_msrs(self, guest: FakeGuest, at: int) -> None:
        vcpu, _, buffer = struct.unpack("<IIQ", ctypes.string_at(at, 16))
        state = guest.vcpus.get((vcpu, "msrs"), b"")
        if buffer:
            ctypes.memmove(buffer, state, len(state))
        ctypes.memmove(at + 4, struct.pack("<I", len(state) // 16), 4)

    def _set_msrs(self, guest: FakeGuest, at: int) -> None:
        vcpu, count, buffer = struct.unpack("<IIQ", ctypes.string_at(at, 16))
        guest.vcpus[vcpu, "msrs"] = ctypes.string_at(buffer, 16 * count)

    def _get_hvm(self, guest: FakeGuest, at: int) -> int | None:
        size, buffer = struct.unpack("<I4xQ", ctypes.string_at(at, 16))
        room = len(guest.context) + 100  # more than it will be, as Xen says
        if buffer:
            if size < room:
                return _fail(errno.ENOSPC)
            ctypes.memmove(buffer, guest.context, len(guest.context))
            room = len(guest.context)
        ctypes.memmove(at, struct.pack("<I", room), 4)
        return None

    def _set_hvm(self, guest: FakeGuest, at: int) -> None:
        size, buffer = struct.unpack("<I4xQ", ctypes.string_at(at, 16))
        guest.context = ctypes.string_at(buffer, size)

    def _get_width(self, guest: FakeGuest, at: int) -> None:
        ctypes.memmove(at, struct.pack("<I", guest.width * 8), 4)

    def _set_width(self, guest: FakeGuest, at: int) -> None:
        guest.width = struct.unpack("<I", ctypes.string_at(at, 4))[0] // 8

    def _get_tsc(self, guest: FakeGuest, at: int) -> None:
        mode, khz, incarnation, nsec = guest.tsc
        ctypes.memmove(at, struct.pack("<IIIIQ", mode, khz, incarnation, 0, nsec), 24)

    def _set_tsc(self, guest: FakeGuest, at: int) -> None:
        mode, khz, incarnation, _, nsec = struct.unpack("<IIIIQ", ctypes.string_at(at, 24))
        guest.tsc = mode, khz, incarnation, nsec

    def _get_policy(self, guest: FakeGuest, at: int) -> int | None:
        nr_leaves, nr_msrs, leaves, msrs = struct.unpack("<IIQQ", ctypes.string_at(at, 24))
        if nr_leaves * 24 < len(guest.leaves) or nr_msrs * 16 < len(guest.msrs):
            return _fail(errno.ENOBUFS)
        ctypes.memmove(leaves, guest.leaves, len(guest.leaves))
        ctypes.memmove(msrs, guest.msrs, len(guest.msrs))
        ctypes.memmove(at, struct.pack("<II", len(guest.leaves) // 24, len(guest.msrs) // 16), 8)
        return None

    def _set_policy(self, guest: FakeGuest, at: int) -> int | None:
        nr_leaves, nr_msrs, leaves, msrs = struct.unpack("<IIQQ", ctypes.string_at(at, 24))
        found = ctypes.string_at(leaves, nr_leaves * 24)
        if found[:4] == b"\xff\xff\xff\xff":  # a leaf that this processor has not
            ctypes.memmove(at + 24, struct.pack("<III", 7, 1, INVALID >> 32), 12)
            return _fail(errno.EINVAL)
        guest.leaves = found or guest.leaves
        guest.msrs = ctypes.string_at(msrs, nr_msrs * 16) or guest.msrs
        return None

    def _destroy(self, guest: FakeGuest, _at: int) -> None:
        guest.asked.append("destroy")

    def _resume(self, guest: FakeGuest, _at: int) -> None:
        guest.asked.append("resume")
        guest.flags = 0

    domctls: ClassVar[dict[int, Any]] = {
        2: _destroy, 5: _info, 10: _shadow, 12: _set_vcpu, 13: _get_vcpu,
        14: _vcpu_info, 27: _resume, 33: _get_hvm, 34: _set_hvm, 35: _set_width,
        36: _get_width, 42: _set_extended, 43: _get_extended, 59: _get_tsc, 60: _set_tsc,
        61: _types, 62: _set_xsave, 63: _get_xsave, 72: _get_msrs, 73: _set_msrs,
        82: _get_policy, 83: _set_policy,
    }  # fmt: skip

    # -- other calls -------------------------------------------------------------------

    def _populate(self, at: int) -> int:
        array, count, order, _, domid = struct.unpack("<QQIIH", ctypes.string_at(at, 26))
        assert order == 0
        guest = self.guests[domid]
        pfns = struct.unpack(f"<{count}Q", ctypes.string_at(array, 8 * count))
        done = []
        for pfn in pfns:
            if len(guest.frames) >= guest.max_populated:
                break
            gfn = pfn
            if not guest.is_hvm:
                gfn, self.next_mfn = self.next_mfn, self.next_mfn + 1
                self.machine[gfn] = pfn
            guest.frames[gfn] = bytearray(PAGE)
            done.append(gfn)
        ctypes.memmove(array, struct.pack(f"<{len(done)}Q", *done), 8 * len(done))
        return len(done)

    def _depopulate(self, at: int) -> int:
        array, count, _, _, domid = struct.unpack("<QQIIH", ctypes.string_at(at, 26))
        for gfn in struct.unpack(f"<{count}Q", ctypes.string_at(array, 8 * count)):
            del self.guests[domid].frames[gfn]
        return int(count)

    def _m2p_list(self, at: int) -> int:
        extents, array = struct.unpack("<I4xQ", ctypes.string_at(at, 16))
        assert extents == 1  # 2 MiB of m2p stand for a GiB of machine
        ctypes.memmove(array, struct.pack("<Q", 0x5000), 8)
        ctypes.memmove(at + 16, struct.pack("<I", 1), 4)
        return 0

    def _max_gpfn(self, at: int) -> int:
        (domid,) = struct.unpack("<H", ctypes.string_at(at, 2))
        return max(self.guests[domid].frames)

    def _get_param(self, at: int) -> int:
        domid, index = struct.unpack("<H2xI", ctypes.string_at(at, 8))
        value = self.guests[domid].params.get(index, 0)
        ctypes.memmove(at + 8, struct.pack("<Q", value), 8)
        return 0

    def _set_param(self, at: int) -> int:
        domid, index, value = struct.unpack("<H2xIQ", ctypes.string_at(at, 16))
        self.guests[domid].params[index] = value
        return 0

    def _shutdown(self, at: int) -> int:
        domid, reason = struct.unpack("<H2xI", ctypes.string_at(at, 8))
        self.guests[domid].flags |= 4 | reason << 16
        return 0

    operations: ClassVar[dict[tuple[int, int], Any]] = {
        (12, 1): _depopulate, (12, 2): lambda self, _at: self.max_mfn, (12, 5): _m2p_list,
        (12, 6): _populate, (12, 14): _max_gpfn, (34, 0): _set_param, (34, 1): _get_param,
        (29, 4): _shutdown,
    }  # fmt: skip

    # -- libxenforeignmemory -------------------------------------------------------------

    def xenforeignmemory_open(self, _logger: None, _flags: int) -> int:
        return 2

    def xenforeignmemory_close(self, _handle: int) -> int:
        return 0

    def xenforeignmemory_map(
        self, _handle: int, domid: int, protection: int, count: int, frames: int, errors: int
    ) -> int:
        gfns = list(struct.unpack(f"<{count}Q", ctypes.string_at(frames, 8 * count)))
        gfns = [gfn & (1 << 40) - 1 for gfn in gfns]  # as much as a page table's entry holds
        contents = self._m2p_pages(gfns) if domid == 0x7FF2 else self.guests[domid].frames
        made = ctypes.create_string_buffer(count * PAGE)
        found = [gfn in contents for gfn in gfns]
        for place, gfn in enumerate(gfns):
            if found[place]:
                start = ctypes.addressof(made) + place * PAGE
                ctypes.memmove(start, bytes(contents[gfn]), PAGE)
        bad = [0 if there else -errno.ENOENT for there in found]
        ctypes.memmove(errors, struct.pack(f"<{count}i", *bad), 4 * count)
        address = ctypes.addressof(made)
        self.mappings[address] = domid, gfns, bool(protection & 2), made
        return address

    def xenforeignmemory_unmap(self, _handle: int, address: int, count: int) -> int:
        domid, gfns, writable, made = self.mappings.pop(address)
        assert count == len(gfns)
        for place, gfn in enumerate(gfns):
            if writable and gfn in self.guests[domid].frames:
                page = made.raw[place * PAGE : (place + 1) * PAGE]
                self.guests[domid].frames[gfn][:] = page
        return 0

    def xenforeignmemory_map_resource(
        self, _handle: int, domid: int, kind: int, number: int, _frame: int, count: int,
        place: Any, _protection: int, _flags: int,
    ) -> int:  # fmt: skip
        assert (kind, number, count) == (1, 0, 1)
        found = (ctypes.c_char * PAGE).from_buffer(self.guests[domid].grants)
        place._obj.value = ctypes.addressof(found)
        return 3

    def xenforeignmemory_unmap_resource(self, _handle: int, _resource: int) -> int:
        return 0

    def _m2p_pages(self, mfns: list[int]) -> dict[int, bytes]:
        words = np.full(512 * 512, INVALID, np.uint64)
        for mfn, pfn in self.machine.items():
            words[mfn] = pfn
        # a hole behind what this machine has
        last = self.max_mfn // 512
        return {
            0x5000 + page: words[page * 512 : (page + 1) * 512].tobytes()
            for page in range(last + 1)
            if 0x5000 + page in mfns
        }


def _fail(number: int) -> int:
    ctypes.set_errno(number)
    return -1
