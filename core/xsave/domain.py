"""Contract: a hypervisor that holds domains. Backends know no stream.

A :class:`Domain` is one guest, to be saved from or restored into. What every guest has,
memory and vcpus that run or do not, is its methods. What only some have is a *facet*, asked
for by name: the registers of a PV guest, the context of an HVM guest, a device model,
transcendent memory. Record handlers ask for the facet they know; a domain without it has no
such record. So a new kind of state is a name that a backend and a handler agree upon, and
nothing here changes. The protocols of the facets that the bundled plugins use are below;
bodies are passed as the hypervisor gives them, frame numbers of the host included: making
them independent of the host is the handlers' work.

An address such as ``xen:NAME`` names the backend before the colon; the rest is its own.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from attrs import field

from .errors import UsageError, XsaveError
from .record import GuestType
from .value_class import frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .pages import Entries, Pages

    Flags = NDArray[np.bool_]


@frozen
class DomainInfo:
    """What is known of a guest without looking into it.

    :ivar p2m_size: number of pfns, highest one plus one.
    :ivar nr_vcpus: highest vcpu id plus one, offline ones included.
    :ivar details: further facts of that backend, for people: JSON-able.
    """

    name: str
    guest_type: GuestType
    p2m_size: int
    nr_vcpus: int
    page_size: int = 4096
    xen_version: str = ""
    details: Mapping[str, object] = field(factory=dict)


class Domain(abc.ABC):
    """One guest. Used by one thread; the guest itself runs meanwhile.

    Whoever pauses a guest or starts a log puts that back when something fails: the source
    guest goes on running whatever happens to the stream. Where another program owns the
    guest, as libxl does that runs a save helper, ``resume`` and ``destroy`` leave it to that
    program, which does so when it is told how the run ended.

    :ivar info: its ``p2m_size`` may grow while it is restored, and stays while it is saved.

    What is promised here is what :class:`xsave.testing.BackendSuite` tries.
    """

    info: DomainInfo

    @property
    def locator(self) -> str:
        """By which :meth:`Backend.find` finds this very guest again, from another process and
        after this one was killed. Another guest that has its name later is not found by it.

        :returns: "" where a guest ends with the process that made it.
        """
        return ""

    @abc.abstractmethod
    def pause(self) -> None:
        """Bring the guest to a consistent point and stop its vcpus; returns when they have
        stopped. A guest that cooperates is told first (Xen: the suspend request). Harmless
        when it stands still already.

        :raises XsaveError: the guest did not stop; it goes on running.
        """

    @abc.abstractmethod
    def resume(self) -> None:
        """Let it run (again), here. Harmless when it runs already.

        :raises XsaveError: it has ended, or what was restored is no guest that could run.
        """

    @abc.abstractmethod
    def destroy(self) -> None:
        """The guest ends here: it runs elsewhere, or was never completed. Harmless when it has
        ended already."""

    @abc.abstractmethod
    def page_types(self, pfns: Entries) -> Entries:
        """:returns: (n,) u64, the pfns given with their types in bits 63-60, as of now: XTAB
        for one without memory, also beyond ``info.p2m_size``."""

    @abc.abstractmethod
    def read_pages(self, pfns: Entries, out: Pages) -> Flags:
        """Copy guest pages. A copy, because a running guest changes its memory while it is
        compressed and checksummed.

        :param pfns: (n,) u64, of a type that has contents when it was asked.
        :param out: (n, page_size) u8.
        :returns: (n,) bool, False for pages that could not be read now (gone, or in
            transition); their rows are undefined.
        """

    @abc.abstractmethod
    def populate(self, pfns: Entries) -> None:
        """Give these pfns memory, those that have none yet. What is in it is the host's affair:
        not all hosts clear it.

        :raises XsaveError: the host has not enough, or no guest has such a pfn.
        """

    def depopulate(self, pfns: Entries) -> None:
        """Take memory back from these pfns: the guest gave them up. A host that cannot may
        leave it, as Xen's own restorer does; nothing is ever read there."""
        return

    @abc.abstractmethod
    def write_pages(self, pfns: Entries, pages: Pages) -> None:
        """(n, page_size) u8 into (n,) populated pfns; the last one wins where a pfn is
        given twice.

        :raises XsaveError: one of them has no memory.
        """

    @abc.abstractmethod
    def start_dirty_log(self) -> None:
        """From now on, remember which pfns the guest and its devices write to; all count as
        clean now, also where there was a log already. What is written by :meth:`write_pages`
        may be missing in it, as may pages that the host itself writes to."""

    @abc.abstractmethod
    def read_dirty_log(self, *, clean: bool) -> Flags:
        """:returns: (p2m_size,) bool, pfns written since the log began or was last read with
        ``clean``. Without ``clean`` this only looks (Xen: PEEK), with it the log begins
        anew, atomically (Xen: CLEAN): a write falls into one of the two, never between.
        :raises XsaveError: there is no log.
        """

    @abc.abstractmethod
    def stop_dirty_log(self) -> None:
        """Harmless when there is none."""

    def is_at_rest(self) -> bool:
        """Whether its vcpus stand still already, whoever paused it. Whoever saves or looks at
        such a guest leaves it so: it may stand still because it runs elsewhere. A backend that
        cannot tell says False."""
        return False

    def throttle(self, share: float) -> bool:
        """Ask that the guest be slowed.

        :param share: of its processor time that it keeps, 1.0 for all.
        :returns: whether this backend can.
        """
        return False

    def fingerprint(self) -> Mapping[str, bytes] | None:
        """Optional: what this guest is, to prove that it arrived as it left. Asked of a paused
        source, and of a destination that has everything and has not run yet.

        Worth the more, the less it uses of what handlers use: found in another way, it finds
        their mistakes.

        :returns: digests by what they are of ("memory", "vcpu 0"), the same on every host for
            the same guest; None where the backend has no such thing.
        """
        return None

    @abc.abstractmethod
    def facet(self, name: str) -> Any:
        """The part of this guest of that name, or None: see the protocols below."""

    def need_facet(self, name: str) -> Any:
        """As :meth:`facet`, for state that must go somewhere.

        :raises XsaveError: this domain has no such part.
        """
        if (found := self.facet(name)) is None:
            raise XsaveError(f"{self.info.name or 'the domain'} has no {name!r} state here")
        return found

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of mappings and handles; the guest stays as it is. Harmless when it was done
        already."""


class X86Facet(Protocol):
    """``x86``: what PV and HVM guests share."""

    def tsc_info(self) -> tuple[int, int, int, int]:
        """Mode, khz, nanoseconds elapsed, incarnation."""

    def set_tsc_info(self, mode: int, khz: int, nsec: int, incarnation: int) -> None: ...

    def cpuid_policy(self) -> bytes:
        """Leaves of 24 bytes, as in X86_CPUID_POLICY."""

    def set_cpuid_policy(self, leaves: bytes) -> None: ...

    def msr_policy(self) -> bytes:
        """Entries of 16 bytes, as in X86_MSR_POLICY."""

    def set_msr_policy(self, entries: bytes) -> None: ...


class PvFacet(Protocol):
    """``pv``: frame numbers are the host's (mfns) unless called pfns.

    A host that knows the page it shares with a domain being built may also have
    ``shared_info_mfn() -> int``: the guest then finds its address in start_info. One whose
    programs listen to store and console has ``event_channels() -> (int, int)``, their ports.
    """

    @property
    def guest_width(self) -> int:
        """8 or 4 bytes."""

    def set_guest_width(self, width: int) -> None: ...

    def m2p(self, mfns: Entries) -> Entries:
        """(n,) u64 pfns; all ones for a frame that is not this guest's."""

    def p2m(self, pfns: Entries) -> Entries:
        """(n,) u64 mfns; all ones for a pfn without memory."""

    def p2m_frame_pfns(self) -> Entries:
        """pfns of the pages that hold the guest's own p2m table, in order."""

    def set_p2m_frame_pfns(self, pfns: Entries, p2m_size: int) -> None:
        """Told before the first page of a domain being built: :meth:`p2m_frame_pfns` gives
        these from now on, and ``info.p2m_size`` is at least this many pfns."""

    def online_vcpus(self) -> Sequence[int]: ...

    def vcpu_state(self, vcpu: int, kind: str) -> bytes:
        """:param kind: ``basic``, ``extended``, ``xsave`` or ``msrs``; b"" if it has none."""

    def set_vcpu_state(self, vcpu: int, kind: str, state: bytes) -> None: ...

    def shared_info(self) -> bytes:
        """4096 bytes."""

    def set_shared_info(self, page: bytes) -> None: ...

    def set_page_types(self, entries: Entries) -> None:
        """Tell which populated pfns are page tables, pinned ones to be pinned; checked by
        the host against their contents, as a hypervisor does.

        :raises XsaveError: a table refers to a frame that is not the guest's, or is not of
            the level it should be.
        """

    def store_and_console(self) -> tuple[int, int]:
        """mfns of the pages given to the store and the console of a domain being built."""


