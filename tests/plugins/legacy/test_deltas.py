"""Compressed rounds: pages as changes of what was sent, with bounded memory."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from tests.plugins.legacy import build as o
from tests.plugins.legacy.streams import read
from tests.plugins.xen_stream import build as b
from xsave import PageBatch, PageMode, RecordError
from xsave_plugins.legacy import deltas

WHOLE, SAME = b"\x80", b"\0"


def data_chunk(data: bytes, w: int = 8) -> bytes:
    return o.chunk(o.COMPRESSED_DATA, o.words([len(data)], w) + data)


def remus(*rounds: bytes, w: int = 8) -> bytes:
    """The first round says that those after it are compressed."""
    first = o.pv_pages(w) + o.vcpu_info() + o.chunk(o.ENABLE_COMPRESSION) + o.chunk(o.END)
    tail = o.chunk(o.END) + o.pv_tail(w)
    return o.pv_head(w) + first + o.pv_tail(w) + b"".join(one + tail for one in rounds)


def pages(data: bytes, nr_before: int = 2) -> list[tuple[list[int], bytes]]:
    """Entries and contents of each batch after the first round."""
    found = [event for event in read(data) if isinstance(event, PageBatch)]
    return [
        (batch.entries.tolist(), b"" if batch.pages is None else batch.pages.tobytes())
        for batch in found[nr_before:]
    ]


def runs(old: bytes, new: bytes) -> bytes:
    """As Xen's saver describes a change."""
    before, after = (np.frombuffer(page, "<u4") for page in (old, new))
    out, at = b"", 0
    while at < 1024:
        changed = before[at] != after[at]
        end = at
        while end < 1024 and end - at < 127 and (before[end] != after[end]) == changed:
            end += 1
        out += bytes([(end - at) | (0 if changed else 0x80)])
        out += after[at:end].tobytes() if changed else b""
        at = end
    return SAME if old == new else out


@pytest.mark.parametrize("w", [4, 8])
def test_whole_unchanged_and_changed_pages(w: int) -> None:
    new = bytearray(b.page(4))
    new[8:12], new[4092:] = b"word", b"last"
    data = remus(
        o.batch(w, [(0, 4), (0xF, 3), (0, 6)])
        + data_chunk(WHOLE + b.page(4) + WHOLE + b.page(6), w),
        o.batch(w, [(0, 4)]) + data_chunk(runs(b.page(4), bytes(new)), w),
        o.batch(w, [(0, 4), (0, 6)]) + data_chunk(SAME + SAME, w),
        w=w,
    )
    assert pages(data) == [
        ([4, 0xF << 60 | 3, 6], b.page(4) + b.page(6)),
        ([4], bytes(new)),
        ([4, 6], bytes(new) + b.page(6)),
    ]


def test_any_change_comes_back() -> None:
    numbers = random.Random(4)
    old = numbers.randbytes(4096)
    for nr_words in (1, 5, 300, 1024):
        new = bytearray(old)
        for _ in range(nr_words):
            at = 4 * numbers.randrange(1024)
            new[at : at + 4] = numbers.randbytes(4)
        rounds = [WHOLE + old, runs(old, bytes(new))]
        data = remus(*(o.batch(8, [(0, 6)]) + data_chunk(one) for one in rounds))
        assert pages(data)[1] == ([6], bytes(new))


def test_data_may_be_cut_anywhere_into_chunks_and_follow_several_batches() -> None:
    changed = runs(b.page(4), b.page(5))
    parts = WHOLE + b.page(4) + WHOLE + b.page(6) + changed
    for cut in (1, 5, 4096, 4097, 4098, 8193, 8194, 8195, len(parts) - 1):
        announced = o.batch(8, [(0, 4), (0, 6)]) + o.batch(8, [(0, 4)])
        data = remus(announced + data_chunk(parts[:cut]) + data_chunk(parts[cut:]))
        assert pages(data) == [([4, 6], b.page(4) + b.page(6)), ([4], b.page(5))]


def test_page_tables_come_whole_and_are_no_base() -> None:
    table = [(b.L4TAB_PINNED, 2)]
    once = o.batch(8, table) + data_chunk(WHOLE + b.page(3))
    assert pages(remus(once, once))[1] == ([b.L4TAB_PINNED << 60 | 2], b.page(3))
    with pytest.raises(RecordError, match=r"pfn 0x2: expected a whole page first"):
        read(remus(once, o.batch(8, table) + data_chunk(SAME)))


def test_batches_without_pages_come_at_their_place() -> None:
    data = remus(
        o.batch(8, [(0xF, 3)]) + o.batch(8, [(0, 4)]) + o.batch(8, [(0xF, 3), (0xD, 5)])
        + data_chunk(WHOLE + b.page(4))
    )  # fmt: skip
    assert [entries for entries, _ in pages(data)] == [
        [0xF << 60 | 3], [4], [0xF << 60 | 3, 0xD << 60 | 5],
    ]  # fmt: skip


def test_skipping_pages_passes_over_the_data_and_checking_does_not() -> None:
    bad = remus(o.batch(8, [(0, 4)]) + data_chunk(SAME))
    assert [e.nr_pages for e in read(bad, mode=PageMode.SKIP) if isinstance(e, PageBatch)][2:] == [
        1
    ]
    with pytest.raises(RecordError, match=r"a whole page first"):
        read(bad, mode=PageMode.CHECK)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "pages: expected all that were announced before the round's end, got 1 missing"),
        (WHOLE + bytes(4095), "got 1 missing"),
        (WHOLE + bytes(4097), "pages: expected as many as were announced, got more bytes"),
        (SAME, "pfn 0x4: expected a whole page first, got a change of it"),
    ],
)
def test_wrong_data_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(RecordError, match=match):
        read(remus(o.batch(8, [(0, 4)]) + data_chunk(data)))


@pytest.mark.parametrize("bad", [b"\x7f" + bytes(508) + SAME, b"\xff" * 9, b"\x7f" + bytes(100)])
def test_runs_that_are_empty_too_long_or_cut_are_refused(bad: bytes) -> None:
    first = o.batch(8, [(0, 4)]) + data_chunk(WHOLE + b.page(4))
    with pytest.raises(RecordError, match=r"run of pfn 0x4|missing"):
        read(remus(first, o.batch(8, [(0, 4)]) + data_chunk(bad)))


def test_a_chunk_says_at_most_64_mib() -> None:
    data = remus(o.chunk(o.COMPRESSED_DATA, struct.pack("<Q", 1 << 40)))
    with pytest.raises(RecordError, match=r"size: expected at most 67108864 bytes"):
        read(data)


def test_no_more_is_remembered_than_the_saver_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently sent page goes first, and the saver sends it whole then."""
    monkeypatch.setattr(deltas, "CACHED_PAGES", 2)
    three = o.batch(8, [(0, 0), (0, 1), (0, 4)]) + data_chunk((WHOLE + b.page(1)) * 3)
    assert pages(remus(three, o.batch(8, [(0, 1), (0, 4)]) + data_chunk(SAME + SAME)))
    with pytest.raises(RecordError, match=r"pfn 0x0: expected a whole page first"):
        read(remus(three, o.batch(8, [(0, 0)]) + data_chunk(SAME)))
