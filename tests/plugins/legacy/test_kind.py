"""Told apart without a magic: by word size, by kind of guest, and from everything else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.legacy import build as o
from tests.plugins.xen_stream import build as b
from xsave import GuestType
from xsave_plugins.legacy.kind import kind_of

PV, HVM = GuestType.X86_PV, GuestType.X86_HVM


def found(data: bytes) -> tuple[int, GuestType] | None:
    kind = kind_of(data[:4096])
    return None if kind is None else (kind.word_size, kind.guest_type)


@pytest.mark.parametrize("w", [4, 8])
def test_the_four_kinds_are_told_apart(w: int) -> None:
    assert found(o.pv(w)) == (w, PV)
    assert found(o.hvm(w)) == (w, HVM)


@pytest.mark.parametrize("w", [4, 8])
@pytest.mark.parametrize(
    "chunk",
    [
        o.param(o.IDENT_PT, 1 << 32), o.vcpu_info(70, [0, 69]), o.chunk(o.LAST_CHECKPOINT),
        o.tmem([o.Pool(0, n_pages=1)]), o.tsc_info(),
    ],
    ids=["param", "vcpus", "mark", "tmem", "tsc"],
)  # fmt: skip
def test_an_hvm_guest_is_known_by_whatever_chunk_comes_first(w: int, chunk: bytes) -> None:
    assert found(o.hvm_head(w) + chunk + o.hvm_body(w)) == (w, HVM)
    assert found(o.hvm_head(w) + o.toolstack(w, o.PHYSMAP) + o.hvm_body(w)) == (w, HVM)


@pytest.mark.parametrize("w", [4, 8])
def test_a_whole_batch_of_a_large_guest_is_looked_at_as_far_as_it_is_there(w: int) -> None:
    head = o.words([1 << 20], w) + o.batch(w, [(0, pfn) for pfn in range(1024)])
    assert found(head) == (w, HVM)
    for wrong in (5, 1, 9):  # a reserved type, and page tables, which no HVM guest has
        entries = [(wrong if pfn == 100 else 0, pfn) for pfn in range(1024)]
        assert found(o.words([1 << 20], w) + o.batch(w, entries)) is None


def test_an_hvm_guests_verify_mark_is_not_taken_for_extended_info() -> None:
    """-1 and then bytes of ones: the length of the blocks that would follow is no such."""
    head = o.words([1 << 20], 8) + o.chunk(o.VERIFY) + b"\xff" * 4
    assert found(head + b"\xff" * 100) is None


def test_before_extended_info_the_list_of_p2m_pages_is_recognised() -> None:
    frames = o.words([600], 8) + o.words([3, 4], 8)
    assert found(frames + o.batch(8, [(0, 3)], [b.page(1)])) == (8, PV)
    many = o.words([3000], 4) + o.words([2001, 2002, 2003], 4)
    assert found(many + o.batch(4, [(0, 3)], [b.page(1)])) == (4, PV)
    assert found(frames + o.chunk(-30)) is None
    assert found(o.words([600], 8) + o.words([3, 3], 8) + bytes(64)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\7", bytes(4096), b"\xff" * 4096, b"Xen saved domain, xl format\n \0 \r" + bytes(99),
        b"\x1f\x8b\x08\0" + bytes(range(256)), b"QEVM\0\0\0\3" + bytes(range(1, 200)),
        b"\x7fELF\2\1\1\0" + bytes(56), b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", b"PK\3\4\x14\0\6\0" * 9,
        b"\x01\0\0\0\x18\0\0\0\x86\x12\x38\x54" + bytes(20), b"#!/bin/sh\nexit 0\n" * 9,
        b"\0\0\0\x18ftypmp42\0\0\0\0" * 8, bytes(range(256)) * 16,
    ],
)  # fmt: skip
def test_other_files_are_not_taken_for_one(data: bytes) -> None:
    assert found(data) is None


def test_of_random_bytes_hardly_any_look_like_one() -> None:
    """Even where the size of a p2m is a possible one."""
    numbers = random.Random(6)
    heads = [numbers.randrange(1, 1 << 20).to_bytes(4, "little") for _ in range(4000)]
    taken = [head for head in heads if found(head + numbers.randbytes(4092))]
    assert not taken
    with_zeroes = [head + bytes(4) + numbers.randbytes(4088) for head in heads]
    assert not [data for data in with_zeroes if found(data)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\7\0\0\0", b"\7\0\0\0\0\0\0\0"]))
def test_any_bytes_can_be_looked_at(data: bytes, head: bytes) -> None:
    kind_of(head + data)
