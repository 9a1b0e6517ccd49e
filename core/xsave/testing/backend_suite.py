"""What the contract promises of domain backends, as tests to inherit."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from ..batch import XTAB
from ..domain import Backend, DeviceModelFacet, Domain, DomainInfo, HvmFacet, PvFacet, X86Facet
from ..errors import CancelledError, UsageError, XsaveError
from ..manager import PluginManager, build_manager
from ..pages import IS_RESERVED, PFN_MASK, TYPE_SHIFT, Entries, Pages, carries_page
from ..record import GuestType, Owner
from . import strategies

if TYPE_CHECKING:
    from ..domain import Flags

_SCHEME = re.compile(r"[a-z][a-z0-9-]+")
_BATCH_PFNS = 1024  # as the pipeline asks
_NOWHERE = 1 << 40  # a pfn that no guest has: 4 PiB
_NO_FRAME = (1 << 64) - 1
_LEAF_BYTES, _MSR_BYTES = 24, 16
_VCPU_KINDS = ("basic", "extended", "xsave", "msrs")
_PROTOCOLS = {"x86": X86Facet, "pv": PvFacet, "hvm": HvmFacet, "device_model": DeviceModelFacet}


class BackendSuite:
    """For a :class:`xsave.Backend` and its domains. Define ``source_address`` and
    ``dest_address`` in the subclass. The guest has to write to its memory now and then, and
    a small one will do: all of it is read several times.

    :cvar backend: the one under test.
    :cvar bad_addresses: that make no sense to it.
    :cvar patience: how often ``let_it_run`` is called for something to happen.
    """

    backend: ClassVar[Backend]
    bad_addresses: ClassVar[Sequence[str]] = ()
    patience: ClassVar[int] = 1000

    def source_address(self) -> str:
        """Of a running guest, without the scheme; asked once by each test that needs one.
        The same guest may serve all of them, if :meth:`put_away` keeps it: only those that
        move it end it."""
        raise AssertionError("the suite has no guest to try: define `source_address`")

    def dest_address(self) -> str:
        """For ``create``, and then for ``open`` to find what was created."""
        raise AssertionError("the suite has nowhere to move a guest: define `dest_address`")

    def put_away(self, domain: Domain) -> None:
        """After a test, whatever became of the guest. One that is to serve others stops its
        log, gets all of its processor time and goes on running instead."""
        domain.destroy()
        domain.close()

    def let_it_run(self, domain: Domain) -> None:
        """Let the guest run for a moment. For one whose time passes by itself: wait."""
        time.sleep(0.01)

    def written_by_the_host(self, domain: Domain) -> Entries:
        """pfns that the host writes to past the dirty log, such as rings and pages shared
        with it."""
        return np.zeros(0, np.uint64)

    def make_manager(self) -> PluginManager:
        """The installed plugins, with this backend in the place of one of its name."""
        manager = build_manager()
        if (installed := manager.backends.get(self.backend.name)) is not None:
            manager.backends.drop(installed.owner.plugin)
        manager.backends.add(self.backend, Owner("suite", ""))
        return manager

    # What the tests below are made of.

    @contextmanager
    def guest(self) -> Iterator[Domain]:
        """A running guest."""
        domain = self.backend.open(self.source_address())
        try:
            yield domain
        finally:
            self.put_away(domain)

    @contextmanager
    def empty(self, info: DomainInfo | None = None) -> Iterator[Domain]:
        """A domain to restore into, for a guest such as the source."""
        if info is None:
            with self.guest() as source:
                info = source.info
        domain = self.backend.create(self.dest_address(), info)
        try:
            yield domain
        finally:
            domain.destroy()
            domain.close()

    def wait_for_writes(self, domain: Domain) -> Flags:
        """:returns: what the log has, once there is anything."""
        for _ in range(self.patience):
            self.let_it_run(domain)
            if (dirty := domain.read_dirty_log(clean=False)).any():
                return dirty
        pytest.fail("the guest was let run and wrote nothing, or nothing was logged")

    def check_runs(self, domain: Domain) -> None:
        """It writes to its memory."""
        domain.start_dirty_log()
        self.wait_for_writes(domain)
        domain.stop_dirty_log()

    def check_stands_still(self, domain: Domain) -> None:
        domain.start_dirty_log()
        for _ in range(3):
            self.let_it_run(domain)
        assert not domain.read_dirty_log(clean=True).any(), "a paused guest writes"
        domain.stop_dirty_log()

    def memory(self, domain: Domain) -> tuple[Entries, Pages]:
        """:returns: (n,) u64 pfns with contents that could be read, and their pages."""
        pfns, pages = [], []
        for batch in _batches(domain.info.p2m_size):
            wanted = batch[carries_page(domain.page_types(batch))]
            out = np.empty((len(wanted), domain.info.page_size), np.uint8)
            good = domain.read_pages(wanted, out)
            pfns.append(wanted[good])
            pages.append(out[good])
        return np.concatenate(pfns), np.concatenate(pages)

    def move(self, **options: Any) -> list[Any]:
        """The guest of ``source_address`` to ``dest_address``.

        :returns: fingerprints of both ends at the pause.
        """
        from .. import run

        found: list[Any] = []

        def look(source: Domain | None, dest: Domain | None) -> None:
            assert source is not None
            assert dest is not None
            found.extend((source.fingerprint(), dest.fingerprint()))

        scheme = self.backend.name
        options.setdefault("at_rest", look)
        run(
            f"{scheme}:{options.pop('source', None) or self.source_address()}",
            f"{scheme}:{self.dest_address()}", manager=self.make_manager(), **options,
        )  # fmt: skip
        return found

    # What the contract promises: of backends,

    def test_identity_is_complete(self) -> None:
        assert _SCHEME.fullmatch(self.backend.name), "it is written as NAME:ADDRESS"
        assert "\n" not in self.backend.summary
        pairs = list(self.backend.demo_addresses())
        assert all(isinstance(address, str) for pair in pairs for address in pair)
        assert len({source for source, _ in pairs}) == len(pairs)

    def test_an_address_that_makes_no_sense_is_a_usage_error(self) -> None:
        for address in self.bad_addresses:
            with pytest.raises(UsageError):
                self.backend.open(address)

    def test_a_guest_is_found_again_and_goes_on_when_that_is_closed(self) -> None:
        address = self.source_address()
        first = self.backend.open(address)
        try:
            again = self.backend.open(address)
            assert again.info.name == first.info.name
            again.pause()
            self.check_stands_still(first)
            again.resume()
            again.close()
            again.close()
            self.check_runs(first)
        finally:
            self.put_away(first)

    # of what is known of a guest,

    def test_what_is_known_of_a_guest_is_whole(self) -> None:
        with self.guest() as domain:
            info = domain.info
            assert info.name
            assert isinstance(info.guest_type, GuestType)
            assert info.p2m_size > 0
            assert info.nr_vcpus > 0
            assert info.page_size >= 512
            assert info.page_size & info.page_size - 1 == 0
            assert json.loads(json.dumps(dict(info.details))) == dict(info.details)

    # of memory,

    def test_every_pfn_has_a_type(self) -> None:
        with self.guest() as domain:
            nr_with_page = 0
            for batch in _batches(domain.info.p2m_size):
                entries = domain.page_types(batch)
                assert entries.dtype == np.uint64
                assert np.array_equal(entries & PFN_MASK, batch)
                kinds = (entries >> TYPE_SHIFT).astype(np.intp)
                assert not IS_RESERVED[kinds].any()
                if domain.info.guest_type is GuestType.X86_HVM:
                    assert not np.any((kinds & 7 > 0) & (kinds < 0xD)), "page tables of its own"
                nr_with_page += int(carries_page(entries).sum())
            assert nr_with_page > 0
            assert len(domain.page_types(np.zeros(0, np.uint64))) == 0

    def test_a_pfn_beyond_the_last_has_no_memory(self) -> None:
        with self.guest() as domain:
            beyond = np.array([domain.info.p2m_size + 4096, _NOWHERE], np.uint64)
            assert ((domain.page_types(beyond) >> TYPE_SHIFT) == XTAB).all()

    def test_pages_come_in_the_order_they_are_asked_for(self) -> None:
        with self.guest() as domain:
            domain.pause()
            pfns, pages = self.memory(domain)
            part = np.concatenate((pfns[-500:][::-1], pfns[:500]))
            expected = np.concatenate((pages[-500:][::-1], pages[:500]))
            assert np.array_equal(_read(domain, part), expected)
            assert np.array_equal(_read(domain, part[::7]), expected[::7])
            assert len(_read(domain, part[:0])) == 0

    def test_a_page_that_is_not_there_is_said_so_and_costs_only_itself(self) -> None:
        with self.guest() as domain:
            domain.pause()
            pfns, pages = self.memory(domain)
            mixed = np.array([pfns[0], _NOWHERE, pfns[-1], _NOWHERE + 1], np.uint64)
            out = np.empty((4, domain.info.page_size), np.uint8)
            good = domain.read_pages(mixed, out)
            assert good.dtype == np.bool_
            assert good.tolist() == [True, False, True, False]
            assert np.array_equal(out[::2], pages[[0, -1]])

    def test_a_page_that_was_read_is_a_copy(self) -> None:
        with self.guest() as domain:
            domain.start_dirty_log()
            _pfns, pages = self.memory(domain)
            kept = pages.copy()
            self.wait_for_writes(domain)
            assert np.array_equal(pages, kept)

    # of the dirty log,

    def test_looking_at_the_log_leaves_it_and_cleaning_begins_anew(self) -> None:
        with self.guest() as domain:
            domain.start_dirty_log()
            seen = self.wait_for_writes(domain)
            assert seen.dtype == np.bool_
            assert seen.shape == (domain.info.p2m_size,)
            domain.pause()
            first = domain.read_dirty_log(clean=False)
            assert not np.any(seen & ~first), "looking took something away"
            kept = first.copy()
            first[:] = False  # the caller's own
            assert np.array_equal(domain.read_dirty_log(clean=True), kept)
            assert not domain.read_dirty_log(clean=True).any(), "cleaning left something"

    def test_all_is_clean_when_a_log_begins_or_begins_again(self) -> None:
        with self.guest() as domain:
            domain.start_dirty_log()
            self.wait_for_writes(domain)
            domain.pause()
            domain.start_dirty_log()
            assert not domain.read_dirty_log(clean=False).any()

    def test_without_a_log_there_is_none_to_read(self) -> None:
        with self.guest() as domain:
            domain.stop_dirty_log()
            for started in (False, True):
                if started:
                    domain.start_dirty_log()
                    domain.stop_dirty_log()
                with pytest.raises(XsaveError):
                    domain.read_dirty_log(clean=True)
            self.check_runs(domain)

    def test_who_follows_the_log_has_the_memory(self) -> None:
        """As pre-copy does: nothing that is written between two looks is lost."""
        with self.guest() as domain:
            follower = _Follower(domain)
            domain.start_dirty_log()
            follower.read(np.ones(domain.info.p2m_size, np.bool_))
            for _ in range(5):
                self.wait_for_writes(domain)
                follower.read(domain.read_dirty_log(clean=True))
            domain.pause()
            follower.read(domain.read_dirty_log(clean=True))
            assert not follower.late.any(), "a page of a paused guest cannot be read"
            pfns, pages = self.memory(domain)
            tracked = ~np.isin(pfns, self.written_by_the_host(domain))
            wrong = follower.differing(pfns[tracked], pages[tracked])
            assert not len(wrong), f"written past the log: pfns {wrong[:8].tolist()}"

    # of running and standing still,

    def test_a_paused_guest_stands_still_and_goes_on_when_it_is_resumed(self) -> None:
        with self.guest() as domain:
            domain.pause()
            domain.pause()
            pfns, pages = self.memory(domain)
            self.check_stands_still(domain)
            pfns_after, pages_after = self.memory(domain)
            assert np.array_equal(pfns, pfns_after)
            assert np.array_equal(pages, pages_after)
            domain.resume()
            domain.resume()
            self.check_runs(domain)

    def test_a_guest_is_slowed_and_put_back_or_it_is_said_that_it_cannot_be(self) -> None:
        with self.guest() as domain:
            answer = domain.throttle(0.5)
            assert isinstance(answer, bool)
            self.check_runs(domain)
            assert domain.throttle(1.0) is answer
            self.check_runs(domain)

    def test_a_fingerprint_is_the_same_until_the_guest_runs(self) -> None:
        with self.guest() as domain:
            domain.pause()
            if (first := domain.fingerprint()) is None:
                return
            assert first
            assert all(isinstance(part, str) for part in first)
            assert all(isinstance(digest, bytes) and digest for digest in first.values())
            assert dict(domain.fingerprint() or {}) == dict(first)
            domain.resume()
            self.check_runs(domain)
            domain.pause()
            assert dict(domain.fingerprint() or {}) != dict(first)

    def test_a_guest_that_ended_runs_no_more_and_may_be_ended_again(self) -> None:
        with self.empty() as domain:
            domain.destroy()
            domain.destroy()
            with pytest.raises(XsaveError):
                domain.resume()

    def test_a_locator_finds_this_very_guest_until_it_is_no_more(self) -> None:
        with self.empty() as domain:
            locator, info = domain.locator, domain.info
            if locator:
                found = self.backend.find(locator)
                assert found is not None
                assert found.info.name == domain.info.name
                found.close()
            else:  # it ends with this process
                with pytest.raises(UsageError):
                    self.backend.find("anything")
        if locator:
            assert self.backend.find(locator) is None
            with self.empty(info) as another:  # perhaps of its name
                assert self.backend.find(locator) is None
                assert another.locator != locator

    def test_a_locator_that_was_reserved_finds_nothing_until_the_guest_is_made(self) -> None:
        with self.guest() as source:
            info = source.info
        address, locator = self.backend.reserve(self.dest_address())
        if not locator:
            assert address == self.dest_address()
            return
        assert self.backend.find(locator) is None
        domain = self.backend.create(address, info)
        try:
            assert domain.locator == locator
        finally:
            domain.destroy()
            domain.close()

    # of its parts,

    def test_a_part_that_no_guest_has_is_none(self) -> None:
        with self.guest() as domain:
            assert domain.facet("test.no-such-part") is None
            with pytest.raises(XsaveError):
                domain.need_facet("test.no-such-part")

    def test_the_parts_of_a_guest_have_all_that_is_asked_of_them(self) -> None:
        with self.guest() as domain:
            for name, protocol in _PROTOCOLS.items():
                if (facet := domain.facet(name)) is not None:
                    assert not [one for one in _members(protocol) if not hasattr(facet, one)]
            is_pv = domain.info.guest_type is GuestType.X86_PV
            is_hvm = domain.info.guest_type is GuestType.X86_HVM
            assert (domain.facet("pv") is not None) == is_pv
            assert (domain.facet("hvm") is not None) == is_hvm

    def test_what_pv_and_hvm_guests_share_has_its_form(self) -> None:
        with self.guest() as domain:
            if (x86 := domain.facet("x86")) is None:
                return
            limits = (1 << 32, 1 << 32, 1 << 64, 1 << 32)
            values = x86.tsc_info()
            assert all(0 <= value < end for value, end in zip(values, limits, strict=True))
            assert len(x86.cpuid_policy()) % _LEAF_BYTES == 0
            assert len(x86.msr_policy()) % _MSR_BYTES == 0

    def test_frames_of_a_pv_guest_lead_to_its_pfns_and_back(self) -> None:
        with self.guest() as domain:
            if (pv := domain.facet("pv")) is None:
                return
            domain.pause()
            assert pv.guest_width in (4, 8)
            pfns, _pages = self.memory(domain)
            mfns = pv.p2m(pfns)
            assert mfns.dtype == np.uint64
            assert not np.any(mfns == _NO_FRAME)
            assert np.array_equal(pv.m2p(mfns), pfns)
            nowhere = np.array([_NOWHERE], np.uint64)
            assert pv.p2m(nowhere).tolist() == pv.m2p(nowhere).tolist() == [_NO_FRAME]
            per_page = domain.info.page_size // pv.guest_width
            assert len(pv.p2m_frame_pfns()) >= -(-domain.info.p2m_size // per_page)

    def test_vcpus_of_a_paused_pv_guest_have_their_state(self) -> None:
        with self.guest() as domain:
            if (pv := domain.facet("pv")) is None:
                return
            domain.pause()
            vcpus = list(pv.online_vcpus())
            assert vcpus
            assert set(vcpus) <= set(range(domain.info.nr_vcpus))
            for vcpu in vcpus:
                assert pv.vcpu_state(vcpu, "basic")
                states = [pv.vcpu_state(vcpu, kind) for kind in _VCPU_KINDS]
                assert all(isinstance(state, bytes) for state in states)
            assert len(pv.shared_info()) == 4096

    def test_a_paused_hvm_guest_has_its_context(self) -> None:
        with self.guest() as domain:
            if (hvm := domain.facet("hvm")) is None:
                return
            domain.pause()
            assert hvm.context()
            assert hvm.params()
            assert all(hvm.params().values())

    def test_a_stopped_device_model_has_its_state(self) -> None:
        with self.guest() as domain:
            if (model := domain.facet("device_model")) is None:
                return
            domain.pause()
            assert isinstance(model.emulator, int)
            assert model.state()
            assert isinstance(model.xenstore_data(), bytes)

    # of a domain to restore into,

    def test_a_new_domain_is_empty_and_stands_still(self) -> None:
        with self.guest() as source:
            info = source.info
        with self.empty(info) as domain:
            assert domain.info.guest_type is info.guest_type
            assert domain.info.page_size == info.page_size
            assert len(self.memory(domain)[0]) == 0

    def test_memory_is_given_once_and_holds_what_is_written(self) -> None:
        with self.empty() as domain:
            pfns = np.array([9, 7, 8, max(12, domain.info.p2m_size - 1)], np.uint64)
            pages = strategies.pages_of(range(4))
            domain.populate(pfns)
            domain.write_pages(pfns, pages)
            domain.populate(np.arange(7, 12, dtype=np.uint64))
            assert np.array_equal(_read(domain, pfns), pages)
            twice = np.array([8, 9, 8], np.uint64)
            domain.write_pages(twice, pages[[0, 1, 3]])
            assert np.array_equal(_read(domain, twice[1:]), pages[[1, 3]])
            domain.depopulate(pfns[:1])
            domain.populate(pfns[:1])
            domain.write_pages(pfns[:1], pages[:1])
            assert np.array_equal(_read(domain, pfns[:2]), pages[:2])

    def test_what_cannot_be_given_or_written_is_an_error_and_costs_nothing_else(self) -> None:
        with self.empty() as domain:
            pfn, page = np.array([5], np.uint64), strategies.pages_of([1])
            domain.populate(pfn)
            domain.write_pages(pfn, page)
            with pytest.raises(XsaveError):
                domain.populate(np.array([_NOWHERE], np.uint64))
            with pytest.raises(XsaveError):
                domain.write_pages(np.array([6], np.uint64), page)
            assert np.array_equal(_read(domain, pfn), page)

    def test_a_domain_that_is_given_up_leaves_room_for_another(self) -> None:
        with self.guest() as source:
            info = source.info
        for _ in range(2):
            with self.empty(info) as domain:
                pfns = np.arange(16, dtype=np.uint64)
                domain.populate(pfns)
                domain.write_pages(pfns, strategies.pages_of(range(16)))
        with self.empty(info) as domain:
            assert len(self.memory(domain)[0]) == 0

    # and of a guest that moves.

    def test_a_guest_that_moves_while_it_runs_arrives_as_it_left_and_runs_on(self) -> None:
        self.check_moved(self.move())

    def test_a_guest_that_is_paused_first_arrives_as_it_left_and_runs_on(self) -> None:
        self.check_moved(self.move(live=False))

    def check_moved(self, fingerprints: list[Any]) -> None:
        with closing(self.backend.open(self.dest_address())) as arrived:
            try:
                left, came = fingerprints
                if left is not None and came is not None:
                    unlike = {part for part in {*left, *came} if left.get(part) != came.get(part)}
                    assert not unlike
                self.check_runs(arrived)
            finally:
                arrived.destroy()

    def test_a_move_that_fails_leaves_the_guest_running_and_nothing_behind(self) -> None:
        address = self.source_address()
        domain = self.backend.open(address)
        try:
            info = domain.info
            for nr_events in (0, 3, 10**9):
                asked = iter(range(nr_events))
                with pytest.raises(CancelledError):
                    self.move(
                        source=address, at_rest=_refuse,
                        cancelled=lambda asked=asked: next(asked, None) is None,
                    )  # fmt: skip
                self.check_runs(domain)
                with self.empty(info) as left:
                    assert len(self.memory(left)[0]) == 0
        finally:
            self.put_away(domain)


class _Follower:
    """Memory as one has it who reads what the log names."""

    def __init__(self, domain: Domain) -> None:
        info = domain.info
        self._domain = domain
        self._pages = np.zeros((info.p2m_size, info.page_size), np.uint8)
        self._was_read = np.zeros(info.p2m_size, np.bool_)
        self.late = np.zeros(info.p2m_size, np.bool_)  # could not be read, to be read again

    def read(self, wanted: Flags) -> None:
        pfns = np.flatnonzero(wanted | self.late).astype(np.uint64)
        self.late[:] = False
        for start in range(0, len(pfns), _BATCH_PFNS):
            batch = pfns[start : start + _BATCH_PFNS]
            batch = batch[carries_page(self._domain.page_types(batch))]
            out = np.empty((len(batch), self._pages.shape[1]), np.uint8)
            good = self._domain.read_pages(batch, out)
            at = batch.astype(np.intp)
            self._pages[at[good]] = out[good]
            self._was_read[at] |= good
            self.late[at[~good]] = True

    def differing(self, pfns: Entries, pages: Pages) -> Entries:
        """A page that nobody was told of may be one that nobody wrote to: then it is as the
        host gives new memory, all bytes the same."""
        at = pfns.astype(np.intp)
        same = (self._pages[at] == pages).all(axis=1) & self._was_read[at]
        untouched = ~self._was_read[at] & (pages == pages[:, :1]).all(axis=1)
        wrong: Entries = pfns[~(same | untouched)]
        return wrong


def _refuse(_source: Domain | None, _dest: Domain | None) -> None:
    raise CancelledError("everything has arrived, and is not wanted")


def _read(domain: Domain, pfns: Entries) -> Pages:
    out = np.empty((len(pfns), domain.info.page_size), np.uint8)
    assert domain.read_pages(pfns, out).all()
    return out


def _batches(p2m_size: int) -> Iterator[Entries]:
    for start in range(0, p2m_size, _BATCH_PFNS):
        yield np.arange(start, min(start + _BATCH_PFNS, p2m_size), dtype=np.uint64)


def _members(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}