class HvmFacet(Protocol):
    """``hvm``"""

    def params(self) -> Mapping[int, int]:
        """Index to value, those that are not zero."""

    def set_param(self, index: int, value: int) -> None: ...

    def context(self) -> bytes:
        """Save records, as in HVM_CONTEXT."""

    def set_context(self, records: bytes) -> None: ...


class DeviceModelFacet(Protocol):
    """``device_model``"""

    @property
    def emulator(self) -> int:
        """2 for upstream QEMU, as in EMULATOR_CONTEXT."""

    def state(self) -> bytes:
        """Of the stopped device model."""

    def load(self, emulator: int, state: bytes) -> None: ...

    def xenstore_data(self) -> bytes:
        """Keys and values, as in EMULATOR_XENSTORE_DATA; b"" if there are none."""

    def load_xenstore_data(self, emulator: int, data: bytes) -> None: ...


class XlFacet(Protocol):
    """``xl``: what a toolstack that wrote an xl file would say before the stream."""

    def config(self) -> bytes:
        """The guest's configuration as JSON, as libxl has it; b"" where nobody keeps it."""


class Host(Protocol):
    """Where guests can be made: what is known of it without making one."""

    @property
    def name(self) -> str:
        """Of the host, for people."""

    @property
    def guest_types(self) -> frozenset[GuestType]:
        """That it can run."""

    def memory_free_bytes(self) -> int | None:
        """For guests; None where nobody can say."""

    def has_guest(self, name: str) -> bool:
        """Whether a guest of that name is in the way of a new one."""

    def facet(self, name: str) -> Any:
        """What it has for guests with that facet, or None: :class:`X86Host` for ``x86``; what
        a plugin and its backend agree upon for others."""


