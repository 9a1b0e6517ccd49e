"""The five tmem records: layouts, limits, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave import ALL_GUESTS, FieldError, Phase, RecordType, build_manager
from xsave.testing import HandlerSuite
from xsave_plugins import tmem
from xsave_plugins.tmem.client import TmemClientHandler
from xsave_plugins.tmem.invalidate import NR_HANDLES_MAX, TmemInvalidate, TmemInvalidateHandler
from xsave_plugins.tmem.pages import NR_PAGES_MAX, TmemPages, TmemPagesHandler
from xsave_plugins.tmem.pool import TmemPoolHandler
from xsave_plugins.tmem.settled import TmemSettledHandler

ONES = 0xFFFFFFFFFFFFFFFF
Handle = tuple[Sequence[int], int]


def client(abi: int = 1, pools: int = 16, flags: int = 0, weight: int = 0, cap: int = 0) -> bytes:
    return struct.pack("<5I", abi, pools, flags, weight, cap)


def pool(pool_id: int = 0, flags: int = 1, n_pages: int = 8, low: int = 0, high: int = 0) -> bytes:
    return struct.pack("<IIQQQ", pool_id, flags, n_pages, low, high)


def header(pool_id: int, count: int, words: int, kind: int = 0, reserved: int = 0) -> bytes:
    return struct.pack("<IIHHI", pool_id, count, words, kind, reserved)


def pages(handles: Sequence[Handle], pool_id: int = 0, kind: int = 0, reserved: int = 0) -> bytes:
    """Each page's first bytes hold its place in the record."""
    words = len(handles[0][0])
    return b"".join(
        (
            header(pool_id, len(handles), words, kind, reserved),
            *(struct.pack(f"<{words}Q", *oid) for oid, _ in handles),
            *(struct.pack("<I", index) for _, index in handles),
            *(struct.pack("<I4092x", place) for place in range(len(handles))),
        )
    )


def held(
    *pieces: bytes, codec: bytes = b"zlib", sizes: Sequence[int] = (), more: bytes = b""
) -> bytes:
    """Pages as their host held them, indexes 0, 1, 2 of one object."""
    count = len(pieces)
    return b"".join(
        (
            header(0, count, 1, 1),
            struct.pack(f"<{count}Q{count}I", *[5] * count, *range(count)),
            codec.ljust(16, b"\0"),
            struct.pack(f"<{count}I", *(sizes or map(len, pieces))),
            *pieces,
            more,
        )
    )


def void(handles: Sequence[Handle], pool_id: int = 0) -> bytes:
    words = len(handles[0][0])
    return b"".join(
        (
            header(pool_id, len(handles), words),
            *(struct.pack(f"<{words}Q", *oid) for oid, _ in handles),
            *(struct.pack("<I", index) for _, index in handles),
        )
    )


def void_objects(oids: Sequence[Sequence[int]], pool_id: int = 0) -> bytes:
    words = len(oids[0])
    packed = (struct.pack(f"<{words}Q", *oid) for oid in oids)
    return header(pool_id, len(oids), words, 1) + b"".join(packed)


class TestTmemClient(HandlerSuite):
    handler = TmemClientHandler()
    bodies = (client(), client(abi=0, pools=1, flags=3, weight=0xFFFFFFFE, cap=7))
    refused = (
        b"",
        client() + b"\0",
        client(abi=2),
        client(pools=0),
        client(pools=17),
        client(flags=4),
        client(weight=0xFFFFFFFF),
        client(cap=0xFFFFFFFF),
    )


class TestTmemPool(HandlerSuite):
    handler = TmemPoolHandler()
    bodies = (
        pool(),
        pool(15, 0x01000001, 1 << 40, 1, 2),
        pool(3, 0, 0),
        pool(4, 2, 0, ONES, ONES),
        pool(5, 0, 7),
    )
    refused = (
        b"",
        pool() + b"\0",
        pool(16),
        pool(flags=3),  # persistent and shared
        pool(flags=1 | 4),  # precompressed
        pool(flags=1 | 8),
        pool(flags=1 | 1 << 4),  # 8 KiB pages
        pool(flags=1 | 1 << 8),
        pool(flags=1 | 1 << 23),
        pool(flags=2, n_pages=1),
    )


def settled(pool_id: int = 1, nr_pages: int = 9, nr_valid: int = 7, reserved: int = 0) -> bytes:
    return struct.pack("<IIQQ", pool_id, reserved, nr_pages, nr_valid)


class TestTmemSettled(HandlerSuite):
    handler = TmemSettledHandler()
    bodies = (settled(), settled(15, 1 << 40, 0), settled(0, 3, 3))
    refused = (
        b"", settled() + b"\0", settled(16), settled(reserved=1), settled(nr_pages=6),
    )  # fmt: skip


