from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.plugins.xen_host.fake_xen import INVALID, FakeGuest, FakeXen
from xsave import SourceError
from xsave_plugins.xen_host.control import Machine
from xsave_plugins.xen_host.frame_maps import M2p, find_p2m, p2m_generation
from xsave_plugins.xen_host.hypercalls import Hypercalls
from xsave_plugins.xen_host.libraries import Libraries
from xsave_plugins.xen_host.memory import ForeignMemory

ADDRESS = 0xFFFF_8000_4000_0000  # 1 GiB into an L3 entry: not at the start of any table
NR_PFNS = 700  # two leaves of 512 entries


def words(**values: int) -> bytearray:
    """A page of 512 words, those by number that are given: ``w3=...``."""
    page = bytearray(4096)
    for name, value in values.items():
        struct.pack_into("<Q", page, 8 * int(name[1:]), value)
    return page


def shared_info(*, size: int = NR_PFNS, tree: int = 0, cr3: int = 0, generation: int = 2) -> bytes:
    page = bytearray(4096)
    struct.pack_into("<QQ", page, 3088, size, tree)
    struct.pack_into("<QQQ", page, 3112, cr3, ADDRESS, generation)
    return bytes(page)


def linear_guest() -> FakeGuest:
    """A p2m at ADDRESS: leaves at mfns 0x21 and 0x22."""
    l4, l3, l2 = ADDRESS >> 39 & 511, ADDRESS >> 30 & 511, ADDRESS >> 21 & 511
    return FakeGuest(
        is_hvm=False,
        frames={
            0x10: words(**{f"w{l4}": 0x11067}),
            0x11: words(**{f"w{l3}": 0x12067}),
            0x12: words(**{f"w{l2}": 0x13067}),
            0x13: words(w0=0x8000_0000_0002_1063, w1=0x8000_0000_0002_2063),
            0x21: bytearray(4096),
            0x22: bytearray(4096),
        },
    )


def memory(xen: FakeXen) -> ForeignMemory:
    return ForeignMemory(Libraries(xen, xen))


def test_a_linear_p2m_is_walked_from_its_root() -> None:
    found = find_p2m(memory(FakeXen(linear_guest())), 7, 8, shared_info(cr3=0x10000), 0x3FF)
    assert found.leaf_mfns.tolist() == [0x21, 0x22]
    assert (found.max_pfn, found.generation, found.width) == (NR_PFNS - 1, 2, 8)


def test_a_tree_is_walked_from_its_top() -> None:
    guest = FakeGuest(is_hvm=False, frames={0x30: words(w0=0x31), 0x31: words(w0=0x21, w1=0x22)})
    found = find_p2m(memory(FakeXen(guest)), 7, 8, shared_info(tree=0x30), 0x3FF)
    assert found.leaf_mfns.tolist() == [0x21, 0x22]
    assert found.max_pfn == NR_PFNS - 1


def test_the_same_page_again_and_again_at_the_end_is_left_out() -> None:
    """Of a tree for three times 512 * 512 pfns, the last two parts are the same."""
    top = words(w0=0x31, w1=0x32, w2=0x32)
    guest = FakeGuest(
        is_hvm=False,
        frames={0x30: top, **{mfn: bytearray(struct.pack("<512Q", *[0x21] * 512))
                              for mfn in (0x31, 0x32)}},
    )  # fmt: skip
    info = shared_info(tree=0x30, size=3 * 512 * 512)
    found = find_p2m(memory(FakeXen(guest)), 7, 8, info, 0x3FF)
    assert found.max_pfn == 2 * 512 * 512 - 1
    assert len(found.leaf_mfns) == 2 * 512


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (shared_info(size=0), "says that it has 0 pfns"),
        (shared_info(size=1 << 40), "says that it has 1099511627776 pfns"),
        (shared_info(), "keeps no p2m"),
        (shared_info(tree=0x999), "there is no mfn 0x999 on this host"),
        (shared_info(tree=0x77), "mfn 0x77 is not the guest's"),
        (shared_info(tree=0x40), "there is no mfn 0x0 on this host"),
        (shared_info(cr3=0x20_0000_0000), "there is no mfn 0x2000000 on this host"),
    ],
)
def test_what_makes_no_sense_is_told(info: bytes, says: str) -> None:
    guest = FakeGuest(is_hvm=False, frames={0x40: bytearray(4096)})
    with pytest.raises(SourceError, match=says):
        find_p2m(memory(FakeXen(guest)), 7, 8, info, 0x3FF)


def test_a_p2m_beyond_the_end_of_addresses_is_refused() -> None:
    info = bytearray(shared_info(cr3=0x10000))
    struct.pack_into("<Q", info, 3120, (1 << 48) - 4096)
    with pytest.raises(SourceError, match="cannot begin at address"):
        find_p2m(memory(FakeXen(linear_guest())), 7, 8, bytes(info), 0x3FF)


def test_the_generation_is_read_where_it_stands() -> None:
    assert p2m_generation(shared_info(generation=9), 8) == 9


def test_xens_map_answers_for_what_it_has_and_never_looks_into_its_holes() -> None:
    xen = FakeXen()
    xen.machine = {0x10: 5, 0x3FF: 6}
    m2p = M2p(Machine(Hypercalls(Libraries(xen, xen))), memory(xen))
    asked = np.array([0x10, 0x11, 0x3FF, 0x400, 0x4_0000, INVALID], np.uint64)
    assert m2p.pfns(asked).tolist() == [5, INVALID, 6, INVALID, INVALID, INVALID]
    m2p.close()
    assert not xen.mappings
