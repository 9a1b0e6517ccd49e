"""The backend suite passes a small backend that keeps the contract, and catches what does not."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.core import toy
from tests.core.testing.test_suites import failing
from xsave import (
    Backend,
    Decision,
    Domain,
    DomainInfo,
    Entries,
    GuestType,
    Pages,
    PluginInfo,
    PluginManager,
    PrecopyPolicy,
    PrecopyStats,
    Ruling,
    UsageError,
    XsaveError,
    build_manager,
    hookimpl,
)
from xsave.testing import BackendSuite

ABSENT = np.uint64(0xF << 60)
NR_PFNS = 400
PAGE_BYTES = 4096


class Machine:
    """A guest that counts, in one page after the other; every seventh pfn has no memory."""

    serials = itertools.count()

    def __init__(self, *, booted: bool) -> None:
        self.serial = next(self.serials)
        self.memory = np.zeros((NR_PFNS, PAGE_BYTES), np.uint8)
        self.backed = np.full(NR_PFNS, booted)
        self.log: Any = None
        self.is_running, self.is_alive = booted, True
        if booted:
            self.backed[::7] = False
            self.memory[self.backed, 0] = np.arange(1, self.backed.sum() + 1) & 255

    def step(self, share: float = 1.0) -> None:
        if not self.is_running:
            return
        count = int.from_bytes(self.memory[1, :8].tobytes(), "little") + 1
        for pfn in (1, 2 + count * 7 % (NR_PFNS - 7) // 7 * 7):
            self.memory[pfn, :8] = np.frombuffer(count.to_bytes(8, "little"), np.uint8)
            if self.log is not None:
                self.log[pfn] = True


class Counting(Domain):
    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.info = DomainInfo(name, GuestType.UNKNOWN, NR_PFNS, nr_vcpus=1)

    @property
    def locator(self) -> str:
        return str(self.machine.serial)

    def pause(self) -> None:
        self.machine.is_running = False

    def resume(self) -> None:
        if not self.machine.is_alive:
            raise XsaveError("it is no more")
        self.machine.is_running = True

    def destroy(self) -> None:
        self.machine.is_running = self.machine.is_alive = False

    def _backed(self, pfns: Entries) -> Any:
        within = np.minimum(pfns, NR_PFNS - 1).astype(np.intp)
        return (pfns < NR_PFNS) & self.machine.backed[within]

    def page_types(self, pfns: Entries) -> Entries:
        return np.where(self._backed(pfns), pfns, pfns | ABSENT)

    def read_pages(self, pfns: Entries, out: Pages) -> Any:
        good = self._backed(pfns)
        out[good] = self.machine.memory[pfns[good].astype(np.intp)]
        self.machine.step()
        return good

    def populate(self, pfns: Entries) -> None:
        if (pfns >= NR_PFNS).any():
            raise XsaveError("there is not so much memory")
        at = pfns.astype(np.intp)
        self.machine.memory[at[~self.machine.backed[at]]] = 0
        self.machine.backed[at] = True

    def depopulate(self, pfns: Entries) -> None:
        self.machine.backed[pfns.astype(np.intp)] = False

    def write_pages(self, pfns: Entries, pages: Pages) -> None:
        if not self._backed(pfns).all():
            raise XsaveError("no memory there")
        for pfn, page in zip(pfns.tolist(), pages, strict=True):
            self.machine.memory[pfn] = page

    def start_dirty_log(self) -> None:
        self.machine.log = np.zeros(NR_PFNS, np.bool_)

    def read_dirty_log(self, *, clean: bool) -> Any:
        if self.machine.log is None:
            raise XsaveError("there is no log")
        found = self.machine.log.copy()
        if clean:
            self.machine.log[:] = False
        return found

    def stop_dirty_log(self) -> None:
        self.machine.log = None

    def fingerprint(self) -> Mapping[str, bytes] | None:
        held = self.machine.memory * self.machine.backed[:, None]
        return {"memory": hashlib.sha256(held.tobytes()).digest()}

    def facet(self, name: str) -> Any:
        return None

    def close(self) -> None:
        pass


class Counters(Backend):
    """:ivar machines: by address."""

    name = "counters"
    summary = "guests that count"
    domain: Callable[[Machine, str], Domain] = Counting

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}

    def open(self, address: str) -> Domain:
        if not address.isalnum():
            raise UsageError(f"{address!r} is no name")
        if address not in self.machines or not self.machines[address].is_alive:
            self.machines[address] = Machine(booted=True)
        return type(self).domain(self.machines[address], address)

    def create(self, address: str, info: DomainInfo) -> Domain:
        self.machines[address] = Machine(booted=False)
        return type(self).domain(self.machines[address], address)

    def find(self, locator: str) -> Domain | None:
        for name, machine in self.machines.items():
            domain = type(self).domain(machine, name)
            if machine.is_alive and domain.locator == locator:
                return domain
        return super().find(locator) if locator == "anything" else None


class Twice(PrecopyPolicy):
    name = "fixed"  # the pipeline's default

    def configure(self, options: Mapping[str, str]) -> PrecopyPolicy:
        return self

    def decide(self, stats: PrecopyStats) -> Ruling:
        done = len(stats.iterations) > 1
        return Ruling(Decision.STOP_AND_COPY if done else Decision.CONTINUE, "two are enough")


def plugin() -> ModuleType:
    module: Any = ModuleType("counting")
    module.PLUGIN = PluginInfo("counting", "memory of guests that count", (1, 1))

    @hookimpl
    def xsave_register_handlers(register: Any) -> None:
        register(toy.Pages())

    @hookimpl
    def xsave_register_formats(register: Any) -> None:
        register(toy.Toy())

    @hookimpl
    def xsave_register_policies(register: Any) -> None:
        register(Twice())

    @hookimpl
    def xsave_register_backends(register: Any) -> None:
        register(Counters())

    module.xsave_register_handlers = xsave_register_handlers
    module.xsave_register_formats = xsave_register_formats
    module.xsave_register_policies = xsave_register_policies
    module.xsave_register_backends = xsave_register_backends
    return module


class CountersSuite(BackendSuite):
    bad_addresses = ("", "?")
    patience = 20

    def source_address(self) -> str:
        return "here"

    def dest_address(self) -> str:
        return "there"

    def let_it_run(self, domain: Domain) -> None:
        guest: Any = domain
        guest.machine.step()

    def make_manager(self) -> PluginManager:
        manager = build_manager([plugin()])
        manager.backends.drop("counting")
        manager.backends.add(self.backend, manager.plugins[0].owner)
        return manager

    def move(self, **options: Any) -> list[Any]:
        return super().move(to="toy", **options)


class TestCounters(CountersSuite):
    backend = Counters()


def test_the_installed_backend_gives_way_to_the_one_under_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "xsave.testing.backend_suite.build_manager", lambda: build_manager([plugin()])
    )
    suite = TestCounters()
    manager = BackendSuite.make_manager(suite)
    assert manager.backends.find("counters") is suite.backend
    assert manager.policies.names() == ["fixed"]


# What is broken, and which promise shows it.


class CleansWhenItLooks(Counting):
    def read_dirty_log(self, *, clean: bool) -> Any:
        return super().read_dirty_log(clean=True)


class NeverCleans(Counting):
    def read_dirty_log(self, *, clean: bool) -> Any:
        return super().read_dirty_log(clean=False)


class CleansTooLate(Counting):
    """What is written between the look and the cleaning is lost."""

    def read_dirty_log(self, *, clean: bool) -> Any:
        found = super().read_dirty_log(clean=False)
        self.machine.step()
        if clean:
            self.machine.log[:] = False
        return found


class HandsOutItsLog(Counting):
    def read_dirty_log(self, *, clean: bool) -> Any:
        found = super().read_dirty_log(clean=clean)
        return found if clean else self.machine.log


class LogsOn(Counting):
    def start_dirty_log(self) -> None:
        if self.machine.log is None:
            super().start_dirty_log()


class LogsAlways(Counting):
    def stop_dirty_log(self) -> None:
        self.machine.log = np.zeros(NR_PFNS, np.bool_)


class LogsNothing(Counting):
    def start_dirty_log(self) -> None:
        super().start_dirty_log()
        log: Any = type("Deaf", (np.ndarray,), {"__setitem__": lambda *_: None})
        self.machine.log = self.machine.log.view(log)


class ClaimsEverything(Counting):
    def read_pages(self, pfns: Entries, out: Pages) -> Any:
        return np.ones_like(super().read_pages(pfns, out))


class Sorts(Counting):
    def read_pages(self, pfns: Entries, out: Pages) -> Any:
        return super().read_pages(np.sort(pfns), out)


class TypesAsBytes(Counting):
    def page_types(self, pfns: Entries) -> Entries:
        return super().page_types(pfns).astype(np.int64)  # type: ignore[return-value]  # the mistake


class HasTables(Counting):
    """Of a kind of guest that has none that its host knows."""

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(machine, name)
        self.info = DomainInfo(name, GuestType.X86_HVM, NR_PFNS, nr_vcpus=1)

    def page_types(self, pfns: Entries) -> Entries:
        types = super().page_types(pfns)
        types[pfns == 2] |= np.uint64(4 << 60)
        return types


class ClearsAgain(Counting):
    def populate(self, pfns: Entries) -> None:
        super().populate(pfns)
        self.machine.memory[pfns.astype(np.intp)] = 0


class WritesAnywhere(Counting):
    def write_pages(self, pfns: Entries, pages: Pages) -> None:
        self.machine.memory[pfns.astype(np.intp)] = pages


class LosesALittle(Counting):
    def write_pages(self, pfns: Entries, pages: Pages) -> None:
        super().write_pages(pfns, pages)
        self.machine.memory[1, 4000] ^= 1


class NeverStops(Counting):
    def pause(self) -> None:
        pass


class StaysDown(Counting):
    def resume(self) -> None:
        if not self.machine.is_alive:
            super().resume()


class Undead(Counting):
    def resume(self) -> None:
        self.machine.is_running = True


class EndsWhenClosed(Counting):
    def close(self) -> None:
        self.destroy()


class AlwaysAnother(Counting):
    serial = itertools.count()

    def fingerprint(self) -> Mapping[str, bytes] | None:
        return {"memory": next(self.serial).to_bytes(8, "little")}


class AlwaysTheSame(Counting):
    def fingerprint(self) -> Mapping[str, bytes] | None:
        return {"memory": b"fine"}


class EndsWithTheProcess(Counting):
    locator = ""


class SlowsForGood(Counting):
    def throttle(self, share: float) -> bool:
        self.machine.step = lambda: None  # type: ignore[assignment,method-assign]  # it stands
        return True


class HasAnything(Counting):
    def facet(self, name: str) -> Any:
        return object()


class GoesByItsName(Counting):
    @property
    def locator(self) -> str:
        return self.info.name


class Nameless(Counting):
    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(machine, "")


def suite_of(domain: type[Domain]) -> BackendSuite:
    made = type("Broken", (Counters,), {"domain": domain})

    class Suite(CountersSuite):
        backend = made()

    return Suite()


@pytest.mark.parametrize(
    ("domain", "caught"),
    [
        (Counting, ""),
        (CleansWhenItLooks, "looking_at_the_log_leaves_it_and_cleaning_begins_anew"),
        (NeverCleans, "looking_at_the_log_leaves_it_and_cleaning_begins_anew"),
        (CleansTooLate, "who_follows_the_log_has_the_memory"),
        (HandsOutItsLog, "looking_at_the_log_leaves_it_and_cleaning_begins_anew"),
        (LogsOn, "all_is_clean_when_a_log_begins_or_begins_again"),
        (LogsAlways, "without_a_log_there_is_none_to_read"),
        (LogsNothing, "who_follows_the_log_has_the_memory"),
        (ClaimsEverything, "a_page_that_is_not_there_is_said_so_and_costs_only_itself"),
        (Sorts, "pages_come_in_the_order_they_are_asked_for"),
        (TypesAsBytes, "every_pfn_has_a_type"),
        (HasTables, "every_pfn_has_a_type"),
        (ClearsAgain, "memory_is_given_once_and_holds_what_is_written"),
        (WritesAnywhere, "what_cannot_be_given_or_written_is_an_error_and_costs_nothing_else"),
        (LosesALittle, "a_guest_that_moves_while_it_runs_arrives_as_it_left_and_runs_on"),
        (NeverStops, "a_paused_guest_stands_still_and_goes_on_when_it_is_resumed"),
        (StaysDown, "a_paused_guest_stands_still_and_goes_on_when_it_is_resumed"),
        (StaysDown, "a_move_that_fails_leaves_the_guest_running_and_nothing_behind"),
        (Undead, "a_guest_that_ended_runs_no_more_and_may_be_ended_again"),
        (EndsWhenClosed, "a_guest_is_found_again_and_goes_on_when_that_is_closed"),
        (AlwaysAnother, "a_fingerprint_is_the_same_until_the_guest_runs"),
        (AlwaysTheSame, "a_fingerprint_is_the_same_until_the_guest_runs"),
        (SlowsForGood, "a_guest_is_slowed_and_put_back_or_it_is_said_that_it_cannot_be"),
        (HasAnything, "a_part_that_no_guest_has_is_none"),
        (HasAnything, "the_parts_of_a_guest_have_all_that_is_asked_of_them"),
        (GoesByItsName, "a_locator_finds_this_very_guest_until_it_is_no_more"),
        (EndsWithTheProcess, ""),
        (Nameless, "what_is_known_of_a_guest_is_whole"),
    ],
)
def test_a_backend_that_breaks_a_promise_is_caught(domain: type[Domain], caught: str) -> None:
    found = failing(suite_of(domain))
    assert bool(found) == bool(caught)
    assert not caught or caught in found


class AcceptsAnything(Counters):
    def open(self, address: str) -> Domain:
        return super().open("here")


class RemembersTheDead(Counters):
    def create(self, address: str, info: DomainInfo) -> Domain:
        made = super().create(address, info)
        made.populate(np.array([3], np.uint64))
        return made


class AMouthful(Counters):
    name = "Counters Ltd."


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (AcceptsAnything, "an_address_that_makes_no_sense_is_a_usage_error"),
        (RemembersTheDead, "a_new_domain_is_empty_and_stands_still"),
        (RemembersTheDead, "a_domain_that_is_given_up_leaves_room_for_another"),
        (AMouthful, "identity_is_complete"),
    ],
)
def test_a_broken_address_book_is_caught(broken: type[Counters], caught: str) -> None:
    class Suite(CountersSuite):
        backend = broken()

    assert caught in failing(Suite())


def test_a_suite_without_a_guest_says_what_to_define() -> None:
    class Suite(BackendSuite):
        backend = Counters()

    with pytest.raises(AssertionError, match="define `source_address`"):
        Suite().test_what_is_known_of_a_guest_is_whole()
    with pytest.raises(AssertionError, match="define `dest_address`"):
        Suite().dest_address()
