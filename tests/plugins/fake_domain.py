"""Domains as plain data, for the live verbs of handlers: no hypervisor, nothing runs.

Frame numbers are random for each seed, so that a pfn where an mfn belongs is always found
out. What is asked of a facet is an attribute of it; what is told is noted in ``told``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import define, evolve, field
from numpy.typing import NDArray

from xsave import (
    PAGE_SIZE,
    PFN_MASK,
    Domain,
    DomainInfo,
    Entries,
    GuestType,
    Handler,
    Pages,
    Record,
    RecordHandler,
    RecordType,
    XsaveError,
)

NO_FRAME = (1 << 64) - 1
FIRST_MFN = 0x10000  # above every pfn of these guests


class FakeDomain(Domain):
    """:ivar frames: (p2m_size,) u64, mfn by pfn, NO_FRAME for a pfn without memory.
    :ivar types: (p2m_size,) u64, type nibble by pfn.
    :ivar memory: (p2m_size, PAGE_SIZE) u8.
    :ivar told: what was done to it, in order: (verb, what with).
    """

    def __init__(
        self,
        guest_type: GuestType,
        p2m_size: int,
        *,
        seed: int = 0,
        populated: bool = True,
        facets: Mapping[str, Any] | None = None,
    ) -> None:
        self.info = DomainInfo("fake", guest_type, p2m_size, nr_vcpus=4, xen_version="4.17")
        self.told: list[tuple[str, Any]] = []
        self.facets = dict(facets or {})
        self._rng = np.random.default_rng(seed)
        self.frames = np.zeros(0, np.uint64)
        self.types = np.zeros(0, np.uint64)
        self.memory = np.zeros((0, PAGE_SIZE), np.uint8)
        self._free = FIRST_MFN + self._rng.permutation(1 << 16).astype(np.uint64)
        self.grow(p2m_size)
        if populated:
            self.populate(np.arange(p2m_size, dtype=np.uint64))
            self.told.clear()

    def grow(self, p2m_size: int) -> None:
        more = max(0, p2m_size - len(self.frames))
        self.frames = np.concatenate((self.frames, np.full(more, NO_FRAME, np.uint64)))
        self.types = np.concatenate((self.types, np.full(more, 0xF, np.uint64)))
        self.memory = np.concatenate((self.memory, np.zeros((more, PAGE_SIZE), np.uint8)))
        self.info = evolve(self.info, p2m_size=len(self.frames))

    def facet(self, name: str) -> Any:
        return self.facets.get(name)

    def page_types(self, pfns: Entries) -> Entries:
        return self.types[pfns.astype(np.intp)] << np.uint64(60) | pfns

    def read_pages(self, pfns: Entries, out: Pages) -> NDArray[np.bool_]:
        out[:] = self.memory[pfns.astype(np.intp)]
        return self.frames[pfns.astype(np.intp)] != NO_FRAME

    def populate(self, pfns: Entries) -> None:
        at = pfns.astype(np.intp)
        new = at[self.frames[at] == NO_FRAME]
        self.frames[new], self._free = self._free[: len(new)], self._free[len(new) :]
        self.types[new] = 0
        if len(new):
            self.told.append(("populate", new.tolist()))

    def write_pages(self, pfns: Entries, pages: Pages) -> None:
        at = pfns.astype(np.intp)
        if (self.frames[at] == NO_FRAME).any():
            raise XsaveError("no memory there")
        self.memory[at] = pages
        self.told.append(("write_pages", at.tolist()))

    def p2m(self, pfns: Entries) -> Entries:
        known = pfns < len(self.frames)
        found = np.full(len(pfns), NO_FRAME, np.uint64)
        found[known] = self.frames[pfns[known].astype(np.intp)]
        return found

    def m2p(self, mfns: Entries) -> Entries:
        by_mfn = {int(mfn): pfn for pfn, mfn in enumerate(self.frames) if mfn != NO_FRAME}
        return np.array([by_mfn.get(int(mfn), NO_FRAME) for mfn in mfns], np.uint64)

    def mfn(self, pfn: int) -> int:
        return int(self.frames[pfn])

    def pause(self) -> None:
        self.told.append(("pause", None))

    def resume(self) -> None:
        self.told.append(("resume", None))

    def destroy(self) -> None:
        self.told.append(("destroy", None))

    def start_dirty_log(self) -> None: ...

    def read_dirty_log(self, *, clean: bool) -> NDArray[np.bool_]:
        return np.zeros(len(self.frames), np.bool_)

    def stop_dirty_log(self) -> None: ...

    def close(self) -> None: ...


@define
class FakeX86:
    tsc: tuple[int, int, int, int] = (0, 0, 0, 0)
    cpuid: bytes = b""
    msrs: bytes = b""

    def tsc_info(self) -> tuple[int, int, int, int]:
        return self.tsc

    def set_tsc_info(self, mode: int, khz: int, nsec: int, incarnation: int) -> None:
        self.tsc = mode, khz, nsec, incarnation

    def cpuid_policy(self) -> bytes:
        return self.cpuid

    def set_cpuid_policy(self, leaves: bytes) -> None:
        self.cpuid = leaves

    def msr_policy(self) -> bytes:
        return self.msrs

    def set_msr_policy(self, entries: bytes) -> None:
        self.msrs = entries


@define(eq=False)
class FakePv:
    """:ivar states: by vcpu and kind."""

    domain: FakeDomain
    guest_width: int = 0
    states: dict[tuple[int, str], bytes] = field(factory=dict)
    shared: bytes = bytes(PAGE_SIZE)
    p2m_pages: Entries = field(factory=lambda: np.zeros(0, np.uint64))
    rings: tuple[int, int] = (0, 0)

    def set_guest_width(self, width: int) -> None:
        self.guest_width = width

    def m2p(self, mfns: Entries) -> Entries:
        return self.domain.m2p(mfns)

    def p2m(self, pfns: Entries) -> Entries:
        return self.domain.p2m(pfns)

    def p2m_frame_pfns(self) -> Entries:
        return self.p2m_pages

    def set_p2m_frame_pfns(self, pfns: Entries, p2m_size: int) -> None:
        self.p2m_pages = pfns
        self.domain.grow(p2m_size)

    def online_vcpus(self) -> Sequence[int]:
        return sorted({vcpu for vcpu, _ in self.states}, reverse=True)

    def vcpu_state(self, vcpu: int, kind: str) -> bytes:
        return self.states.get((vcpu, kind), b"")

    def set_vcpu_state(self, vcpu: int, kind: str, state: bytes) -> None:
        self.states[vcpu, kind] = state
        self.domain.told.append((kind, vcpu))

    def shared_info(self) -> bytes:
        return self.shared

    def set_shared_info(self, page: bytes) -> None:
        self.shared = page

    def set_page_types(self, entries: Entries) -> None:
        self.domain.types[(entries & PFN_MASK).astype(np.intp)] = entries >> np.uint64(60)
        self.domain.told.append(("set_page_types", entries.tolist()))

    def store_and_console(self) -> tuple[int, int]:
        return self.rings


class FakePvThatShares(FakePv):
    """One that also tells where it put the shared page, and where its programs listen."""

    def shared_info_mfn(self) -> int:
        return 0xBEEF

    def event_channels(self) -> tuple[int, int]:
        return 0x11, 0x22


@define
class FakeHvm:
    values: dict[int, int] = field(factory=dict)
    records: bytes = b""

    def params(self) -> Mapping[int, int]:
        return self.values

    def set_param(self, index: int, value: int) -> None:
        self.values[index] = value

    def context(self) -> bytes:
        return self.records

    def set_context(self, records: bytes) -> None:
        self.records = records


@define
class FakeDeviceModel:
    emulator: int = 0
    devices: bytes = b""
    keys: bytes = b""

    def state(self) -> bytes:
        return self.devices

    def load(self, emulator: int, state: bytes) -> None:
        self.emulator, self.devices = emulator, state

    def xenstore_data(self) -> bytes:
        return self.keys

    def load_xenstore_data(self, emulator: int, data: bytes) -> None:
        self.emulator, self.keys = emulator, data


def bodies(handler: RecordHandler[Any], domain: Domain) -> list[bytes]:
    """What a handler collects, as it would stand in a stream."""
    return [b"".join(handler.encode(state)) for state in handler.collect(domain)]


def collect(handlers: Iterable[Handler], domain: Domain) -> Iterator[Record]:
    for handler in handlers:
        if isinstance(handler, RecordHandler) and domain.info.guest_type in handler.guest_types:
            for body in bodies(handler, domain):
                yield Record(RecordType(handler.name), body)


def apply(handler: RecordHandler[Any], domain: Domain, *given: bytes) -> None:
    for body in given:
        handler.apply(domain, handler.decode(memoryview(body)))


def move(handler: RecordHandler[Any], source: Domain, dest: Domain) -> list[bytes]:
    """Collect, encode, decode, apply.

    :returns: the bodies on the way.
    """
    moved = bodies(handler, source)
    apply(handler, dest, *moved)
    return moved