class TestTmemPages(HandlerSuite):
    handler = TmemPagesHandler()
    max_examples = 60
    bodies = (
        pages([((1,), 0)]),
        pages([((1,), 7), ((ONES - 1,), 7), ((1,), 0xFFFFFFFF)], pool_id=15),
        # two words of ones and a zero: an object like any other
        pages([((ONES, ONES, 0), 0), ((0, 0, 0), 0), ((0, 0, 0), 1)]),
        held(b"x"),
        held(b"abc", bytes(4096), b"y" * 4095, codec=b"lzo1x-999-zzzzz"),
    )
    refused = (
        b"",
        header(0, 1, 3)[:-1],
        header(0, 0, 3),
        pages([((1,), 0)], pool_id=16),
        pages([((1, 2), 0)]),
        pages([((1,), 0)], kind=1),
        pages([((1,), 0)], kind=2),
        held(b"x", codec=b""),
        held(b"x", codec=b"Zlib"),
        held(b"x", codec=b"zl\0ib"),
        held(b"x", codec=b"sixteen-letters-"),
        held(b"x", b""),
        held(bytes(4097)),
        held(b"x", sizes=[2]),
        held(b"x", more=b"\0"),
        held(b"x")[:30],
        pages([((1,), 0)], reserved=1),
        pages([((1,), 0)]) + b"\0",
        pages([((1,), 0)])[:-1],
        pages([((ONES,), 0)]),
        pages([((1, 2, 3), 0), ((ONES, ONES, ONES), 0)]),
        pages([((1, 2, 3), 4), ((1, 2, 4), 4), ((1, 2, 3), 4)]),
        header(0, NR_PAGES_MAX + 1, 1) + bytes((NR_PAGES_MAX + 1) * (12 + 4096)),
        header(0, 0xFFFFFFFF, 3),
    )


class TestTmemInvalidate(HandlerSuite):
    handler = TmemInvalidateHandler()
    bodies = (
        void([((1,), 0)]),
        void([((1, 2, 3), 4), ((1, 2, 3), 4), ((5, 6, 7), 0)], pool_id=15),
        void_objects([(1,), (2,)]),
        void_objects([(1, 2, 3)]),
    )
    refused = (
        b"",
        header(0, 0, 3),
        void([((1,), 0)], pool_id=16),
        void([((1, 2), 0)]),
        void([((ONES,), 0)]),
        void_objects([(ONES, ONES, ONES)]),
        void([((1,), 0)])[:-1],
        void_objects([(1,)]) + b"\0",
        header(0, 1, 1, 2) + bytes(8),
        header(0, NR_HANDLES_MAX + 1, 1, 1) + bytes(8 * (NR_HANDLES_MAX + 1)),
    )


def test_the_largest_records_are_accepted() -> None:
    most = pages([((number,), 0) for number in range(NR_PAGES_MAX)])
    assert TmemPagesHandler().decode(memoryview(most)).contents.shape == (NR_PAGES_MAX, 4096)
    count = NR_HANDLES_MAX
    many = header(0, count, 3, 1) + bytes(24 * count)
    assert TmemInvalidateHandler().decode(memoryview(many)).oids.shape == (count, 3)


@pytest.mark.parametrize(("abi", "oid_words"), [(0, 1), (1, 3)])
def test_the_abi_version_says_how_wide_object_ids_are(abi: int, oid_words: int) -> None:
    assert TmemClientHandler().decode(memoryview(client(abi))).oid_words == oid_words


def test_client_and_pool_are_shown_with_named_flags() -> None:
    clients, pools = TmemClientHandler(), TmemPoolHandler()
    shown = clients.describe(clients.decode(memoryview(client(flags=2))), {})
    assert shown["flags"] == {"value": 2, "bits": {"compress": 0, "frozen": 1}}
    shown = pools.describe(pools.decode(memoryview(pool(3, 0x01000001, 5, 1, 2))), {})
    assert shown["flags"]["bits"]["persistent"] == 1
    assert shown["flags"]["bits"]["abi_version"] == 1
    assert shown["page_size"] == 4096
    assert shown["uuid"] == "00000000000000020000000000000001"


def test_pages_are_views_of_one_copy_in_the_order_of_the_record() -> None:
    handler = TmemPagesHandler()
    state = handler.decode(memoryview(pages([((1, 2, 3), 9), ((1, 2, 3), 8)])))
    assert state.oids.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert state.indexes.tolist() == [9, 8]
    assert state.contents[:, :4].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    assert not any(a.flags.writeable for a in (state.oids, state.indexes, state.contents))
    shown = handler.describe(state, {})["pages"]
    assert [(page["oid"], page["index"], page["is_zero"]) for page in shown] == [
        (["0x1", "0x2", "0x3"], 9, True), (["0x1", "0x2", "0x3"], 8, False),
    ]  # fmt: skip
    assert shown[1]["first_bytes"] == (b"\1" + bytes(63)).hex()