class X86Host(Protocol):
    """``x86`` of a host: the most that it can offer a guest."""

    def cpuid_policy(self, guest_type: GuestType) -> bytes:
        """Leaves of 24 bytes, as in X86_CPUID_POLICY; b"" where nobody can say."""

    def msr_policy(self, guest_type: GuestType) -> bytes:
        """Entries of 16 bytes, as in X86_MSR_POLICY; b"" where nobody can say."""


class Backend(abc.ABC):
    """:cvar name: the scheme of its addresses: ``xen`` in ``xen:guest7``."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""

    @abc.abstractmethod
    def open(self, address: str) -> Domain:
        """The domain that an address names, without the scheme.

        :raises UsageError: the address makes no sense to this backend.
        """

    @abc.abstractmethod
    def create(self, address: str, info: DomainInfo) -> Domain:
        """A new, empty, paused domain to restore into."""

    def reserve(self, address: str) -> tuple[str, str]:
        """Optional: an address for :meth:`create`, and the locator that the one guest made
        with it will have, so that it is known before there is anything to be found. Makes
        nothing.

        :returns: as given, and "" where a locator is only known afterwards, or never.
        :raises UsageError: the address makes no sense to this backend.
        """
        return address, ""

    def find(self, locator: str) -> Domain | None:
        """The guest that has this :attr:`Domain.locator`, in whatever state it is, one that
        is half-built among them. Never makes one.

        :returns: None when it is no more.
        :raises TryAgainError: its host does not answer now, so nobody knows.
        :raises UsageError: that is no locator of this backend.
        """
        raise UsageError(f"{self.name}: guests here cannot be found again: {locator!r}")

    def host_of(self, address: str) -> Host | None:
        """Optional: the host on which :meth:`create` would make a guest for that address;
        None where it cannot be asked. Makes nothing.

        :raises UsageError: the address makes no sense to this backend.
        """
        return None

    def demo_addresses(self) -> Sequence[tuple[str, str]]:
        """Optional: guests of which ``xsave run`` without endpoints makes one after another,
        to save, restore and move them; so a backend that needs nothing but itself.

        :returns: for each a source, that :meth:`open` starts, and a destination elsewhere,
            for :meth:`create`, and then for :meth:`open` to find it again. Both without the
            scheme; one or none of each name may exist at a time.
        """
        return ()
