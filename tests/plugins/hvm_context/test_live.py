"""Parameters and context go from one domain to another; shared pages begin empty."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.plugins.fake_domain import NO_FRAME, FakeDomain, FakeHvm, apply, bodies, move
from xsave import FieldError, GuestType, RecordHandler, XsaveError
from xsave_plugins.hvm_context import HvmContextHandler, HvmPageDataHandler, HvmParamsHandler
from xsave_plugins.hvm_context.params import PARAM_NAMES

PARAMS = HvmParamsHandler()
# As Xen's saver sends them, docs/formats/hvm.md.
ORDER = (1, 5, 6, 27, 28, 29, 37, 17, 19, 9, 12, 34, 32, 33, 36, 38)
SHARED = {1: 2, 5: 3, 6: 4, 17: 5}  # parameter to pfn


def domain(p2m_size: int = 16, *, populated: bool = True, **known: Any) -> FakeDomain:
    facets = {"hvm": FakeHvm(**known)}
    made = FakeDomain(GuestType.X86_HVM, p2m_size, populated=populated, facets=facets)
    made.memory[:] = 0xA5
    return made


def body(*pairs: tuple[int, int]) -> bytes:
    return struct.pack("<II", len(pairs), 0) + b"".join(struct.pack("<QQ", *p) for p in pairs)


def test_exactly_the_saved_parameters_are_sent_in_xens_order() -> None:
    every = {index: SHARED.get(index, 1000 + index) for index in PARAM_NAMES}
    dest = domain()
    assert move(PARAMS, domain(values=every), dest) == [body(*((i, every[i]) for i in ORDER))]
    assert dest.facets["hvm"].values == {index: every[index] for index in ORDER}


def test_zero_parameters_are_left_out() -> None:
    assert bodies(PARAMS, domain(values={1: 0, 12: 7})) == [body((12, 7))]
    assert bodies(PARAMS, domain()) == [body()]


def test_what_the_new_host_decides_is_not_applied() -> None:
    dest = domain(values={2: 77, 18: 78})
    apply(PARAMS, dest, body((2, 5), (4, 1), (18, 6), (12, 9)))
    assert dest.facets["hvm"].values == {2: 77, 18: 78, 12: 9}


def test_pages_shared_with_the_host_begin_empty_and_no_others() -> None:
    dest = domain()
    others = {27: 6, 28: 7, 29: 8, 32: 9, 34: 10}  # pfns and an address, left alone
    apply(PARAMS, dest, body(*{**SHARED, **others}.items()))
    empty = [pfn for pfn in range(16) if not dest.memory[pfn].any()]
    assert empty == sorted(SHARED.values())


def test_a_shared_page_that_did_not_come_gets_memory() -> None:
    dest = domain(populated=False)
    apply(PARAMS, dest, body((1, 2)))
    assert dest.frames[2] != NO_FRAME


def test_a_shared_page_that_is_none_is_no_page() -> None:
    dest = domain()
    apply(PARAMS, dest, body((1, 0)))
    assert dest.memory[0].all()
    with pytest.raises(FieldError, match="STORE_PFN: expected a pfn"):
        apply(PARAMS, dest, body((1, 1 << 52)))


def test_two_records_of_different_parameters_both_count() -> None:
    """As in images converted from the old format; a later checkpoint's replaces."""
    keys = [PARAMS.key(PARAMS.decode(memoryview(one))) for one in
            (body((1, 2), (5, 3)), body((17, 4)), body((5, 9), (1, 9)))]  # fmt: skip
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


@pytest.mark.parametrize("name", ["xen.hvm.context.hvm", "xen.hvm.context.pvh"])
def test_a_real_context_arrives_byte_for_byte(name: str, golden: Callable[[str], bytes]) -> None:
    source, dest = domain(records=golden(name)), domain()
    assert move(HvmContextHandler(), source, dest) == [golden(name)]
    assert dest.facets["hvm"].records == golden(name)


@pytest.mark.parametrize("name", ["xen.hvm.params.hvm", "xen.hvm.params.pvh"])
def test_a_real_guests_parameters_come_back_from_a_domain(
    name: str, golden: Callable[[str], bytes]
) -> None:
    middle = SparseDomain()
    apply(PARAMS, middle, golden(name))
    assert bodies(PARAMS, middle) == [golden(name)]


@pytest.mark.parametrize("handler", [PARAMS, HvmContextHandler()])
def test_a_domain_without_the_facet_has_none_and_takes_none(
    handler: RecordHandler[Any], golden: Callable[[str], bytes]
) -> None:
    bare = FakeDomain(GuestType.X86_HVM, 4)
    assert not bodies(handler, bare)
    with pytest.raises(XsaveError, match="no 'hvm' state"):
        apply(handler, bare, golden(f"{handler.name}.pvh"))


def test_memory_needs_no_change_between_hosts() -> None:
    pages = np.full((2, 4096), 0xA5, np.uint8)
    entries = np.array([1, 2], np.uint64)
    assert HvmPageDataHandler().normalise(domain(), entries, pages) is None
    HvmPageDataHandler().localise(domain(), entries, pages)
    HvmPageDataHandler().finish(domain(), entries[:0])
    assert (pages == 0xA5).all()


class SparseDomain(FakeDomain):
    """With pfns up to 4 GiB, of which nothing is kept."""

    def __init__(self) -> None:
        super().__init__(GuestType.X86_HVM, 0, facets={"hvm": FakeHvm()})

    def populate(self, pfns: Any) -> None: ...

    def write_pages(self, pfns: Any, pages: Any) -> None: ...
