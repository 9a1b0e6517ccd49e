"""What Xen keeps of a PV guest beside its memory: the ``pv`` facet.

Layouts: docs/formats/pv.md; here with the host's mfns, as a hypervisor hands them out.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xsave import L4TAB, PINNED, XsaveError

from .contents import numbers
from .host import NO_FRAME
from .pv_tables import set_page_types
from .state_page import Word

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xsave import Entries

    from .guest import Guest

GUEST_WIDTH = 8
SHARED_INFO_BYTES = 4096

# In a vcpu_guest_context of 64 bits.
CONTEXT_BYTES = 5168
FLAGS, R12, RCX, RDX, RIP = 512, 544, 608, 616, 648
TRAPS, GDT_FRAMES, GDT_ENTS, CTRLREG = 720, 4832, 4960, 4984
CR1, CR3 = CTRLREG + 8, CTRLREG + 24
ONLINE = 1 << 5
MAX_GDT_ENTS, GDT_ENTS_PER_FRAME = 14 * 512, 512

EXTENDED_BYTES = 64
MIN_EXTENDED, MAX_EXTENDED = 32, 128
XCR0 = 7  # x87, SSE, AVX: what the host's processors have
XSAVE_BYTES = 16 + 832
MSR = struct.Struct("<IIQ")
TSC_AUX = 0xC0000103
KNOWN_MSRS = frozenset({0x48, 0x140, TSC_AUX, 0xC0011019, 0xC001101A, 0xC001101B, 0xC0011027})
KINDS = ("basic", "extended", "xsave", "msrs")

_U64 = struct.Struct("<Q")
_STORE_WORD, _CONSOLE_WORD = 7, 9  # of start_info


class PvState:
    """A :class:`xsave.PvFacet`.

    :ivar shared_words: (512,) u64, the shared_info page.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._page = bytearray(SHARED_INFO_BYTES)
        self.shared_words: NDArray[np.uint64] = np.frombuffer(self._page, np.uint64)
        # a page of Xen's own, at an address that is no guest's
        self._vcpus: dict[tuple[int, str], bytes] = {}
        self._p2m_frames: Entries | None = None

    # -- a new guest -----------------------------------------------------------------

    def boot(self, seed: int, online: int) -> None:
        """Vcpus and shared_info of a guest whose kernel has built its memory."""
        for vcpu in range(online):
            for kind in KINDS:
                made = getattr(self, f"_make_{kind}")(seed, vcpu)
                if made:
                    self._vcpus[vcpu, kind] = made
            info = self.shared_words[vcpu * 8 : vcpu * 8 + 8]
            info[0], info[2] = 0x0100, 0x7F0000001000 + vcpu  # events masked; cr2
            info[4], info[5:7] = 2, numbers(seed, vcpu, 2) >> np.uint64(20)
            info[7] = 0x0100_0000_8000_0000 | 0x7F << 40
        self.shared_words[256] = 0b110  # event channels 1 and 2 are pending
        self.shared_words[320:384] = NO_FRAME & ~0b110
        struct.pack_into("<4I", self._page, 3072, 2, 1_700_000_000, seed % 10**9, 0)

    def _make_basic(self, seed: int, vcpu: int) -> bytes:
        guest = self._guest
        state = guest.state
        assert state is not None
        context = bytearray(CONTEXT_BYTES)
        struct.pack_into("<HH", context, 0, 0x37F, 0)
        struct.pack_into("<II", context, 24, 0x1F80, 0xFFFF)  # mxcsr and its mask
        context[160:416] = numbers(seed ^ 7, vcpu * 32, 32).tobytes()  # xmm0 to xmm15
        _U64.pack_into(context, FLAGS, 0x1D | ONLINE)
        registers = numbers(seed ^ 8, vcpu * 16, 15) >> np.uint64(1)
        context[520:640] = registers.tobytes()
        struct.pack_into("<QH", context, RIP, 0xFFFFFFFF81192101, 0xE033)
        struct.pack_into("<QQ", context, 664, 0x1206, 0xFFFFC90040083E30)
        struct.pack_into("<H", context, 680, 0xE02B)
        for vector in range(20):
            address = 0xFFFFFFFF81020000 + 16 * vector
            struct.pack_into("<BBH4xQ", context, TRAPS + 16 * vector, vector, 4, 0xE033, address)
        _U64.pack_into(context, GDT_FRAMES, guest.mfn(state[Word.GDT_PFN]))
        struct.pack_into("<QQQ", context, GDT_ENTS, 16, 0x18, 0xFFFFC90040084000)
        _U64.pack_into(context, CTRLREG, 0x80050033)
        _U64.pack_into(context, CR1, guest.mfn(state[Word.USER_L4_PFN]) << 12)
        _U64.pack_into(context, CR3, guest.mfn(state[Word.KERNEL_L4_PFN]) << 12)
        _U64.pack_into(context, CTRLREG + 32, 0x50660)
        struct.pack_into("<QQ", context, 5096, 0xFFFF0FF0, 0x400)  # dr6, dr7
        struct.pack_into(
            "<4Q", context, 5112, 0xFFFFFFFF81027EB0, 0xFFFFFFFF81C01310, 0xFFFFFFFF81027EF0, 0x2D
        )
        _U64.pack_into(context, 5152, 0xFFFF888005A00000 + (vcpu << 16))
        if vcpu == 0:  # what its suspend call says: where start_info is
            _U64.pack_into(context, RDX, guest.mfn(state[Word.START_INFO_PFN]))
        return bytes(context)

    def _make_extended(self, _seed: int, vcpu: int) -> bytes:
        return struct.pack(
            "<IIQQHHBB2xQ24x", vcpu, EXTENDED_BYTES, 0xFFFFFFFF81C01400, 0xFFFFFFFF81C01480,
            0xE023, 0xE033, 1, 1, 2,
        )  # fmt: skip

    def _make_xsave(self, seed: int, vcpu: int) -> bytes:
        area = bytearray(XSAVE_BYTES)
        struct.pack_into("<QQ", area, 0, XCR0, XCR0)
        legacy = self._vcpus[vcpu, "basic"][:512]
        area[16:528] = legacy
        _U64.pack_into(area, 528, XCR0)
        area[592:848] = numbers(seed ^ 9, vcpu * 32, 32).tobytes()  # upper halves of ymm
        return bytes(area)

    def _make_msrs(self, _seed: int, vcpu: int) -> bytes:
        return MSR.pack(TSC_AUX, 0, vcpu) if vcpu else b""

    # -- frames ----------------------------------------------------------------------

    @property
    def guest_width(self) -> int:
        return GUEST_WIDTH

    def set_guest_width(self, width: int) -> None:
        if width != GUEST_WIDTH:
            raise XsaveError(f"simulated hosts have no PV guests of width {width}, only 8")

    def m2p(self, mfns: Entries) -> Entries:
        with self._guest.lock:
            return self._guest.pfns_of(mfns).astype(np.uint64)  # -1 becomes all ones

    def p2m(self, pfns: Entries) -> Entries:
        with self._guest.lock:
            return self._guest.host.mfns(self._guest.frames(pfns))

    def p2m_frame_pfns(self) -> Entries:
        """None as long as nobody said where they are."""
        if self._p2m_frames is not None:
            return self._p2m_frames
        state = self._guest.state
        if state is None:
            return np.zeros(0, np.uint64)
        first = state[Word.P2M_PFN]
        return np.arange(first, first + state[Word.NR_P2M], dtype=np.uint64)

    def set_p2m_frame_pfns(self, pfns: Entries, p2m_size: int) -> None:
        with self._guest.lock:
            self._guest.grow(p2m_size)
            self._p2m_frames = pfns.astype(np.uint64)

    def shared_info_mfn(self) -> int:
        """Of the page that Xen and the guest share: memory of Xen's."""
        return self._guest.host.base_mfn - 0x10000 - self._guest.domid

    def set_page_types(self, entries: Entries) -> None:
        with self._guest.lock:
            set_page_types(self._guest, entries)

    def store_and_console(self) -> tuple[int, int]:
        """By the start_info page that vcpu 0 names: the guest put their pfns there when it
        was suspended; those that are mfns of it already are taken as they are.

        :raises XsaveError: vcpu 0 was not set, or what it names is no such page.
        """
        guest = self._guest
        with guest.lock:
            pfn = int(guest.pfns_of(np.array([self.start_info_mfn()], np.uint64))[0])
            if pfn < 0:
                raise XsaveError(f"{guest.name}: rdx of vcpu 0 is no frame of this guest")
            row = guest.peek(pfn)
            held = row[[_STORE_WORD, _CONSOLE_WORD]]
            if bool((guest.pfns_of(held) >= 0).all()):
                mfns = held
            else:
                mfns = guest.host.mfns(guest.backed(held))
            return int(mfns[0]), int(mfns[1])

    # -- vcpus -----------------------------------------------------------------------

    def online_vcpus(self) -> Sequence[int]:
        return sorted(
            vcpu
            for (vcpu, kind), state in self._vcpus.items()
            if kind == "basic" and _word(state, FLAGS) & ONLINE
        )

    def vcpu_state(self, vcpu: int, kind: str) -> bytes:
        """A running guest's registers change: rcx of vcpu 0 shows how often it ran."""
        self._check_vcpu(vcpu, kind)
        state = self._vcpus.get((vcpu, kind), b"")
        own = self._guest.state
        if kind != "basic" or vcpu or own is None or not state:
            return state
        return state[:RCX] + _U64.pack(own[Word.COUNTER]) + state[RCX + 8 :]

    def set_vcpu_state(self, vcpu: int, kind: str, state: bytes) -> None:
        """:raises XsaveError: a hypervisor would not load it; says why."""
        self._check_vcpu(vcpu, kind)
        fault = getattr(self, f"_{kind}_fault")(state)
        if fault:
            raise XsaveError(f"{self._guest.name}: {kind} state of vcpu {vcpu}: {fault}")
        self._vcpus[vcpu, kind] = bytes(state)

    def start_info_mfn(self) -> int:
        context = self._vcpus.get((0, "basic"))
        if context is None:
            raise XsaveError(f"{self._guest.name}: vcpu 0 has no state yet")
        return _word(context, RDX)

    def top_table_mfn(self) -> int:
        """CR3 of vcpu 0."""
        context = self._vcpus.get((0, "basic"))
        if context is None:
            raise XsaveError(f"{self._guest.name}: vcpu 0 has no state yet")
        return _word(context, CR3) >> 12

    def _check_vcpu(self, vcpu: int, kind: str) -> None:
        if kind not in KINDS:
            raise XsaveError(f"no vcpu state is named {kind!r}; known: {', '.join(KINDS)}")
        if not 0 <= vcpu < self._guest.nr_vcpus:
            raise XsaveError(
                f"{self._guest.name} has {self._guest.nr_vcpus} vcpus, none is number {vcpu}"
            )

    def _basic_fault(self, state: bytes) -> str:
        if len(state) != CONTEXT_BYTES:
            return f"expected {CONTEXT_BYTES} bytes, got {len(state)}"
        gdt_ents = _word(state, GDT_ENTS)
        if gdt_ents > MAX_GDT_ENTS:
            return f"expected at most {MAX_GDT_ENTS} GDT entries, got {gdt_ents}"
        nr_gdt = -(-gdt_ents // GDT_ENTS_PER_FRAME)
        used = [("CR3", _word(state, CR3) >> 12)]
        if user := _word(state, CR1) >> 12:
            used.append(("CR1", user))
        used += [(f"GDT frame {i}", _word(state, GDT_FRAMES + 8 * i)) for i in range(nr_gdt)]
        pfns = self._guest.pfns_of(np.array([mfn for _, mfn in used], np.uint64))
        for (what, mfn), pfn in zip(used, pfns, strict=True):
            if pfn < 0:
                return f"{what} is mfn {mfn:#x}, which is not this guest's"
        return ""

    def _extended_fault(self, state: bytes) -> str:
        if not MIN_EXTENDED <= len(state) <= MAX_EXTENDED:
            return f"expected {MIN_EXTENDED} to {MAX_EXTENDED} bytes, got {len(state)}"
        return ""

    def _xsave_fault(self, state: bytes) -> str:
        if len(state) != 16 and len(state) < 592:
            return f"expected 16 bytes or at least 592, got {len(state)}"
        if (extra := _word(state, 8) & ~XCR0) != 0:
            return f"the processors here do not have the features {extra:#x} of xcr0_accum"
        return ""

    def _msrs_fault(self, state: bytes) -> str:
        if len(state) % MSR.size:
            return f"expected entries of {MSR.size} bytes, got {len(state)} bytes"
        for index, _reserved, _value in MSR.iter_unpack(state):
            if index not in KNOWN_MSRS:
                return f"MSR {index:#x} is none that a PV guest has"
        return ""

    # -- shared info -----------------------------------------------------------------

    def shared_info(self) -> bytes:
        with self._guest.lock:
            return bytes(self._page)

    def set_shared_info(self, page: bytes) -> None:
        if len(page) != SHARED_INFO_BYTES:
            raise XsaveError(f"shared_info: expected {SHARED_INFO_BYTES} bytes, got {len(page)}")
        with self._guest.lock:
            self._page[:] = page

    def nr_vcpus(self) -> int:
        return 1 + max(vcpu for vcpu, _ in self._vcpus)

    def check_runnable(self) -> None:
        """:raises XsaveError: vcpu 0 has no page table that the processor could use."""
        guest = self._guest
        mfn = self.top_table_mfn()
        pfn = int(guest.pfns_of(np.array([mfn], np.uint64))[0])
        if pfn < 0 or guest.types[pfn] & ~np.uint8(PINNED) != L4TAB:
            raise XsaveError(f"{guest.name}: CR3 of vcpu 0, mfn {mfn:#x}, is no L4 table")


def _word(state: bytes, offset: int) -> int:
    value: int = _U64.unpack_from(state, offset)[0]
    return value