def test_pages_of_version_1_are_read_by_version_2() -> None:
    table = build_manager([tmem]).handler_table()
    for version in (1, 2):
        assert table.get(RecordType("xen.tmem.pages", version)) is not None
    assert table.get(RecordType("xen.tmem.pages", 3)) is None


def test_pages_as_held_are_shown_with_their_codec_and_sizes() -> None:
    handler = TmemPagesHandler()
    state = handler.decode(memoryview(held(b"ab", bytes(4096))))
    assert list(state.pieces()) == [b"ab", bytes(4096)]
    assert state.nr_compressed == 1
    shown = handler.describe(state, {})
    assert (shown["encoding"]["name"], shown["codec"]) == ("compressed", "zlib")
    assert [page["held_bytes"] for page in shown["pages"]] == [2, 4096]


def test_a_repeated_handle_is_named() -> None:
    body = pages([((5,), 0), ((7,), 1), ((5,), 1), ((7,), 1)])
    with pytest.raises(FieldError, match="got oid 0x7 index 1 again"):
        TmemPagesHandler().decode(memoryview(body))


def test_invalidations_keep_the_order_of_the_flushes_and_repetitions() -> None:
    handler = TmemInvalidateHandler()
    body = void([((2,), 1), ((1,), 1), ((2,), 1)])
    assert handler.describe(handler.decode(memoryview(body)), {}) == {
        "pool_id": 0,
        "pages": [
            {"oid": ["0x2"], "index": 1},
            {"oid": ["0x1"], "index": 1},
            {"oid": ["0x2"], "index": 1},
        ],
    }
    body = void_objects([(9,)], pool_id=2)
    assert handler.describe(handler.decode(memoryview(body)), {}) == {
        "pool_id": 2,
        "objects": [{"oid": ["0x9"]}],
    }


words_of_oids = st.integers(0, 2) | st.integers(0, ONES - 1)
handles = st.sampled_from([1, 3]).flatmap(
    lambda words: st.lists(
        st.tuples(
            st.tuples(*[words_of_oids] * words), st.integers(0, 2) | st.integers(0, 0xFFFFFFFF)
        ),
        min_size=1,
        max_size=9,
    )
)


@settings(max_examples=80, deadline=None)
@given(handles, st.integers(0, 15))
def test_arrays_of_any_byte_order_and_layout_make_the_same_body(
    named: list[Handle], pool_id: int
) -> None:
    oids = np.array([oid for oid, _ in named], ">u8", order="F")
    indexes = np.repeat(np.array([index for _, index in named], ">u4"), 2)[::2]
    contents = np.zeros((len(named), 4096), np.uint8)
    contents[:, 0] = range(len(named))
    made = b"".join(TmemPagesHandler().encode(TmemPages(pool_id, oids, indexes, contents)))
    assert made == pages(named, pool_id)
    made = b"".join(TmemInvalidateHandler().encode(TmemInvalidate(pool_id, oids, indexes)))
    assert made == void(named, pool_id)
    made = b"".join(TmemInvalidateHandler().encode(TmemInvalidate(pool_id, oids, None)))
    assert made == void_objects([oid for oid, _ in named], pool_id)


@settings(max_examples=80, deadline=None)
@given(handles)
def test_pages_are_refused_exactly_if_a_handle_comes_twice(named: list[Handle]) -> None:
    handler, body = TmemPagesHandler(), pages(named)
    if len(set(named)) == len(named):
        assert b"".join(handler.encode(handler.decode(memoryview(body)))) == body
    else:
        with pytest.raises(FieldError, match=r"^handles"):
            handler.decode(memoryview(body))


def test_records_stand_in_the_order_that_restoring_needs() -> None:
    manager = build_manager([tmem])
    assert manager.record_order() == [
        "xen.tmem.client", "xen.tmem.pool", "xen.tmem.pages", "xen.tmem.invalidate",
        "xen.tmem.settled",
    ]  # fmt: skip
    assert tmem.PLUGIN.needs == {"xen"}
    for name in manager.record_order():
        handler = manager.handlers.find(name)
        assert handler.mandatory
        assert handler.guest_types == ALL_GUESTS
    assert manager.handlers.find("xen.tmem.pool").phase is Phase.START_OF_STREAM
    assert manager.handlers.find("xen.tmem.invalidate").phase is Phase.MEMORY
